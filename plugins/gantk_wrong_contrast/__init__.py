"""A warning where a model is given an image of another contrast than it was trained on."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_input(image, frame) -> str | None:
    """By the image's header, else its name, else the distribution of its values."""
    from gantk_wrong_contrast.contrast import doubt

    return doubt(image, frame)
