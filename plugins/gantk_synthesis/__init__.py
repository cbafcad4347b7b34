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
        paper=(
            "Huang, Gokaslan, Kuleshov, Tompkin: The GAN is dead; long live the GAN! A"
            " Modern GAN Baseline, NeurIPS 2024, arXiv:2501.05441"
        ),
    )
    add.method(
        "dcgan",
        "gantk_synthesis.dcgan.model:DCGAN",
        usual_steps=3000,
        paper=(
            "Radford, Metz, Chintala: Unsupervised Representation Learning with Deep"
            " Convolutional Generative Adversarial Networks, ICLR 2016, arXiv:1511.06434"
        ),
    )
    add.method(
        "progan",
        "gantk_synthesis.progan.model:ProGAN",
        also=("pggan", "progressive_gan"),
        paper=(
            "Karras, Aila, Laine, Lehtinen: Progressive Growing of GANs for Improved"
            " Quality, Stability, and Variation, ICLR 2018, arXiv:1710.10196"
        ),
    )
    add.method(
        "vae",
        "gantk_synthesis.vae.model:VAE",
        paper=("Kingma, Welling: Auto-Encoding Variational Bayes, ICLR 2014, arXiv:1312.6114"),
    )


@hookimpl
def gantk_images_scored(run, result, scorer) -> None:
    """Add scores and pictures of reconstructed test images to runs of the method vae."""
    if scorer.model.method.name == "vae":
        from gantk_synthesis.vae.scoring import add_reconstructions

        add_reconstructions(run, scorer, result)
