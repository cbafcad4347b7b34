"""Label maps as images: classes that reach a network as they are, and new maps with lesions placed anew."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """The intensity mapping of label maps."""
    add.intensity("label_map", "gantk_label_maps.maps:LabelMap")


@hookimpl
def gantk_check(model) -> None:
    """Refuse augmentations that would change the classes of a label map."""
    parts = (model.data.intensity, *model.data.intensity.options.values())
    if any(getattr(part, "name", "") == "label_map" for part in parts):
        from gantk_label_maps.maps import expect_exact

        expect_exact(model.data.augment)
