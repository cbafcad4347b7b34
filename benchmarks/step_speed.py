"""Times a recipe's training step with and without the parts of the fast path, in one process and in
turns.

Fast is the default of a recipe; plain is `train.fast = false` in float32; `--each` also switches
one part of `train.fast` at a time. The batch is already on the device: reading and augmentation are
not timed.

    python benchmarks/step_speed.py [WHAT]... [--each] [--seconds 60] [--json FILE]
    # CycleGAN at published widths, minutes a case
    python benchmarks/step_speed.py 'cyclegan-*' --each --json FILE

WHAT is a case of peers/cases.py, a pattern of cases, a recipe, or RECIPE@PROFILE. Rows of FILE that
are measured again are replaced.
"""

import json
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from statistics import median

from peers.cases import CASES

from gantk.errors import GantkError
from gantk.machine.runtime import start
from gantk.recipe.load import Recipe, load_recipe
from gantk_bench.harness import (
    PLAIN,
    RecipeStep,
    parser,
    ratio,
    ratio_text,
    record,
    switches,
    table,
    take_turns,
    write,
)


def recipes(chosen: list[str]) -> Iterator[tuple[str, Recipe]]:
    """(name, recipe) of every case that matches a pattern; an argument that matches none is a
    recipe.
    """
    for name in chosen:
        cases = [case for case in CASES.values() if fnmatch(case.name, name) and not case.window]
        yield from ((case.name, load_recipe(case.tables())) for case in cases)
        if not cases:
            recipe, _, profile = name.partition("@")
            yield name, load_recipe(recipe).override([], profile or None)


def measure(name: str, recipe: Recipe, options) -> dict:
    """The row of one recipe: seconds per step of its default path, of the plain path and of the
    chosen switches.
    """
    ways = {"fast": (), "plain": PLAIN}
    ways |= switches(start(options.device).device) if options.each else {}
    steps = {
        label: RecipeStep.build(recipe, [*options.set, *own], options.device)
        for label, own in ways.items()
    }
    samples = take_turns({label: step.turn() for label, step in steps.items()}, options.seconds)
    for step in steps.values():
        step.engine.check_finite("")
    return {
        "name": name,
        "set": options.set,
        "batch": steps["fast"].model.train.batch,
        "seconds_per_step": samples,
        "ratio_to_fast": {
            label: ratio(found, samples["fast"])
            for label, found in samples.items()
            if label != "fast"
        },
        "notes": {label: step.notes for label, step in steps.items() if step.notes},
    }


def markdown(rows: list[dict]) -> str:
    """Markdown table: seconds of the fast step, and the other steps' times as multiples of it."""
    labels = list(dict.fromkeys(label for row in rows for label in row["ratio_to_fast"]))
    lines = []
    for row in rows:
        fast = f"{median(row['seconds_per_step']['fast']):.4f}"
        name = " ".join([f"`{row['name']}`", *row["set"]])
        lines.append(
            [name, fast, *(ratio_text(row["ratio_to_fast"].get(label)) for label in labels)]
        )
    return table(["recipe", "fast, s/step", *labels], lines)


def main(arguments: list[str] | None = None) -> int:
    """Measure every named recipe, write the rows and print them."""
    options = parser(__doc__, device=None, set=[], seconds=60.0)
    options.add_argument(
        "what",
        nargs="*",
        default=["dualgan_t1t2@plain"],
        metavar="WHAT",
        help="default: dualgan_t1t2@plain",
    )
    options.add_argument("--each", action="store_true", help="also switch one part at a time")
    options = options.parse_args(arguments)
    old = []
    if options.json and options.json.exists():
        old = json.loads(options.json.read_text("utf-8"))["rows"]
    rows: list[dict] = []
    try:
        for name, recipe in recipes(options.what):
            rows.append(measure(name, recipe, options))
            measured = {(row["name"], *row["set"]) for row in rows}
            kept = [row for row in old if (row["name"], *row["set"]) not in measured]
            write(options.json, record(start(options.device), rows=[*kept, *rows]))
    except GantkError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(markdown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
