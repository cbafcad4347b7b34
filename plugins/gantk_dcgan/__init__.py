"""DCGAN (Radford et al. 2016) as a gantk plugin."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the method and its discriminator; the generator is the method's own, the losses any
    registered ones.
    """
    add.discriminator("dcgan", "gantk_dcgan.network:DCGANDiscriminator")
    add.method("dcgan", "gantk_dcgan.model:DCGAN")
