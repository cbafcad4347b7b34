"""Trained models as MONAI bundles: `gantk export RUN --format monai --out FOLDER`."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the exporter monai."""
    add.exporter("monai", "gantk_monai.bundle:Monai")
