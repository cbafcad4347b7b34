"""DCGAN (Radford et al. 2016) as a gantk plugin."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """The method and its discriminator; its generator lies beside them, its losses are the core's or anyone's."""
    add.discriminator("dcgan", "gantk_dcgan.network:DCGANDiscriminator")
    add.method("dcgan", "gantk_dcgan.model:DCGAN")
