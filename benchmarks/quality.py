"""Quality of a recipe over several seeds: trains, scores on held-out images, writes mean, spread and every score.

    python benchmarks/quality.py dualgan_t1t2 --seeds 0 1 2 --json benchmarks/results/quality-phantom.json
    python benchmarks/quality.py dualgan_t1t2 --data FOLDER --set data.split.validation=0.0 --json FILE
    python benchmarks/quality.py dualgan_t1t2 --paired          # the ceiling: a Pix2Pix on the true pairs, same data

The split stays the same for all seeds. --plain sets local_ncc, flat_region, defense and low_res_warmup to 0:
the published method.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import date
from pathlib import Path

import numpy as np

import gantk

PLAIN = ("method.local_ncc=0.0", "method.flat_region=0.0", "method.defense=0.0", "method.low_res_warmup=0.0")


def settings_of(options: argparse.Namespace, seed: int) -> dict:
    """The recipe's tables for one seed."""
    tables = gantk.load_recipe(options.recipe).override([*options.set, *(PLAIN if options.plain else ())]).tables
    if options.paired:
        networks = {key: tables["method"][key] for key in ("generator", "discriminator") if key in tables["method"]}
        tables["method"] = {"name": "pix2pix", "both": True, "adversarial": "ls"} | networks
    return tables | {"train": tables["train"] | {"seed": seed}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", metavar="PATH")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--paired", action="store_true", help="train the paired ceiling instead of the recipe's method")
    parser.add_argument("--plain", action="store_true", help="the published method without what gantk adds")
    parser.add_argument("--out", default="runs", help="where the run folders go")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()

    rows = []
    for seed in options.seeds:
        kind = "paired" if options.paired else "plain" if options.plain else "run"
        data = Path(options.data).name if options.data else "own"
        out = Path(options.out) / f"quality-{options.recipe}-{data}-{kind}-{seed}"
        run = gantk.run(settings_of(options, seed), data=options.data, out=out)
        rows.append({"seed": seed} | json.loads((run.path / "metrics.json").read_text()))
        environment = json.loads((run.path / "environment.json").read_text())
    record = {
        "date": date.today().isoformat(),
        "command": " ".join(["python", *sys.argv]),
        "machine": {key: environment[key] for key in ("device", "cpu", "threads", "precision", "torch", "gantk")},
        "summary": summarise(rows),
        "runs": rows,
    }
    print(json.dumps(record["summary"], indent=1))
    if options.json:
        Path(options.json).parent.mkdir(parents=True, exist_ok=True)
        Path(options.json).write_text(json.dumps(record, indent=1) + "\n")


def summarise(rows: list[dict]) -> dict:
    """direction -> metric -> mean, lowest, highest over seeds, and the baselines' values."""
    found: dict = {"seconds": [row["speed"]["seconds"] for row in rows]}
    for direction, metrics in rows[0]["metrics"].items():
        found[direction] = {}
        for name in metrics:
            values = [row["metrics"][direction][name]["value"] for row in rows]
            baselines = {key: row[direction][name]["value"] for key, row in rows[0]["baselines"].items()}
            found[direction][name] = {
                "mean": float(np.mean(values)),
                "lowest": min(values),
                "highest": max(values),
                "baselines": baselines,
            }
    return found


if __name__ == "__main__":
    main()
