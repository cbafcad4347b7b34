"""A loss for unpaired training that finds weak pairs: the most similar images of the other domain,
in any contrast.
"""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the loss weak_pairs, for the option `pairs` of two-way methods."""
    add.loss("weak_pairs", "gantk_weak_pairs.loss:WeakPairs")
