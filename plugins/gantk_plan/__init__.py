"""`gantk plan` as a gantk plugin: writes a recipe for given scans, with the reason for every
choice.
"""

from pathlib import Path

import click

from gantk.errors import UserError, argument
from gantk.plugin.hookspecs import hookimpl


@click.command("plan")
@click.argument("scans")
@click.option(
    "--hours",
    type=click.FloatRange(0.01, 10_000),
    default=2.0,
    help="How long it may train. Default: 2.",
)
@click.option(
    "--out", metavar="FILE", default="recipe.toml", help="Where to write it. Default: recipe.toml."
)
@click.option(
    "--a",
    metavar="GLOB",
    default="",
    help="Folder, glob or word of the first kind's names: T1, p07/T1_*.",
)
@click.option(
    "--b",
    metavar="GLOB",
    default="",
    help="The same of the second kind; --a alone: images from noise.",
)
@click.option(
    "--set",
    multiple=True,
    metavar="KEY=VALUE",
    help="Decide a key yourself: data.source.patient=...",
)
@click.option("--device", metavar="D", help="cpu, cuda, cuda:1, mps. Default: the best there is.")
def plan_command(scans, out, **options) -> None:
    """Look at SCANS and write a recipe that trains well on them, in the time there is.

    SCANS is a folder, a DICOM tree or a CSV. The source, kinds of image, pairs and whether these
    fit each other, patients, spacing, size and intensities decide the method and its data; three
    real steps on this machine decide how large and how long. Each line of the recipe says what was
    seen and why. Then: gantk run recipe.toml
    """
    from gantk.files import expect_file, write_file
    from gantk.terminal import progress_bar, say
    from gantk_plan.recipe import plan

    target = Path(out)
    if target.exists():
        raise UserError(f"'{out}' exists already", where="--out", remedy="name another file")
    expect_file(target, "--out")
    with progress_bar() as progress:
        text = plan(scans, **options, progress=progress)
    write_file(target, text.encode())
    for line in text.split("\n\n")[0].splitlines()[1:]:
        say(line.removeprefix("# "))
    say(f"written  {out}: read it, change it, then gantk run {argument(out)}")


@hookimpl
def gantk_commands(cli) -> None:
    """Attach `gantk plan SCANS`."""
    cli.add_command(plan_command)


@hookimpl
def gantk_data(data) -> str | None:
    """A warning where pairs are no more alike than images of different patients: only their names
    may be equal.
    """
    pairs = [
        pair
        for split in data.splits
        for pair in data.pairs(split)
        if pair["a"].path and pair["b"].path
    ]
    if len(data.letters) < 2 or not pairs:
        return None
    from gantk_plan.pixels import ALIKE, likeness_of

    likeness = likeness_of(pairs)
    if likeness is None or likeness >= ALIKE:
        return None
    first, used = (
        pairs[0],
        "this method learns from them" if data.paired else "scores are computed from them",
    )
    what = (
        f"pairs may be of different patients, or lie far from each other, and {used}: only in"
        f" {likeness:.0%} of "
    )
    what += "comparisons an image fits its partner better than another's (chance is 50 %). "
    ways = "--set data.source.pairs=none, or =FILE for a CSV of pairs" * (
        "pairs" in data.table.source.options
    )
    ways = ", ".join(filter(None, ["dualgan or another unpaired method" * data.paired, ways]))
    what += f"The first: '{first['a'].key}' and '{first['b'].key}'"
    return f"{what}. If they are no pairs: {ways or 'correct them'}"
