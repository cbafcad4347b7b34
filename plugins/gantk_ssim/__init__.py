"""Structural similarity as a loss, as a gantk plugin."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the loss ssim, computed by kornia."""
    add.loss("ssim", "gantk_ssim.loss:SSIM")
