"""The command line of this package."""

import click

from gantk.commands import Command
from gantk.terminal import say

SPACE = (
    "A setting and its range: KEY=0.5..5, KEY=1e-4..4e-4:log, KEY=2..8 (whole numbers), KEY=ls,bce."
    " Repeatable."
)

GO_ON = "Which trials go on: the best third, then ninth; a population that copies its best; all."

SCORE = (
    "In place of the score that chooses a run's save: this metric of the validation pairs, which is"
    " the truth."
)

ADDRESS = "HOST:PORT of a Ray cluster, or auto for this machine's. Default: this machine alone."

# run folder of a trial -> its reporter, while it trains


@click.command(
    "sweep",
    cls=Command,
    short_help="Search for better settings of a recipe.",
    section="Scale",
    place=2,
    examples=["gantk sweep dualgan_t1t2 --space method.local_ncc=0.5..5:log --trials 40"],
)
@click.argument("recipe", required=False)
@click.option("--space", multiple=True, metavar="KEY=RANGE", help=SPACE)
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="How many are drawn.",
)
@click.option(
    "--hours", type=click.FloatRange(min=0, min_open=True), help="After which no trial goes on."
)
@click.option(
    "--scheduler",
    type=click.Choice(["asha", "pbt", "none"]),
    default="asha",
    show_default=True,
    help=GO_ON,
)
@click.option("--score", metavar="METRIC", help=SCORE)
@click.option("--address", metavar="A", help=ADDRESS)
@click.option(
    "--resume",
    metavar="DIR",
    help="Go on with a sweep that was broken off; leave out all but --address.",
)
@click.option(
    "--out", metavar="DIR", help="The folder, seen by all machines. Default: runs/NAME-sweep-TIME."
)
@click.option("--data", metavar="PATH", help="Train on this folder or file instead.")
@click.option(
    "--set", multiple=True, metavar="KEY=VALUE", help="Override a key of the recipe. Repeatable."
)
@click.option("--profile", metavar="NAME", help="Apply the recipe's [profile.NAME].")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    help="train.seed of all trials; it draws the settings too.",
)
@click.option("--device", metavar="D", help="cpu, cuda. Default: the best there is.")
@click.option(
    "--cpus", type=click.IntRange(min=1), default=1, show_default=True, help="Threads of one trial."
)
@click.option(
    "--gpus",
    type=click.FloatRange(min=0),
    help="Cards of one trial, 0.5: two share one. Default: 1 of any.",
)
def command(recipe, **options) -> None:
    """Train RECIPE many times with other settings, on this machine or a cluster, and write the best
    recipe.

    \b
    gantk sweep dualgan_t1t2 --space method.local_ncc=0.5..5:log --space train.optimizer.lr=1e-4..4e-4:log --trials 40
    gantk sweep --resume runs/dualgan_t1t2-sweep-20270101-120000
    """
    from gantk_cluster.sweep.sweep import sweep

    sweep(recipe, say=say, **options)
