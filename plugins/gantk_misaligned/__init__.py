"""Registered pairs moved out of place, to measure what that costs a method."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """One source, which wraps another."""
    add.source("misaligned", "gantk_misaligned.source:Misaligned")
