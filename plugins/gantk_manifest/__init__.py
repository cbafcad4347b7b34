"""Tables of images as a data source: a CSV, or rows given in Python."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Offer the source."""
    add.source("manifest", "gantk_manifest.source:Manifest")
