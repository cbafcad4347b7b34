"""Learned features in which sets of images are compared: Inception as published, networks of timm, ONNX files."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Three kinds of features; any name that is not registered is one of timm's."""
    add.features("inception", "gantk_features.inception:Inception")
    add.features("timm", "gantk_features.backbones:timm_backbone")
    add.features("onnx", "gantk_features.backbones:onnx_backbone")
