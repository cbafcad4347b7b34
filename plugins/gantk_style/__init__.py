"""Style transfer (Gatys et al. 2016) as a gantk plugin: a method, a step after any generator, and a command."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """The method and the post-step, thin skins on `gantk_style.transfer.transfer`; and the loss of styles by itself."""
    add.method("style", "gantk_style.model:Style")
    add.method("style_gan", "gantk_style.style_gan:StyleTransferGAN")
    add.loss("gram", "gantk_style.gram:GramStyle")
    add.post("style", "gantk_style.post:StylePost")


@hookimpl
def gantk_commands(cli) -> None:
    """`gantk stylize CONTENT STYLE OUT`."""
    from gantk_style.command import stylize

    cli.add_command(stylize)


@hookimpl
def gantk_tested(result, scorer) -> None:
    """Scores of how far translations of `style_gan` follow their example."""
    if scorer.model.method.name == "style_gan":
        from gantk_style.followed import add_scores

        add_scores(result, scorer)
