"""The command line of this package."""

import click

from gantk.terminal import Command, data_option, profile_option, say, set_option

SPACE = (
    "Key and values: KEY=0.5..5, KEY=1e-4..4e-4:log, KEY=2..8 (integers), KEY=ls,bce. Repeatable."
)

GO_ON = "Scheduler. asha keeps the best third, then ninth; none trains all to the end."

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
    help="Number of trials. Default: 20; with lists and --scheduler none, each combination once.",
)
@click.option(
    "--hours", type=click.FloatRange(min=0, min_open=True), help="Stop all trials after this time."
)
@click.option(
    "--scheduler",
    type=click.Choice(["asha", "none"]),
    default="asha",
    show_default=True,
    help=GO_ON,
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
@click.option(
    "--cpus", type=click.IntRange(min=1), default=1, show_default=True, help="Threads of one trial."
)
@click.option(
    "--gpus",
    type=click.FloatRange(min=0),
    help="GPUs of one trial; with 0.5 two trials share a GPU. Default: 1 if available.",
)
def command(recipe, **options) -> None:
    """Train RECIPE many times with different settings and write the best recipe."""
    from gantk_cluster.sweep.sweep import sweep

    sweep(recipe, say=say, **options)
