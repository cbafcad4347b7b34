"""Whether the fast path costs quality: a small recipe trained on the fast and on the plain path, several seeds each.

Every training is scored on the same held-out pairs of the phantom. A metric is within the spread where both hold:

    the difference of the means is no more than the standard deviation of the plain path's seeds, and
    its 95 % interval (Welch's t, seeds as samples) has 0 in it

    python benchmarks/fast_quality.py [RECIPE] [--seeds 5] [--set KEY=VALUE]... --json FILE

Trainings that FILE holds already are not done again, so that a run that was stopped goes on.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from harness import PLAIN, keep_memory, parser, record, table, write
from scipy import stats

import gantk
from gantk.errors import GantkError
from gantk.machine.runtime import start

WAYS = {"plain": PLAIN, "fast": ()}
SMALL = (  # about 40 s on two cores on the plain path
    "data.size=[64, 64]",
    "data.source.subjects=30",
    "train.steps=350",
    "train.save_every=350",
    "train.sample_every=350",
    'evaluate.metrics=["psnr", "ssim", "kid"]',
)


def train(recipe: str, settings: list[str], way: str, seed: int, device: str | None) -> dict[str, Any]:
    """One training, scored: a row. Its run folder goes again."""
    own = [*settings, *WAYS[way], f"train.seed={seed}"]
    with tempfile.TemporaryDirectory() as place:
        run = gantk.run(recipe, set=own, out=Path(place) / "run", device=device, say=lambda line: None)
        found = json.loads((run.path / "metrics.json").read_text("utf-8"))
    scores = {
        direction: {name: score["value"] for name, score in metrics.items() if score["value"] is not None}
        for direction, metrics in found["metrics"].items()
    }
    about = {"recipe": recipe, "set": settings, "way": way, "seed": seed, "seconds": found["speed"]["seconds"]}
    return about | {"scores": scores}


def summarise(rows: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """direction -> metric -> `compare`, where both ways have it for two seeds at least."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for direction, name in {(d, n): None for row in rows for d, names in row["scores"].items() for n in names}:
        values = {way: [] for way in WAYS}
        for row in rows:
            if name in row["scores"].get(direction, {}):
                values[row["way"]].append(row["scores"][direction][name])
        if min(map(len, values.values())) > 1:
            found.setdefault(direction, {})[name] = compare(values["plain"], values["fast"])
    return found


def compare(plain: list[float], fast: list[float]) -> dict[str, Any]:
    """The difference of the means, its Welch interval (unequal variances), and whether it lies within the spread."""
    difference, spread = mean(fast) - mean(plain), stdev(plain)
    low = high = difference
    if spread or stdev(fast):
        low, high = map(float, stats.ttest_ind(fast, plain, equal_var=False).confidence_interval(0.95))
    return {
        "plain": {"mean": mean(plain), "sd": spread, "n": len(plain)},
        "fast": {"mean": mean(fast), "sd": stdev(fast), "n": len(fast)},
        "difference": difference,
        "ci95": [low, high],
        "in_sd": abs(difference) / spread if spread else math.inf,
        "within": abs(difference) <= spread and low <= 0 <= high,
    }


def markdown(summary: dict[str, dict[str, dict[str, Any]]]) -> str:
    heads = [
        "direction",
        "metric",
        "plain: mean (sd)",
        "fast: mean (sd)",
        "difference [95 %]",
        "in sd of plain",
        "within",
    ]
    lines = []
    for direction, metrics in summary.items():
        for name, row in metrics.items():
            ways = [f"{row[way]['mean']:.4g} ({row[way]['sd']:.2g})" for way in WAYS]
            apart = f"{row['difference']:+.3g} [{row['ci95'][0]:+.3g}, {row['ci95'][1]:+.3g}]"
            lines.append([direction, name, *ways, apart, f"{row['in_sd']:.2f}", "yes" if row["within"] else "NO"])
    return table(heads, lines)


def main(arguments: list[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("recipe", nargs="?", default="dualgan_t1t2")
    options.add_argument("--seeds", type=int, default=5, help="trainings on each path; default 5")
    options = options.parse_args(arguments)
    settings = [*SMALL, *options.set]
    rows = json.loads(options.json.read_text("utf-8"))["runs"] if options.json and options.json.exists() else []

    def own() -> list[dict[str, Any]]:
        return [row for row in rows if (row["recipe"], row["set"]) == (options.recipe, settings)]

    for seed in range(options.seeds):
        for way in list(WAYS) if seed % 2 == 0 else reversed(WAYS):
            if (way, seed) in {(row["way"], row["seed"]) for row in own()}:
                continue
            keep_memory(way != "plain")
            try:
                rows.append(train(options.recipe, settings, way, seed, options.device))
            except GantkError as error:
                print(f"error: {error}", file=sys.stderr)
                return error.exit_code
            print(f"seed {seed}  {way:<6} {rows[-1]['seconds']:6.1f} s of training", flush=True)
            write(options.json, record(start(options.device), runs=rows))
    summary = summarise(own())
    print(markdown(summary))
    outside = [f"{name} {to}" for to, found in summary.items() for name in found if not found[name]["within"]]
    print(f"outside the spread: {', '.join(outside)}" if outside else "all within the spread of the plain path's seeds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
