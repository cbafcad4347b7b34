"""Images from noise: DCGAN, ProGAN, R3GAN and variational autoencoders."""

from gantk import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the methods and their networks."""
    add.discriminator(
        "dcgan", "gantk_synthesis.dcgan.network:DCGANDiscriminator", small={"width": 4, "depth": 2}
    )
    add.method(
        "r3gan",
        "gantk_synthesis.r3gan.model:R3GAN",
        usual_steps=3000,
        plan="gantk_synthesis.planning:plan",
    )
    add.method("dcgan", "gantk_synthesis.dcgan.model:DCGAN", usual_steps=3000)
    add.method("progan", "gantk_synthesis.progan.model:ProGAN", also=("pggan", "progressive_gan"))
    add.method("vae", "gantk_synthesis.vae.model:VAE")


@hookimpl
def gantk_images_scored(run, result, scorer) -> None:
    """Add scores and pictures of reconstructed test images to runs of the method vae."""
    if scorer.model.method.name == "vae":
        from gantk_synthesis.vae.scoring import add_reconstructions

        add_reconstructions(run, scorer, result)
