"""The data source over trees of NIfTI, NRRD and MetaImage volumes, as a gantk plugin."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the source nifti."""
    add.source("nifti", "gantk_nifti.source:Nifti")
