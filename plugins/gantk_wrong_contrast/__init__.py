"""Warns if an input image has another contrast than a model's training images, or its translation
looks wrong.
"""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_input(image, frame) -> str | None:
    """Warn about an input, by its header, else its name, else the distribution of its values."""
    from gantk_wrong_contrast.contrast import doubt

    return doubt(image, frame)


@hookimpl
def gantk_output(given, made, frame) -> str | None:
    """Warn about a translation that equals its input, or whose contrast is inverted."""
    from gantk_wrong_contrast.contrast import doubt_of_result

    return doubt_of_result(given, made, frame)
