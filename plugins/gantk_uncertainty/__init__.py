"""Uncertainty maps of translations: `gantk translate RUN IN OUT --uncertainty auto`."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the kinds of uncertainty."""
    for name in ("auto", "flips", "dropout", "checkpoints", "cycle", "members"):
        add.uncertainty(name, f"gantk_uncertainty.maps:{name.capitalize()}")
