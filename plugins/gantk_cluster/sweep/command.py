"""The command line of this package."""

import click

from gantk.terminal import Command, data_option, profile_option, say, set_option

SPACE = (
    "Key and values: KEY=0.5..5, KEY=1e-4..4e-4:log, KEY=2..8 (integers), KEY=ls,bce. Repeatable."
)

ADDRESS = "Ray cluster: HOST:PORT, or auto for the running one. Default: only this machine."


@click.command(
    "sweep",
    cls=Command,
    short_help="Search for better settings of a recipe.",
    section="Scale",
    place=2,
    examples=[
        "gantk sweep dualgan_t1t2 --space method.local_ncc=0.5..5:log --trials 40",
        "gantk sweep --resume runs/dualgan_t1t2-sweep-20270101-120000",
    ],
)
@click.argument("recipe", required=False)
@click.option("--space", multiple=True, metavar="KEY=RANGE", help=SPACE)
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Number of trials.",
)
@click.option("--address", metavar="A", help=ADDRESS)
@click.option(
    "--resume",
    metavar="DIR",
    help="Resume an interrupted sweep. Only --address can be combined with it.",
)
@click.option(
    "--out",
    metavar="DIR",
    help="Folder, visible to all machines. Default: runs/NAME-sweep-TIME.",
)
@data_option
@set_option
@profile_option
@click.option("--device", metavar="D", help="Device: cpu or cuda. Default: the fastest one.")
def command(recipe, **options) -> None:
    """Train RECIPE many times with different settings and write the best recipe.

    A trial gets one core, and a GPU if there is one. The worse two thirds end after a ninth of the
    steps, and again after a third (ASHA).
    """
    from gantk_cluster.sweep.sweep import sweep

    sweep(recipe, say=say, **options)
