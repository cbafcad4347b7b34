"""DICOM: series and multi-frame objects in and out, and a data source over DICOM trees."""

from gantk import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register a format and a data source; both need pydicom, which the extra `dicom` installs."""
    add.format("dicom", "gantk_dicom.format:Dicom")
    add.source("dicom", "gantk_dicom.source:Dicom")
