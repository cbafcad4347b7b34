"""Back-translation as a gantk plugin: trained generators go on with unpaired images of one scanner."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """One method; its networks, losses and changes are the core's or anyone's."""
    add.method("back_translation", "gantk_back_translation.model:BackTranslation")
