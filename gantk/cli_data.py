"""`gantk data`: looking at images before they are trained on, and getting public ones."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.markup import escape
from rich.table import Table

from gantk.terminal import console, progress_bar, say


@click.group()
def data() -> None:
    """Look at images before they are trained on, or get public ones."""


@data.command()
@click.argument("path")
@click.option("--recipe", metavar="RECIPE", help="Check PATH as this recipe would use it.")
@click.option("--json", "json_file", metavar="FILE", help="Write the findings as JSON too; - is the terminal.")
def check(path, recipe, json_file) -> None:
    """Say what the images in PATH are and what is wrong with them; nothing is trained.

    PATH is a folder, a DICOM tree or a CSV. Reported are files that cannot be read, the same patient or the same pixels
    on both sides of a split, near copies, mixed planes, sizes and spacings, empty images, and images that look like the
    other domain's. Exit code 1 where something would spoil a training.
    """
    import json

    from gantk import api
    from gantk.files import write_file

    with progress_bar() as progress:
        result = api.check(path, recipe=recipe, progress=progress)
    text = json.dumps(result, indent=1) + "\n"
    if json_file == "-":
        click.echo(text, nl=False)
    else:
        _findings(result)
        if json_file:
            write_file(Path(json_file), text.encode())
    sys.exit(1 if any(problem["severity"] == "error" for problem in result["problems"]) else 0)


@data.command()
@click.argument("name", required=False)
@click.option("--out", metavar="DIR", help="Where to put it. Default: data/NAME.")
@click.option("--from", "base_url", metavar="URL", help="Fetch from this mirror instead; its checksum has to be right.")
def fetch(name, out, base_url) -> None:
    """Download the public data set NAME, or list those there are.

    An interrupted download goes on where it stopped; nothing is unpacked before its size and checksum are right. Files
    without a published checksum are trusted once, and held against what was written down then. Sets behind a
    registration name their keeper. The licence is shown: it is yours to keep.
    """
    from gantk import api

    if name is None:
        table = Table(box=None, pad_edge=False)
        for header in ("name", "what", "size", "licence", "where"):
            table.add_column(header, overflow="fold")
        for row in api.public_sets():
            table.add_row(*map(escape, row))
        console().print(table)
        return
    with progress_bar() as progress:
        api.fetch(name, out=out, base_url=base_url, say=say, progress=progress)


def _findings(result: dict) -> None:
    """The result of a check for a person: what there is, then what is wrong with it, worst first."""
    out = console()
    for name, value in result["summary"].items():
        out.print(f"[dim]{escape(name):9}[/] {escape(str(value))}")
    colours = {"error": "bold red", "warning": "yellow", "note": "dim"}
    table = Table(box=None, pad_edge=False, show_header=False)
    for problem in sorted(result["problems"], key=lambda problem: list(colours).index(problem["severity"])):
        severity = problem["severity"]
        table.add_row(f"[{colours[severity]}]{severity}[/]", escape(problem["what"]), escape(problem["remedy"] or ""))
    out.print(table if result["problems"] else "[green]nothing is wrong[/]")
