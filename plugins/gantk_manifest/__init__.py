"""Tables of images as a data source, a CSV or rows given in Python; and tables that say who is trained on."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Offer the source."""
    add.source("manifest", "gantk_manifest.source:Manifest")


@hookimpl(trylast=True)
def gantk_split(records, file, folds, fold):
    """What a CSV says."""
    from gantk_manifest.split_file import read_split_file

    return read_split_file(records, file, folds, fold)
