"""Style transfer: a method, a post-step of any generator, and the command `gantk stylize`.

Gatys et al. 2016, "Image style transfer using convolutional neural networks".
"""

from gantk import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the methods style and style_gan, the loss gram and the post-step style."""
    add.method(
        "style",
        "gantk_style.model:Style",
        also=("neural_style", "gatys"),
        paper=(
            "Gatys, Ecker, Bethge: Image Style Transfer Using Convolutional Neural"
            " Networks, CVPR 2016, doi:10.1109/CVPR.2016.265"
        ),
    )
    add.method("style_gan", "gantk_style.style_gan:StyleTransferGAN", also=("paired_cyclegan",))
    add.loss("gram", "gantk_style.gram:GramStyle", also=("style", "gram_matrix"))
    add.post("style", "gantk_style.post:StylePost")


@hookimpl
def gantk_commands(cli) -> None:
    """Attach `gantk stylize CONTENT STYLE OUT`."""
    from gantk_style.command import stylize

    cli.add_command(stylize)


@hookimpl
def gantk_images_scored(result, scorer) -> None:
    """Add scores of how well translations of `style_gan` follow their example."""
    if scorer.model.method.name == "style_gan":
        from gantk_style.followed import add_scores

        add_scores(result, scorer)
