"""A loss on features of a frozen network, a loss weighted to the body, and a segmenter that
provides features.
"""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register two losses of output and target (or output and input), and the method that trains a
    segmenter.
    """
    add.loss("feature", "gantk_feature_loss.losses:FeatureLoss")
    add.loss("body_l1", "gantk_feature_loss.losses:BodyL1")
    add.method("segmenter", "gantk_feature_loss.segmenter:Segmenter")


@hookimpl
def gantk_check(model) -> None:
    """Refuse feature losses whose weights have changed since the run began."""
    from gantk_feature_loss.networks import opened, pin

    opened.cache_clear()  # files may have changed
    pin(model.method.options, "method")


@hookimpl
def gantk_tested(result, scorer) -> None:
    """Add a segmenter's Dice on the lesions of the test images."""
    if scorer.model.method.name == "segmenter":
        from gantk_feature_loss.segmenter import add_dice

        add_dice(result, scorer)
