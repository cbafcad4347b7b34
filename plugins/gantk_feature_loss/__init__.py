"""A loss on features of a frozen network, a loss weighted to the body, and a segmenter that provides features."""

from gantk.errors import UserError
from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register two losses of output and target (or output and input), and the method that trains a segmenter."""
    add.loss("feature", "gantk_feature_loss.losses:FeatureLoss")
    add.loss("body_l1", "gantk_feature_loss.losses:BodyL1")
    add.method("segmenter", "gantk_feature_loss.segmenter:Segmenter")


@hookimpl
def gantk_check(model) -> None:
    """Refuse a segmenter without masks, and feature losses whose weights have changed since the run began."""
    if model.method.name == "segmenter" and not model.data.mask:
        remedy = "set data.mask = true, and say which files are masks: data.source.mask"
        raise UserError("a segmenter learns from masks, and the recipe asks for none", where="data.mask", remedy=remedy)
    from gantk_feature_loss.networks import opened, pin

    opened.cache_clear()  # files may have changed
    pin(model.method.options, "method")


@hookimpl
def gantk_tested(result, scorer) -> None:
    """Add a segmenter's Dice on the lesions of the test images."""
    if scorer.model.method.name == "segmenter":
        from gantk_feature_loss.segmenter import add_dice

        add_dice(result, scorer)
