"""The command line of this package."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import click

from gantk.errors import argument
from gantk.terminal import Command, device_option, layout_option, overwrite_option


@click.command(
    "plan",
    cls=Command,
    short_help="Look at your scans and write a recipe for them.",
    section="Start",
    place=2,
    examples=[
        "gantk plan SCANS --hours 2",
        "gantk plan SCANS --methods cyclegan,pix2pix   # a recipe of each, and how to compare",
    ],
)
@click.argument("scans")
@click.option(
    "--hours",
    type=click.FloatRange(0.01, 10_000),
    default=2.0,
    help="Hours that a run may take on this machine, as busy as now; 0.2 are 12 minutes. Default: 2.",
)
@click.option(
    "--to",
    metavar="DOMAIN",
    help="Domain or contrast to make (T2). Default: both, each of the other.",
)
@click.option(
    "--out",
    metavar="FILE",
    default="recipe.toml",
    help="Recipe file to write. Default: recipe.toml.",
)
@click.option(
    "--set",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set a key of the recipe yourself, such as data.spacing=...",
)
@click.option(
    "--methods",
    metavar="LIST",
    help="Write a recipe for each of these, to compare: cyclegan,pix2pix.",
)
@layout_option
@overwrite_option
@device_option
def plan_command(scans, out, methods, overwrite, **options) -> None:
    """Inspect SCANS and write a recipe that trains well on them in the given time.

    SCANS is a folder, a DICOM tree or a CSV table. The scans decide the method and its data: which
    kinds of image there are, whether they form pairs that fit, patients, voxel sizes and
    intensities. Timed training steps on this machine decide the image size and the number of
    steps. A comment on each line of the recipe gives the reason. Then run: gantk run recipe.toml
    """
    from gantk.files import expect_file, write_output
    from gantk.planning.recipe import plan_methods
    from gantk.terminal import say, split_names

    target = Path(out)
    names = split_names(methods) or [""]
    targets = [target]
    if methods:
        targets = [target.with_name(f"{target.stem}-{name}{target.suffix}") for name in names]
    for each in targets:
        expect_file(each, "--out", overwrite=overwrite)
    texts, folds = plan_methods(scans, names, **options, folder=target.absolute().parent)
    verb = "replaced" if any(each.exists() for each in targets) else "written"
    for each, text in zip(targets, texts, strict=True):
        write_output(each, text.encode())
    heads = (text.split("\n\n")[0].replace("\n#   ", " ").splitlines()[1:] for text in texts)
    for line in dict.fromkeys(chain.from_iterable(heads)):
        say(line.removeprefix("# "))

    say(f"{verb:<9}{' and '.join(map(str, targets))}, with a reason on each line")
    _say_runs(targets, bool(methods), folds, options["hours"])


def _say_runs(recipes: Sequence[Path], are_compared: bool, folds: int, hours: float) -> None:
    """Say how recipes are run, of methods that were asked for or of the one that was chosen, on each
    fold, and how the runs are compared.
    """
    from gantk.data.test_size import folds_command
    from gantk.terminal import duration, say, say_next

    runs = [argument(f"runs/{each.stem}") for each in recipes]
    if not are_compared:
        say_next(f"gantk run {argument(recipes[0])}")
    if folds:
        trainings = folds * len(recipes)
        total = duration(3600 * hours * trainings)
        say(
            f"folds    to test each of so few patients once, train {trainings} times ({total} in all):"
        )
    commands = [
        folds_command(argument(each), run, folds)
        if folds
        else f"gantk run {argument(each)} --out {run}"
        for each, run in zip(recipes, runs, strict=True)
    ]
    end = "_fold*" if folds else ""
    commands.append(" ".join(["gantk report", *(run + end for run in runs)]))
    if are_compared:
        for command in commands:
            say_next(command)
    elif folds:
        say_next("; ".join(commands), label="or")
