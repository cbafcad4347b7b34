"""CUT (Park et al. 2020) as a gantk plugin."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the method; it takes any registered networks and losses."""
    add.method("cut", "gantk_cut.model:CUT")
