"""A data source that misaligns registered pairs, to measure how much a method loses by that."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the source misaligned, which wraps another source."""
    add.source("misaligned", "gantk_misaligned.source:Misaligned")
