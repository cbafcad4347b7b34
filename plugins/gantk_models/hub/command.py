"""`gantk push`: the command line of `gantk_models.hub.hub.push`."""

from __future__ import annotations

import click

from gantk.terminal import Command


@click.command(
    "push",
    cls=Command,
    short_help="Upload a model to the Hugging Face hub.",
    section="Share",
    place=3,
    examples=[
        "gantk push runs/first USER/NAME",
        "gantk translate hf://USER/NAME IN OUT",
    ],
)
@click.argument("run")
@click.argument("name", metavar="USER/NAME")
@click.option(
    "--license",
    metavar="ID",
    help="Licence of the weights in the card's header, such as cc-by-4.0. Default: none.",
)
@click.option("--private", is_flag=True, help="Create a new repository as private.")
def command(run, name, **options) -> None:
    """Upload the model of RUN to the Hugging Face hub as USER/NAME.

    gantk uploads what `gantk pack` writes: weights (safetensors), recipe, intensity mappings, scores
    and card; RUN may be a packed model with a card of your own. It uploads no images and no names of patients or files. First log in with `hf auth
    login`, or set HF_TOKEN. Others can then use the model: `gantk translate hf://USER/NAME IN OUT`.
    """
    from gantk.terminal import say
    from gantk_models.hub.hub import push

    push(run, name, **options, say=say)
