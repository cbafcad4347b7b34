"""`gantk push`: the command line of `gantk_models.hub.hub.push`."""

from __future__ import annotations

import click

from gantk.commands import Command


@click.command(
    "push",
    cls=Command,
    short_help="Upload a model to the Hugging Face hub.",
    section="Share",
    place=3,
    examples=["gantk push packed_model someone/t1t2-3t"],
)
@click.argument("run")
@click.argument("name", metavar="USER/NAME")
@click.option(
    "--card",
    metavar="FILE",
    help="The model card, as of `gantk pack`. Default: a packed model's own, or ours.",
)
@click.option(
    "--license",
    metavar="ID",
    help="The weights' licence in the card's head, such as cc-by-4.0. Default: none.",
)
@click.option("--private", is_flag=True, help="Make a repository that is new a private one.")
def command(run, name, **options) -> None:
    """Upload the model of RUN to the Hugging Face hub as USER/NAME.

    What is uploaded is what `gantk pack` writes: weights (safetensors), recipe, intensity mappings,
    scores and card; no images, no names of patients or files. Log in with `hf auth login`, or set
    HF_TOKEN. Everybody then has it as `gantk translate hf://USER/NAME IN OUT`.
    """
    from gantk.terminal import say
    from gantk_models.hub.hub import push

    push(run, name, **options, say=say)
