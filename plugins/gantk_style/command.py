"""`gantk stylize` on the command line: calls `gantk_style.stylize.stylize`, which is imported only
when it runs.
"""

from __future__ import annotations

import click

from gantk.errors import printable
from gantk.terminal import Command, device_option, overwrite_option


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
@click.option("--recipe", metavar="R", help="Use the style-transfer options of this recipe.")
@click.option("--profile", metavar="NAME", help="Apply the recipe's [profile.NAME].")
@click.option(
    "--set",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set an option: --set style_weight=1000. Repeatable.",
)
@click.option(
    "--steps", type=click.IntRange(min=1), metavar="N", help="Steps of the optimizer. Default: 100."
)
@click.option(
    "--weights",
    type=click.Choice(["pretrained", "random"]),
    help="Weights of VGG19: pretrained ones are downloaded once. Default: pretrained.",
)
@overwrite_option
@device_option
def stylize(content, style, out, **options) -> None:
    """Redraw CONTENT in the style of STYLE and write it to OUT (Gatys et al. 2016).

    CONTENT and STYLE are pictures (PNG, JPEG, TIFF) or NIfTI files. OUT has the size, grid and
    intensity range of CONTENT. `gantk show post style` lists the options of --set.
    """
    from gantk_style import stylize as module

    module.stylize(content, style, out, **options, say=lambda line: click.echo(printable(line)))
