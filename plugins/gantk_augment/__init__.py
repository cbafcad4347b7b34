"""Augmentations: differentiable changes of images on the device, in 2-D and 3-D, that a CUDA graph
can record.
"""

from gantk.plugin.hookspecs import hookimpl

KINDS = ("HFlip", "VFlip", "Rot90", "Affine", "Rotate", "Translate")
KINDS += ("Crop", "Cutout", "Brightness", "Contrast", "Noise", "Curve", "BiasField", "Blur")
NAMES = {"BiasField": "bias_field"}


@hookimpl
def gantk_register(add) -> None:
    """Register the augmentations, each under its name in lower case."""
    for kind in KINDS:
        add.augment(NAMES.get(kind, kind.lower()), f"gantk_augment.changes:{kind}")
