"""`gantk app`: the command line of `gantk.app`. Gradio and torch are imported only when the command
runs.
"""

import click

from gantk.terminal import Command, device_option


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
    help="Port to listen on. 0 chooses a free port.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="Address to listen on. 0.0.0.0 lets other machines connect, with a password.",
)
@click.option(
    "--max-mb",
    type=click.IntRange(1),
    default=512,
    show_default=True,
    help="Largest upload in MB, also after unzipping.",
)
@device_option
def command(run, **options) -> None:
    """Translate scans in the browser with RUN, or with the shipped model t1t2.

    Drop a NIfTI file, a picture or a zipped DICOM series, and choose a direction. The page says how
    good the model is and whether the scan fits, and shows input, output and difference with one
    cursor. You can save the result in the input's format. Programs use the same by Gradio's API
    (/translate) and its client. Nothing leaves the machine. Ctrl-C stops the server.
    """
    from gantk.terminal import say
    from gantk_serve.app.start import app

    app(run, **options, say=say)
