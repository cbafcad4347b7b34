"""Brain images that are computed, not downloaded: registered MR and CT of seeded heads."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Offer the source."""
    add.source("phantom", "gantk_phantom.phantom:Phantom")
