"""Variational autoencoders (Kingma & Welling 2014) and VAE-GANs (Larsen et al. 2016) as a gantk
plugin.
"""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the method vae; it has its own networks and takes any registered adversarial loss."""
    add.method("vae", "gantk_vae.model:VAE")


@hookimpl
def gantk_tested(run, tested, result, scorer) -> None:
    """Add scores and pictures of reconstructed test images to a run of this method."""
    if scorer.model.method.name == "vae":
        from gantk_vae.scoring import add_reconstructions

        add_reconstructions(run, scorer, result)
