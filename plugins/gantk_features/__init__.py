"""Learned features in which sets of images are compared: Inception as published, networks of timm, ONNX files."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Three kinds of features; any name that is not registered is one of timm's."""
    add.features("inception", "gantk_features.inception:Inception")
    add.features("timm", "gantk_features.backbones:timm_backbone")
    add.features("onnx", "gantk_features.backbones:onnx_backbone")


@hookimpl
def gantk_tested(result) -> None:
    """Warn where features of RadImageNet judge alone: these rank generators otherwise than people do, where ImageNet's
    agree with people (Woodland et al., MICCAI 2024)."""
    rows = [row for rows in result["metrics"].values() for row in rows.values()]
    learned = [said for row in rows if "features=" in (said := str(row.get("definition")).lower())]
    if any("radimagenet" in said for said in learned) and not any("inception" in said for said in learned):
        beside = 'put { name = "kid", features = "inception" } beside it'
        line = f"warning  features of RadImageNet judge alone, which people often do not agree with: {beside}"
        result["lines"] = [*result.get("lines", ()), line]
