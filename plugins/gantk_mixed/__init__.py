"""Several collections of images as one: patients' scans and synthetic heads, two studies in folders."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Offer the source."""
    add.source("mixed", "gantk_mixed.source:Mixed")
