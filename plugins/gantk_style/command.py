"""`gantk stylize` on the command line: calls `gantk_style.stylize.stylize`, which is imported only
when it runs.
"""

from __future__ import annotations

import click

from gantk.commands import Command
from gantk.errors import printable


@click.command(
    cls=Command,
    short_help="Draw one image in the style of another.",
    section="Use",
    place=3,
    examples=["gantk stylize content.png style.png out.png"],
)
@click.argument("content")
@click.argument("style")
@click.argument("out")
@click.option("--recipe", metavar="R", help="Take the options of this recipe's style transfer.")
@click.option("--profile", metavar="NAME", help="Apply the recipe's [profile.NAME].")
@click.option(
    "--set", multiple=True, metavar="KEY=VALUE", help="An option: --set style_weight=1000."
)
@click.option(
    "--steps", type=click.IntRange(min=1), metavar="N", help="Steps of the optimizer. Default: 100."
)
@click.option(
    "--weights", type=click.Choice(["pretrained", "random"]), help="Of VGG19. Default: pretrained."
)
@click.option("--gray", is_flag=True, help="Turn colour images to gray first.")
@click.option("--device", metavar="D", help="cpu, cuda, cuda:1, mps. Default: the best there is.")
def stylize(content, style, out, **options) -> None:
    """Write OUT: what CONTENT shows, in the style of STYLE (Gatys and others, 2016).

    CONTENT and STYLE are a picture (PNG, JPEG, TIFF) or a NIfTI file. OUT has CONTENT's size, grid
    and intensities. `gantk show post style` lists what --set takes.
    """
    from gantk_style import stylize as module

    module.stylize(content, style, out, **options, say=lambda line: click.echo(printable(line)))
