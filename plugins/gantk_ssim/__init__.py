"""Structural similarity as a loss, as a gantk plugin."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """One loss, which takes kornia's windows."""
    add.loss("ssim", "gantk_ssim.loss:SSIM")
