"""How much the fast path is worth: the same recipe's training step, fast and plain, in one process, taking turns.

Fast is what a recipe gets by default: bf16 where the device is good at it, one pass where a network has several inputs,
channels-last memory. Plain is train.precision = "fp32", train.batched = false, train.channels_last = false.

    python benchmarks/step_speed.py [RECIPE] [--rounds 12] [--steps 4] [--set KEY=VALUE]... [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import date
from pathlib import Path

import numpy as np

from gantk.recipe import load_recipe
from gantk.runtime import describe, start
from gantk.training import Training, assemble

PLAIN = ('train.precision="fp32"', "train.batched=false", "train.channels_last=false")
ONE_BY_ONE = {"bf16": PLAIN[:1], "one pass": PLAIN[1:2], "channels-last": PLAIN[2:]}


class Way:
    """One way of running the recipe's step."""

    def __init__(self, recipe: str, settings: list[str]):
        model = load_recipe(recipe).override(settings).check()
        self.parts = assemble(model, start(None, model.train.precision, model.train.channels_last))
        self.training = Training(self.parts, run=None)
        self.stage = self.parts.method.stages(1)[0]
        self.samples: list[float] = []  # seconds per step

    def run(self, steps: int) -> float:
        """Seconds per step over `steps` steps, data and augmentation included, synchronised on both sides."""
        engine, runtime = self.parts.engine, self.parts.runtime
        runtime.synchronize()
        began = time.perf_counter()
        for _ in range(steps):
            runtime.seed(0, engine.step)
            engine.train_step(self.training._batch_at(engine.step, self.stage))
            engine.step += 1
        runtime.synchronize()
        return (time.perf_counter() - began) / steps


def measure(paths: dict[str, Way], rounds: int, steps: int) -> None:
    """Warm up, then every path in turn, the order reversed every other round."""
    for path in paths.values():
        path.run(2)
    for turn in range(rounds):
        names = list(paths) if turn % 2 == 0 else list(reversed(paths))
        for name in names:
            paths[name].samples.append(paths[name].run(steps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="dualgan_t1t2")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=4, help="steps per round and path")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--each", action="store_true", help="also switch off one thing at a time")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()

    ways = {"fast": (), "plain": PLAIN} | ({f"without {k}": v for k, v in ONE_BY_ONE.items()} if options.each else {})
    paths = {name: Way(options.recipe, [*options.set, *settings]) for name, settings in ways.items()}
    measure(paths, options.rounds, options.steps)
    fast = np.array(paths["fast"].samples)
    record = {
        "date": date.today().isoformat(),
        "recipe": options.recipe,
        "set": options.set,
        "machine": describe(paths["fast"].parts.runtime),
        "steps_per_round": options.steps,
        "seconds_per_step": {name: path.samples for name, path in paths.items()},
        "ratio_to_fast": {},
    }
    for name, path in paths.items():
        ratios = np.array(path.samples) / fast
        low, middle, high = np.percentile(ratios, [2.5, 50, 97.5])
        record["ratio_to_fast"][name] = {"median": middle, "from": low, "to": high}
        print(f"{name:<24} {np.median(path.samples):.4f} s/step   {middle:.2f}x fast [{low:.2f}, {high:.2f}]")
    if options.json:
        Path(options.json).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
