"""DICOM: series and multi-frame objects read and written as images, and the data source over trees of them."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """A format and a data source; pydicom, which both need, comes with the extra `dicom`."""
    add.format("dicom", "gantk_dicom.format:Dicom")
    add.source("dicom", "gantk_dicom.source:Dicom")
