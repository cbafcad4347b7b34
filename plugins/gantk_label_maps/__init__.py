"""Label maps as images: an intensity mapping that keeps their classes exact, and new maps with
moved lesions.
"""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the intensity mapping label_map."""
    add.intensity("label_map", "gantk_label_maps.maps:LabelMap")


@hookimpl
def gantk_check(model) -> None:
    """Refuse augmentations that would change the classes of a label map."""
    parts = (model.data.intensity, *model.data.intensity.options.values())
    if any(getattr(part, "name", "") == "label_map" for part in parts):
        from gantk_label_maps.maps import expect_exact

        expect_exact(model.data.augment)
