"""Metrics and a baseline that train small networks in seconds, to measure what generated images are
good for.
"""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register five metrics that train their own networks, and a baseline that learns from pairs."""
    add.baseline("regression", "gantk_tasks.regression:Regression")
    add.metric("classification", "gantk_tasks.classification:Classification")
    add.metric("transfer", "gantk_tasks.transfer:Transfer")
    add.metric("two_sample", "gantk_tasks.classification:TwoSample")
    add.metric("segmentation", "gantk_tasks.segmentation:Segmentation")
    add.metric("inventory", "gantk_tasks.inventory:Inventory")
