"""`gantk explain`: the command line of `gantk.explain`. torch and captum are imported only when the
command runs.
"""

from __future__ import annotations

import click

from gantk.commands import Command


@click.command(
    "explain",
    cls=Command,
    short_help="Show which pixels of the input shaped the output.",
    section="Judge",
    place=5,
    examples=["gantk explain runs/first head.png why --region 60:90,40:70"],
)
@click.argument("run")
@click.argument("image")
@click.argument("out")
@click.option(
    "--to",
    metavar="DOMAIN",
    help="Which domain is made, by its name. Default: the recipe's second.",
)
@click.option(
    "--region",
    metavar="X0:X1,Y0:Y1",
    help="Explain these columns and rows of the output. Default: all of it.",
)
@click.option(
    "--mask", metavar="FILE", help="Explain where this image, on IMAGE's grid, is above 0."
)
@click.option(
    "--method",
    type=click.Choice(["gradients", "occlusion"]),
    default="gradients",
    help=(
        "Integrated gradients (default), or what covering parts of the input changes: slower,"
        " coarser."
    ),
)
@click.option(
    "--slice", type=int, metavar="K", help="Of a volume: which slice, from 0. Default: the middle."
)
@click.option("--device", metavar="D", help="cpu, cuda, cuda:1, mps. Default: the best there is.")
def command(run, image, out, **options) -> None:
    """Show which pixels of IMAGE made a region of its translation by RUN.

    Writes OUT.png: the input, its translation with the region's outline, and the input with what
    raised the region's brightness in red and what lowered it in blue; and OUT.nii.gz, the map on
    IMAGE's grid.

    The same map is drawn of the network with random weights. Where the two correlate, the map shows
    the image's edges and not what the network learnt (Adebayo and others, 2018).

    \b
    gantk explain runs/first head.png why --region 60:90,40:70
    gantk explain runs/first t1.nii.gz why --mask lesion.nii.gz --method occlusion
    """
    from gantk.terminal import say
    from gantk_trust.explain.explain import explain

    explain(run, image, out, **options, say=say)
