"""Warnings where an image is of another contrast than a model was trained on, or becomes none of its target."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_input(image, frame) -> str | None:
    """By the image's header, else its name, else the distribution of its values."""
    from gantk_wrong_contrast.contrast import doubt

    return doubt(image, frame)


@hookimpl
def gantk_output(given, made, frame) -> str | None:
    """By the values of both: a translation that changed nothing, or whose contrast is inverted."""
    from gantk_wrong_contrast.contrast import doubt_of_result

    return doubt_of_result(given, made, frame)
