"""Slices that a 2-D model made one by one agree with each other, as a gantk plugin."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """One post-step."""
    add.post("slices", "gantk_slices.post:AgreeingSlices")
