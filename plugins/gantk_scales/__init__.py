"""Intensity mappings: Nyul's for MR of several scanners, and the full scale of 8-bit or 16-bit
pictures.
"""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the mappings nyul and unit."""
    add.intensity("nyul", "gantk_scales.scales:Nyul")
    add.intensity("unit", "gantk_scales.scales:Unit")
