"""The command line of this package."""

import click

from gantk.terminal import Command


@click.command(
    cls=Command,
    section="Look",
    place=2,
    examples=["gantk data fetch", "gantk data fetch t1t2 --out data/t1t2"],
    then="gantk data check {out}",
)
@click.argument("name", required=False)
@click.option("--out", metavar="DIR", help="Target folder. Default: data/NAME.")
@click.option(
    "--from",
    "base_url",
    metavar="URL",
    help="Download from this mirror. The same checksums must match.",
)
def fetch(name, out, base_url) -> None:
    """Download the public data set NAME, or list the known sets.

    An interrupted download resumes where it stopped. A file is unpacked only after its size and
    checksum were verified. For sets that require registration the command prints the address. Read
    the licence that it prints: you must comply with it.
    """
    from gantk.terminal import console, say, table
    from gantk_datasets.public import download

    if name is None:
        headers = "name", "what", "size", "licence", "where"
        console().print(table(headers, download.public_sets()))
        return

    download.fetch(name, out=out, base_url=base_url, say=say)
