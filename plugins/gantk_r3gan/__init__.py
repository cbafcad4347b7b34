"""R3GAN (Huang et al. 2024) as a gantk plugin."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """One method with networks of its own: its loss and penalties were proven for the pair, not for
    any one half.
    """
    add.method("r3gan", "gantk_r3gan.model:R3GAN")
