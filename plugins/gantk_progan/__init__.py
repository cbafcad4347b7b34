"""ProGAN (Karras et al. 2018) as a gantk plugin."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """One method with networks of its own: growing needs both halves of the pair to know of it."""
    add.method("progan", "gantk_progan.model:ProGAN")
