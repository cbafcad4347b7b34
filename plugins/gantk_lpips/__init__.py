"""LPIPS, the learned perceptual image patch similarity, as a metric of pairs."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """One metric, imported at first use: it loads torchvision's networks."""
    add.metric("lpips", "gantk_lpips.metric:LPIPS")
