"""`gantk explain`: the command line of `gantk.explain`. torch and captum are imported only when the
command runs.
"""

from __future__ import annotations

import click

from gantk.terminal import Command, device_option, overwrite_option


@click.command(
    "explain",
    cls=Command,
    short_help="Show which pixels of the input shaped the output.",
    section="Judge",
    place=5,
    examples=[
        "gantk explain runs/first head.png why --region 60:90,40:70",
        "gantk explain runs/first t1.nii.gz why --slice 80",
    ],
)
@click.argument("run")
@click.argument("image")
@click.argument("out")
@click.option(
    "--to",
    metavar="DOMAIN",
    help="Name of the target domain. Default: the recipe's second domain.",
)
@click.option(
    "--label",
    metavar="CLASS",
    help="Class of the image, such as tumour, for a run that was trained with classes.",
)
@click.option(
    "--region",
    default="",
    metavar="X0:X1,Y0:Y1",
    help="Explain these columns and rows of the output. Default: the whole output.",
)
@click.option(
    "--slice",
    type=int,
    metavar="K",
    help="Slice of a volume, counted from 0. Default: the middle slice.",
)
@overwrite_option
@device_option
def command(run, image, out, **options) -> None:
    """Show which pixels of IMAGE influence a region of its translation by RUN.

    OUT.png shows the input, its translation with the outline of the region, and a map. Red pixels
    raise the brightness of the region; blue pixels lower it.
    """
    from gantk.terminal import say
    from gantk_trust.explain import explain

    explain(run, image, out, **options, say=say)
