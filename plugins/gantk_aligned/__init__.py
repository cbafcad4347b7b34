"""Data sources of images whose names say no domain: both side by side in one picture, A|B, or all
of one domain.
"""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the sources."""
    add.source("aligned", "gantk_aligned.source:Aligned")
    add.source("images", "gantk_aligned.images:Images")
