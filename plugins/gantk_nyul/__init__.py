"""Nyul's intensity mapping for MR of several scanners: the landmarks of each scan go to one scale."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Offer the mapping."""
    add.intensity("nyul", "gantk_nyul.nyul:Nyul")
