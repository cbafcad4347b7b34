"""How a score moved while a model learned: each kept checkpoint of a run on the held-out images, with intervals.

gantk run dcgan_phantom --set train.keep=100 --out RUN
python benchmarks/learning.py RUN --metrics kid diversity --json benchmarks/results/dcgan-learning.json
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import date
from pathlib import Path

from gantk.machine.runtime import start
from gantk.runs import checkpoint
from gantk.runs.folder import RunFolder
from gantk.training.assemble import assemble, restore
from gantk.training.loop import inference_weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--metrics", nargs="+", default=["kid", "diversity"])
    parser.add_argument("--steps", type=int, nargs="+", help="only these checkpoints")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    folder = RunFolder.open(options.run)
    recipe = folder.recipe()
    recipe.tables.setdefault("evaluate", {})["metrics"] = options.metrics
    model = recipe.check()
    parts = assemble(model, start(None, model.train.precision, model.train.fast.channels_last))
    rows = []
    for step in checkpoint.steps_saved(folder.checkpoints):
        if options.steps and step not in options.steps:
            continue
        restore(parts, folder.checkpoints / f"step-{step:06d}")
        with inference_weights(parts.method, parts.engine):
            result = parts.scorer.test()
        rows.append(
            {"step": step, "metrics": result["metrics"]} | ({"baselines": result["baselines"]} if not rows else {})
        )
        for direction, scores in result["metrics"].items():
            cells = (f"{name} {s['value']:.3f} {s['ci95']}" for name, s in scores.items() if s["value"] is not None)
            print(f"step {step:6d}  {direction}  " + "   ".join(cells), flush=True)
    alarms = [line for line in folder.read_log() if "alarm" in line]
    print(f"{len(alarms)} alarms in the log")
    if options.json:
        environment = json.loads((folder.path / "environment.json").read_text())
        record = {
            "date": date.today().isoformat(),
            "command": " ".join(["python", *sys.argv]),
            "trained": environment["command"],
            "machine": {key: environment[key] for key in ("device", "cpu", "threads", "precision", "torch", "gantk")},
            "recipe": model.method.name,
            "steps": parts.engine.plan.steps,
            "rows": rows,
            "alarms": alarms,
        }
        Path(options.json).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
