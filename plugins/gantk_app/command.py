"""`gantk app`: the command line of `gantk.app`. Gradio and torch are imported only when the command
runs.
"""

import click

from gantk.commands import Command


@click.command(
    "app",
    cls=Command,
    short_help="Translate scans in a window of the browser.",
    section="Start",
    place=3,
    examples=[
        "gantk app              # the shipped model t1t2",
        "gantk app runs/first   # a model of yours",
    ],
)
@click.argument("run", default="t1t2")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=7860,
    show_default=True,
    help="0 takes a free one.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="The address to listen on.",
)
@click.option(
    "--max-mb",
    type=click.IntRange(1),
    default=512,
    show_default=True,
    help="Largest upload, also unzipped.",
)
@click.option("--device", metavar="D", help="cpu, cuda, cuda:1, mps. Default: the best there is.")
def command(run, **options) -> None:
    """Open a window in the browser that translates scans with RUN, or with the shipped model t1t2.

    Drop a NIfTI file, a picture or a zipped DICOM series, choose a direction, look at input,
    output, difference and uncertainty with one cursor, save the result in the input's format.
    Programs send files to /translate, see /openapi.json. Nothing leaves the machine; what was
    uploaded is deleted when its window closes. Ctrl-C ends it.
    """
    from gantk.terminal import say
    from gantk_app.service import app

    app(run, **options, say=say)
