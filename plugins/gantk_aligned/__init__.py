"""Pictures that show both domains side by side, A|B, as a data source."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the source."""
    add.source("aligned", "gantk_aligned.source:Aligned")
