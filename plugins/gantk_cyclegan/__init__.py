"""CycleGAN (Zhu et al. 2017) as a gantk plugin."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the method; it takes any registered networks and losses."""
    add.method("cyclegan", "gantk_cyclegan.model:CycleGAN")
