"""Scores beyond the core: sets of images, learned features, LPIPS, and what images are good for."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register metrics, features and a baseline that learns from pairs."""
    add.metric("ms_ssim", "gantk_scores.sets.ms_ssim:MSSSIM")
    add.metric("fid", "gantk_scores.sets.fid:Fid")
    add.metric("frd", "gantk_scores.sets.frd:Frd")
    add.metric("prdc", "gantk_scores.sets.neighbours:Prdc")
    add.metric("diversity", "gantk_scores.sets.diversity:Diversity")
    add.features("inception", "gantk_scores.features.inception:Inception")
    add.features("timm", "gantk_scores.features.backbones:timm_backbone")
    add.features("onnx", "gantk_scores.features.backbones:onnx_backbone")
    add.metric("lpips", "gantk_scores.lpips_metric:LPIPS")
    add.baseline("regression", "gantk_scores.tasks.regression:Regression")
    add.metric("classification", "gantk_scores.tasks.classification:Classification")
    add.metric("transfer", "gantk_scores.tasks.transfer:Transfer")
    add.metric("two_sample", "gantk_scores.tasks.classification:TwoSample")
    add.metric("segmentation", "gantk_scores.tasks.segmentation:Segmentation")
    add.metric("inventory", "gantk_scores.tasks.inventory:Inventory")


@hookimpl
def gantk_images_scored(result) -> None:
    """Warn where features of RadImageNet judge without Inception's beside them."""
    from gantk_scores.features.backbones import warn_of_radimagenet_alone

    warn_of_radimagenet_alone(result)


@hookimpl
def gantk_report_section(record):
    """The section `Accuracy of a classifier`, where a classifier was trained on generated images."""
    from gantk_scores.tasks.accuracy import section

    return section(record)
