"""Unpaired training that finds pairs itself: the images of the other domain most alike, whatever their contrast."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Offer the loss that finds them, for the option `pairs` of two-way methods."""
    add.loss("weak_pairs", "gantk_weak_pairs.loss:WeakPairs")
