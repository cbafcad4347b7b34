"""The command line of this package."""

import sys

import click

from gantk.commands import Command
from gantk.terminal import json_option, write_json


@click.command(
    "check",
    cls=Command,
    section="Look",
    place=1,
    examples=[
        "gantk data check SCANS",
        "gantk data check SCANS --table scans.csv   # a table to correct and to train from",
    ],
)
@click.argument("path")
@click.option("--recipe", metavar="RECIPE", help="Check PATH as this recipe would use it.")
@click.option(
    "--set", multiple=True, metavar="KEY=VALUE", help="Override a key: data.source.patient=..."
)
@click.option(
    "--every", is_flag=True, help="Look at the pixels of all images, even of more than 20,000."
)
@click.option(
    "--table",
    metavar="FILE",
    help="Write what is known of each image to this new CSV; fill in its empty cells.",
)
@json_option("Write the findings as JSON too")
def check_command(path, json_file, **options) -> None:
    """Say what the images in PATH are and what is wrong with them; nothing is trained.

    PATH is a folder, a DICOM tree or a CSV. Reported are files that cannot be read, the same
    patient or the same pixels on both sides of a split, near copies, mixed planes, sizes and
    spacings, empty images, and images that look like the other domain's. Exit code 1 where
    something would spoil a training. --table writes a CSV to complete and to train with: gantk run
    RECIPE --data FILE.
    """
    from rich.markup import escape

    from gantk.data.check.check import check
    from gantk.terminal import console, progress_bar, table

    with progress_bar() as progress:
        result = check(path, **options, progress=progress)

    if json_file != "-":
        for name, value in result["summary"].items():
            console().print(f"[dim]{escape(name):9}[/] {escape(str(value))}")

        colours = {"error": "bold red", "warning": "yellow", "note": "dim"}
        rows = [
            (f"[{colour}]{severity}[/]", escape(problem["what"]), escape(problem["remedy"] or ""))
            for severity, colour in colours.items()
            for problem in result["problems"]
            if problem["severity"] == severity
        ]
        console().print(table((), rows) if rows else "[green]nothing is wrong[/]")

    write_json(json_file, result)
    sys.exit(1 if any(problem["severity"] == "error" for problem in result["problems"]) else 0)
