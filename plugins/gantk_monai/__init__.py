"""Trained models as MONAI bundles."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Nothing yet that a recipe can name."""
