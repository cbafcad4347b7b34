"""MUNIT (Huang et al. 2018) as a gantk plugin."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the method, its discriminator of one scale and its learning-rate schedule."""
    add.method("munit", "gantk_munit.model:MUNIT")
    add.discriminator("munit", "gantk_munit.discriminator:Strided")
    add.schedule("halving", "gantk_munit.schedule:Halving")
