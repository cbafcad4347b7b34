"""Variational autoencoders (Kingma & Welling 2014), alone or with a discriminator (Larsen et al. 2016), as a plugin."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """The method, with networks of its own; the adversarial loss is the core's or anyone's."""
    add.method("vae", "gantk_vae.model:VAE")


@hookimpl
def gantk_tested(run, tested, result, scorer) -> None:
    """Add scores and pictures of reconstructed test images to a run of this method."""
    if scorer.model.method.name == "vae":
        from gantk_vae.scoring import add_reconstructions

        add_reconstructions(run, scorer, result)
