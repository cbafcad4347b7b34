"""Learned features for comparing sets of images: Inception as published, networks of timm, ONNX
files.
"""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register three kinds of features; any other name is taken for one of timm's networks."""
    add.features("inception", "gantk_features.inception:Inception")
    add.features("timm", "gantk_features.backbones:timm_backbone")
    add.features("onnx", "gantk_features.backbones:onnx_backbone")


@hookimpl
def gantk_tested(result) -> None:
    """Warn if features of RadImageNet are used without Inception's: unlike ImageNet's, their
    ranking of generators disagrees with people's (Woodland et al., MICCAI 2024).
    """
    rows = [row for rows in result["metrics"].values() for row in rows.values()]
    learned = [said for row in rows if "features=" in (said := str(row.get("definition")).lower())]
    if any("radimagenet" in said for said in learned) and not any(
        "inception" in said for said in learned
    ):
        beside = 'put { name = "kid", features = "inception" } beside it'
        line = (
            "warning  features of RadImageNet judge alone, which people often do not agree with:"
            f" {beside}"
        )
        result["lines"] = [*result.get("lines", ()), line]
