"""Back-translation as a gantk plugin: fine-tunes trained generators on unpaired images of one
scanner.
"""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the method; it takes any registered networks, losses and augmentations."""
    add.method("back_translation", "gantk_back_translation.model:BackTranslation")
