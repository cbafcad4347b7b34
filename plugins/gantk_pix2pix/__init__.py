"""Pix2Pix (Isola et al. 2017) and a plain regression as its baseline, as a gantk plugin."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register two methods for pairs; they take any registered networks and losses."""
    add.method("pix2pix", "gantk_pix2pix.model:Pix2Pix")
    add.method("regression", "gantk_pix2pix.regression:Regression")
