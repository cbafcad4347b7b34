"""Intensity mappings: Nyul's for MR of several scanners, and that of pictures' full scale of 8 or 16 bits."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Offer the mappings."""
    add.intensity("nyul", "gantk_scales.scales:Nyul")
    add.intensity("unit", "gantk_scales.scales:Unit")
