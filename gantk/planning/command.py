"""The command line of this package."""

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
    examples=["gantk plan SCANS --hours 2", "gantk run recipe.toml"],
)
@click.argument("scans")
@click.option(
    "--hours",
    type=click.FloatRange(0.01, 10_000),
    default=2.0,
    help="Hours that the training may take on this machine. Default: 2.",
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
@layout_option
@overwrite_option
@device_option
def plan_command(scans, out, overwrite, **options) -> None:
    """Inspect SCANS and write a recipe that trains well on them in the given time.

    SCANS is a folder, a DICOM tree or a CSV table. The scans decide the method and its data: which
    kinds of image there are, whether they form pairs that fit, patients, voxel sizes and
    intensities. Three training steps on this machine decide the image size and the number of
    steps. A comment on each line of the recipe gives the reason. Then run: gantk run recipe.toml
    """
    from gantk.files import expect_file, write_output
    from gantk.planning.recipe import plan
    from gantk.terminal import say

    target = Path(out)
    expect_file(target, "--out", overwrite=overwrite)
    text = plan(scans, **options)
    write_output(target, text.encode())
    for line in text.split("\n\n")[0].splitlines()[1:]:
        say(line.removeprefix("# "))

    say(f"written  {out}, with a reason on each line")
    say(f"next     gantk run {argument(out)}")
