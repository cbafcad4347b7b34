"""Adversarial losses beside the core's bce and ls: hinge and wgan_gp."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the adversarial losses hinge and wgan_gp."""
    add.loss("hinge", "gantk_adversarial.loss:Hinge")
    add.loss("wgan_gp", "gantk_adversarial.loss:WGANGP")
