"""What images are good for: classification, segmentation and a two-sample test as metrics."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Three metrics that train a small judge of their own."""
    add.metric("classification", "gantk_tasks.classification:Classification")
    add.metric("two_sample", "gantk_tasks.classification:TwoSample")
    add.metric("segmentation", "gantk_tasks.segmentation:Segmentation")
