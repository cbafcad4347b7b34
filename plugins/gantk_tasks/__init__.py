"""Small networks that are trained in seconds, to judge images or as a baseline: what are made images good for?"""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Five metrics that train a judge of their own, and a baseline that learns from pairs."""
    add.baseline("regression", "gantk_tasks.regression:Regression")
    add.metric("classification", "gantk_tasks.classification:Classification")
    add.metric("transfer", "gantk_tasks.transfer:Transfer")
    add.metric("two_sample", "gantk_tasks.classification:TwoSample")
    add.metric("segmentation", "gantk_tasks.segmentation:Segmentation")
    add.metric("inventory", "gantk_tasks.inventory:Inventory")
