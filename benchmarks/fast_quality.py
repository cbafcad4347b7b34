"""Whether the fast path costs quality: a small recipe trained on the fast and on the plain path, several seeds each.

Every training is scored on the same held-out pairs of the phantom. A metric is within the spread where both hold:

    the difference of the means is no more than the standard deviation of the plain path's seeds, and
    its 95 % interval (Welch's t, seeds as samples) has 0 in it

    python benchmarks/fast_quality.py [RECIPE] [--seeds 5] [--set KEY=VALUE]... [--out DIR] [--json FILE]

The trainings are two runs of `gantk bench` in DIR; those that are there already are not done again.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from harness import PLAIN, parser, record, table, write
from scipy import stats

from gantk.errors import GantkError
from gantk.machine.runtime import start
from gantk_bench import bench
from gantk_bench.systems import Line, systems

WAYS = {"plain": PLAIN, "fast": ()}
SMALL = (  # about 40 s on two cores on the plain path
    "data.size=[64, 64]",
    "data.source.subjects=30",
    "train.steps=350",
    "train.save_every=350",
    "train.sample_every=350",
    'evaluate.metrics=["psnr", "ssim", "kid"]',
)


def summarise(ways: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Rows of each way -> `compare` for every direction and metric that both have for two seeds at least."""
    found = []
    (plain,), (fast,) = (systems(rows) for rows in ways.values())
    for line in plain.lines:
        other = Line(fast, line.direction)
        for metric in line.metrics:
            values = [figure.values for figure in (line.figure(metric), other.figure(metric)) if figure]
            if len(values) == 2 and min(map(len, values)) > 1:
                found.append({"direction": line.direction, "metric": metric} | compare(*values))
    return found


def compare(plain: tuple[float, ...], fast: tuple[float, ...]) -> dict[str, Any]:
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


def main(arguments: list[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("recipe", nargs="?", default="dualgan_t1t2")
    options.add_argument("--seeds", type=int, default=5, help="trainings on each path; default 5")
    options.add_argument("--out", type=Path, default=Path("runs/fast-quality"), help="default runs/fast-quality")
    options = options.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    suite, rows = options.out / "as-it-is.toml", {}
    suite.write_text("jobs = 1\n")
    try:
        for way, own in WAYS.items():
            about = {"suite": suite, "seeds": options.seeds, "out": options.out / way, "resume": True}
            settings = [*SMALL, *options.set, *own]
            rows[way] = bench([options.recipe], set=settings, device=options.device, **about).rows
        summary = summarise(rows)
    except GantkError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    write(options.json, record(start(options.device), summary=summary, runs=rows))
    heads = ["direction", "metric", "plain: mean (sd)", "fast: mean (sd)", "difference [95 %]", "in sd", "within"]
    lines = []
    for row in summary:
        ways = [f"{row[way]['mean']:.4g} ({row[way]['sd']:.2g})" for way in WAYS]
        apart = f"{row['difference']:+.3g} [{row['ci95'][0]:+.3g}, {row['ci95'][1]:+.3g}]"
        within = "yes" if row["within"] else "NO"
        lines.append([row["direction"], row["metric"], *ways, apart, f"{row['in_sd']:.2f}", within])
    print(table(heads, lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
