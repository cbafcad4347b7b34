"""How much the fast path is worth: one recipe's training step, fast and plain, in one process, taking turns.

Fast is what a recipe gets by default. Plain is all of `peers.switches.OFF` turned off; `--each` also turns off one
thing at a time, and turns on what is off by default. A step has its data, augmentation and all phases in it.

    python benchmarks/step_speed.py [WHAT]... [--each] [--seconds 60] [--set KEY=VALUE]... [--json FILE] [--table]
    python benchmarks/step_speed.py 'cyclegan-*' --each --json FILE     # CycleGAN at published widths: minutes a case
    python benchmarks/step_speed.py --table --json FILE                 # a file's rows as Markdown; nothing is measured

WHAT is a case of peers/cases.py, a pattern of them, or a recipe. Rows of the file that are measured again are replaced.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from datetime import date
from fnmatch import fnmatch
from pathlib import Path
from statistics import median
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))

from peers import switches
from peers.cases import CASES
from peers.speed import ratio, take_turns

from gantk.errors import GantkError
from gantk.files import write_file
from gantk.machine.runtime import describe, start
from gantk.recipe.load import Recipe, load_recipe
from gantk.training.accelerate.cuda_graph import WARM_UP
from gantk.training.assemble import assemble
from gantk.training.loop import Training

DEFAULT = "dualgan_t1t2"


class Way:
    """One way of running a recipe's step, with a place in the turns."""

    digest = ""  # batches come from the recipe's seed, the same for all

    def __init__(self, recipe: Recipe, settings: tuple[str, ...], device: str | None = None):
        model = recipe.override([*settings, "train.steps=1000000"]).check()
        self.parts = assemble(model, start(device, model.train.precision, model.train.fast.channels_last))
        self.training = Training(self.parts, run=None)
        self.stage = self.parts.method.stages(1_000_000)[0]
        cpu = self.parts.runtime.device.type == "cpu"
        self.keep = cpu and model.train.fast.keep_memory
        self._settling = 0 if cpu else WARM_UP + 1

    def settle(self) -> None:
        """Untimed steps: what a GPU needs before its step is recorded, and one where memory is handled otherwise."""
        steps, self._settling = max(int(switches.enter(self.keep)), self._settling), 0
        self._steps(steps)

    def take(self, steps: int = 1) -> float:
        """Seconds per step over `steps` steps, synchronised on both sides."""
        switches.enter(self.keep)
        runtime = self.parts.runtime
        runtime.synchronize()
        began = time.perf_counter()
        self._steps(steps)
        runtime.synchronize()
        return (time.perf_counter() - began) / steps

    def close(self) -> None:
        """Stop reading ahead; GantkError where a loss is no number any more."""
        self.parts.batches.close()
        self.parts.engine.check_finite("")

    def _steps(self, count: int) -> None:
        engine = self.parts.engine
        for _ in range(count):
            self.parts.runtime.seed(0, engine.step)
            engine.train_step(self.training.batch_at(engine.step, self.stage))
            engine.step += 1


def recipes(chosen: list[str]) -> Iterator[tuple[str, Recipe]]:
    """(name, recipe) of every case that fits, and of every recipe that is named."""
    for what in chosen:
        found = [case for name, case in CASES.items() if fnmatch(name, what) and case.kind == "speed"]
        found = [case for case in found if not case.window]  # its step is a translation
        yield from ((case.name, load_recipe(case.tables())) for case in found)
        if not found:
            yield what, load_recipe(what)


def measure(name: str, recipe: Recipe, options: argparse.Namespace) -> dict[str, Any]:
    """All ways of one recipe, taking turns: a row."""
    recipe = recipe.override(options.set)
    ways = {"fast": Way(recipe, (), options.device), "plain": Way(recipe, switches.PLAIN, options.device)}
    runtime = ways["fast"].parts.runtime
    for label, settings in switches.one_by_one(runtime.device).items() if options.each else ():
        if options.only and not any(fnmatch(label, only) for only in options.only):
            continue
        ways[label] = Way(recipe, settings, options.device)
    samples = take_turns(ways, options.seconds)
    for way in ways.values():
        way.close()
    return {
        "name": name,
        "set": options.set,
        "date": date.today().isoformat(),
        "machine": describe(runtime),
        "batch": ways["fast"].parts.model.train.batch,
        "seconds_per_step": samples,
        "ratio_to_fast": {label: ratio(found, samples["fast"]) for label, found in samples.items() if label != "fast"},
        "notes": {label: list(way.parts.engine.notes) for label, way in ways.items() if way.parts.engine.notes},
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as Markdown: seconds of the fast step, and how many times as long the others take."""
    labels = list(dict.fromkeys(label for row in rows for label in row["ratio_to_fast"]))
    lines = [["recipe", "fast, s/step", *labels], ["---"] * (len(labels) + 2)]
    for row in rows:
        cells = []
        for label in labels:
            found = row["ratio_to_fast"].get(label)
            low, high = found["ci95"] if found else (0, 0)
            cells.append(f"{found['median']:.2f} [{low:.2f}, {high:.2f}]" if found else "")
        name = " ".join([f"`{row['name']}`", *row["set"]])
        lines.append([name, f"{median(row['seconds_per_step']['fast']):.4f}", *cells])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def joined(before: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows measured again in the place of the old ones."""
    again = {(row["name"], *row["set"]) for row in new}
    return [row for row in before if (row["name"], *row["set"]) not in again] + new


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", metavar="WHAT", help=f"default: {DEFAULT}")
    parser.add_argument("--seconds", type=float, default=60.0, help="of timed steps for each recipe; default 60")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--each", action="store_true", help="also switch one thing at a time")
    parser.add_argument("--only", action="append", default=[], metavar="PATTERN", help="of --each, such as '*bf16'")
    parser.add_argument("--device", help="cpu, cuda, cuda:1; default: the best there is")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--table", action="store_true", help="print the rows as Markdown")
    options = parser.parse_args(arguments)

    file = Path(options.json) if options.json else None
    before = json.loads(file.read_text("utf-8")).get("rows", []) if file and file.exists() else []
    rows: list[dict[str, Any]] = []
    try:
        for name, recipe in recipes(options.what or ([] if options.table and before else [DEFAULT])):
            rows.append(measure(name, recipe, options))
            for label, found in rows[-1]["seconds_per_step"].items():
                times = rows[-1]["ratio_to_fast"].get(label)
                beside = "{median:.2f}x fast [{ci95[0]:.2f}, {ci95[1]:.2f}]".format(**times) if times else ""
                print(f"{name:<24} {label:<26} {median(found):.4f} s/step   {beside}", flush=True)
            if file:
                content = {"command": "python benchmarks/step_speed.py", "rows": joined(before, rows)}
                write_file(file, (json.dumps(content, indent=1) + "\n").encode())
    except GantkError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if options.table:
        print(table(joined(before, rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
