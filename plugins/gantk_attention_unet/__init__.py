"""The attention U-Net (Oktay et al. 2018) as a gantk plugin."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the generator."""
    add.generator("attention_unet", "gantk_attention_unet.network:AttentionUNet")
