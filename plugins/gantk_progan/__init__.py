"""ProGAN (Karras et al. 2018) as a gantk plugin."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the method progan; it has its own networks, because both of them must support
    growing.
    """
    add.method("progan", "gantk_progan.model:ProGAN")
