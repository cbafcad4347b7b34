"""BIDS: datasets as a data source, and translations of them as BIDS derivatives.

Gorgolewski et al. 2016, "The brain imaging data structure".
"""

from gantk import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the source."""
    add.source("bids", "gantk_bids.bids:Bids")


@hookimpl
def gantk_name_results(files, target, frame, model):
    """BIDS derivatives' names, sidecars and dataset_description.json, where the inputs have BIDS
    names.
    """
    if not any(file.name.startswith("sub-") for file in files):
        return None
    from gantk_bids.derivatives import derivatives

    return derivatives(files, target, frame, model)
