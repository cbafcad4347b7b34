"""Pix2Pix (Isola et al. 2017) and the regression that it must beat, as a gantk plugin."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Two methods for pairs; their networks and losses are the core's or anyone's."""
    add.method("pix2pix", "gantk_pix2pix.model:Pix2Pix")
    add.method("regression", "gantk_pix2pix.regression:Regression")
