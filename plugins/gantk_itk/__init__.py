"""NRRD and MetaImage, the formats of ITK and 3D Slicer."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the formats nrrd and metaimage; neither needs a library."""
    add.format("nrrd", "gantk_itk.itk:Nrrd")
    add.format("metaimage", "gantk_itk.itk:MetaImage")
