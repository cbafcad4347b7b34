"""A post-step that makes neighbouring slices of a 2-D model's output consistent, as a gantk plugin."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the post-step slices."""
    add.post("slices", "gantk_slices.post:AgreeingSlices")
