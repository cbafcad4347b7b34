"""DualGAN (Yi et al. 2017) as a gantk plugin."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """One method; its networks and losses are the core's or anyone's."""
    add.method("dualgan", "gantk_dualgan.model:DualGAN")
