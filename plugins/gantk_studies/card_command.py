"""`gantk card` on the command line."""

import click

from gantk.terminal import Command, overwrite_option


@click.command(
    "card",
    cls=Command,
    short_help="Write a model card (CLAIM, TRIPOD+AI) for a run.",
    section="Judge",
    place=4,
    examples=["gantk card runs/first"],
)
@click.argument("run")
@click.option(
    "--out", metavar="FILE", default="card.md", help="Markdown file to write. Default: card.md."
)
@overwrite_option
def command(run, out, overwrite) -> None:
    """Write a model card of RUN that answers the items of CLAIM (2024) and TRIPOD+AI.

    gantk fills in what the run contains and names what only the authors can answer. The card
    contains no names of patients or files.
    """
    from gantk.terminal import say
    from gantk_studies.card import write_card

    write_card(run, out=out, overwrite=overwrite, say=say)
