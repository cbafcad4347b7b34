"""Whether the fast path costs quality: a small recipe trained on the fast and on the plain path, several seeds each.

Fast is what a recipe gets by default, plain all of `peers.switches.OFF` turned off: fp32, one pass for each input,
contiguous memory, torch's own kernels. Every training is scored on the same held-out pairs of the phantom by PSNR, SSIM
and KID (random features) in both directions. A metric is within the spread where both hold:

    the difference of the means is no more than the standard deviation of the plain path's seeds, and
    its 95 % interval (Welch's t, seeds as samples) has 0 in it

    python benchmarks/fast_quality.py [RECIPE] [--seeds 5] [--set KEY=VALUE]... --json FILE [--table]

Trainings that FILE holds already are not done again, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from datetime import date
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from scipy import stats

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))

from peers.switches import PLAIN, enter

import gantk
from gantk.errors import GantkError
from gantk.files import write_file

WAYS = {"plain": PLAIN, "fast": ()}
SMALL = (  # about 40 s on two cores on the plain path
    "data.size=[64, 64]",
    "data.source.subjects=30",
    "train.steps=350",
    "train.save_every=350",
    "train.sample_every=350",
    'evaluate.metrics=["psnr", "ssim", "kid"]',
)
ENVIRONMENT = ("device", "cpu", "threads", "torch", "gantk")


def train(recipe: str, settings: list[str], way: str, seed: int, device: str | None) -> dict[str, Any]:
    """One training, scored: a row. Its run folder goes again."""
    own = [*settings, *WAYS[way], f"train.seed={seed}"]
    with tempfile.TemporaryDirectory() as place:
        run = gantk.run(recipe, set=own, out=Path(place) / "run", device=device, say=lambda line: None)
        found = json.loads((run.path / "metrics.json").read_text("utf-8"))
        environment = json.loads((run.path / "environment.json").read_text("utf-8"))
    scores = {
        direction: {name: score["value"] for name, score in metrics.items() if score["value"] is not None}
        for direction, metrics in found["metrics"].items()
    }
    about = {"recipe": recipe, "set": settings, "way": way, "seed": seed, "date": date.today().isoformat()}
    machine = {key: environment.get(key) for key in ENVIRONMENT} | {"precision": environment["precision"]}
    return about | {"seconds": found["speed"]["seconds"], "machine": machine, "scores": scores}


def summarise(rows: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """direction -> metric -> means, spreads, difference (fast - plain) with its interval, verdict.

    Metrics that a run could not compute, or with fewer than two seeds of either way, are left out.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for direction, names in rows[0]["scores"].items() if rows else ():
        for name in names:
            values = {
                way: [row["scores"][direction][name] for row in rows
                      if row["way"] == way and name in row["scores"].get(direction, {})]
                for way in WAYS
            }  # fmt: skip
            if min(map(len, values.values())) > 1:
                found.setdefault(direction, {})[name] = compare(values["plain"], values["fast"])
    return found


def compare(plain: list[float], fast: list[float]) -> dict[str, Any]:
    """The difference of the means, its Welch interval, and whether it lies within the plain seeds' spread."""
    difference, spread = mean(fast) - mean(plain), stdev(plain)
    low, high = welch(plain, fast)
    return {
        "plain": {"mean": mean(plain), "sd": spread, "n": len(plain)},
        "fast": {"mean": mean(fast), "sd": stdev(fast), "n": len(fast)},
        "difference": difference,
        "ci95": [low, high],
        "in_sd": abs(difference) / spread if spread else math.inf,
        "within": abs(difference) <= spread and low <= 0 <= high,
    }


def welch(plain: list[float], fast: list[float], level: float = 0.95) -> tuple[float, float]:
    """Interval of mean(fast) - mean(plain) with unequal variances (Welch 1947)."""
    parts = [stdev(values) ** 2 / len(values) for values in (fast, plain)]
    error = math.sqrt(sum(parts))
    if error == 0:
        return mean(fast) - mean(plain), mean(fast) - mean(plain)
    freedom = sum(parts) ** 2 / sum(p**2 / (len(v) - 1) for p, v in zip(parts, (fast, plain), strict=True))
    reach = float(stats.t.ppf(0.5 + level / 2, freedom)) * error
    return mean(fast) - mean(plain) - reach, mean(fast) - mean(plain) + reach


def table(summary: dict[str, dict[str, dict[str, Any]]]) -> str:
    """The summary as Markdown."""
    head = "| direction | metric | plain: mean (sd) | fast: mean (sd) | difference [95 %] | in sd of plain | within |"
    lines = [head, "|" + " --- |" * 7]
    for direction, metrics in summary.items():
        for name, row in metrics.items():
            ways = [f"{row[way]['mean']:.4g} ({row[way]['sd']:.2g})" for way in WAYS]
            apart = f"{row['difference']:+.3g} [{row['ci95'][0]:+.3g}, {row['ci95'][1]:+.3g}]"
            cells = [direction, name, *ways, apart, f"{row['in_sd']:.2f}", "yes" if row["within"] else "NO"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="dualgan_t1t2")
    parser.add_argument("--seeds", type=int, default=5, help="trainings on each path; default 5")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="over the small settings")
    parser.add_argument("--device", help="cpu, cuda, cuda:1; default: the best there is")
    parser.add_argument("--json", required=True, metavar="FILE", help="all scores; what it holds is not done again")
    parser.add_argument("--table", action="store_true", help="print the summary as Markdown")
    options = parser.parse_args(arguments)

    file, settings = Path(options.json), [*SMALL, *options.set]
    rows = json.loads(file.read_text("utf-8"))["runs"] if file.exists() else []
    done = {(row["recipe"], *row["set"], row["way"], row["seed"]) for row in rows}
    for seed in range(options.seeds):
        for way in list(WAYS) if seed % 2 == 0 else reversed(WAYS):
            if (options.recipe, *settings, way, seed) in done:
                continue
            enter(way != "plain")
            try:
                rows.append(train(options.recipe, settings, way, seed, options.device))
            except GantkError as error:
                print(f"error: {error}", file=sys.stderr)
                return error.exit_code
            print(f"seed {seed}  {way:<6} {rows[-1]['seconds']:6.1f} s of training", flush=True)
            write(file, rows)
    write(file, rows)
    summary = summaries(rows)[named(options.recipe, settings)]
    if options.table:
        print(table(summary))
    outside = [f"{name} {direction}" for direction, found in summary.items() for name in found
               if not found[name]["within"]]  # fmt: skip
    print(f"outside the spread: {', '.join(outside)}" if outside else "all within the spread of the plain path's seeds")
    return 0


def named(recipe: str, settings: list[str]) -> str:
    """What was trained, for a reader: the recipe, and what differs from the small settings."""
    return " ".join([recipe, *(each for each in settings if each not in SMALL)])


def summaries(rows: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """What `summarise` finds of each recipe and its settings."""
    parts: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        parts.setdefault(named(row["recipe"], row["set"]), []).append(row)
    return {name: summarise(part) for name, part in parts.items()}


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    """All trainings, and what follows from them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"command": "python benchmarks/fast_quality.py", "summary": summaries(rows), "runs": rows}
    write_file(file, (json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    sys.exit(main())
