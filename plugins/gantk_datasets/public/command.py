"""The command line of this package."""

import click

from gantk.commands import Command


@click.command(
    cls=Command,
    section="Look",
    place=2,
    examples=["gantk data fetch", "gantk data fetch t1t2 --out data/t1t2"],
)
@click.argument("name", required=False)
@click.option("--out", metavar="DIR", help="Where to put it. Default: data/NAME.")
@click.option(
    "--from",
    "base_url",
    metavar="URL",
    help="Fetch from this mirror instead; its checksum has to be right.",
)
def fetch(name, out, base_url) -> None:
    """Download the public data set NAME, or list those there are.

    An interrupted download goes on where it stopped; nothing is unpacked before its size and
    checksum are right. Files without a published checksum are trusted once, and held against what
    was written down then. Sets behind a registration name their keeper. The licence is shown: it is
    yours to keep.
    """
    from rich.table import Column, Table

    from gantk.terminal import console, progress_bar, say
    from gantk_datasets.public import download

    if name is None:
        headers = "name", "what", "size", "licence", "where"
        table = Table(
            *(Column(header, overflow="fold") for header in headers), box=None, pad_edge=False
        )
        for row in download.public_sets():
            table.add_row(*row)
        console().print(table)
        return

    with progress_bar() as progress:
        download.fetch(name, out=out, base_url=base_url, say=say, progress=progress)
