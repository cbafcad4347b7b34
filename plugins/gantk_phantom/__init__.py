"""A data source that computes registered brain MR and CT of seeded heads, without any download."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the source phantom."""
    add.source("phantom", "gantk_phantom.phantom:Phantom")
