"""LPIPS, the learned perceptual image patch similarity, as a metric of pairs."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the metric lpips, imported at first use because it loads torchvision's networks."""
    add.metric("lpips", "gantk_lpips.metric:LPIPS")
