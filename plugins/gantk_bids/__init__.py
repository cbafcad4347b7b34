"""Images in BIDS datasets (Gorgolewski et al. 2016) as a data source."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Offer the source."""
    add.source("bids", "gantk_bids.bids:Bids")
