"""A data source over a table of images (a CSV, or rows given in Python), and splits read from a
CSV.
"""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the source manifest."""
    add.source("manifest", "gantk_manifest.source:Manifest")


@hookimpl(trylast=True)
def gantk_split(records, file, folds, fold):
    """Split the records as a CSV states."""
    from gantk_manifest.split_file import read_split_file

    return read_split_file(records, file, folds, fold)
