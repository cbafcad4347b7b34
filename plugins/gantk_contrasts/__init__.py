"""Patients' folders with one file per contrast as a data source: T1 and FLAIR in, T2 out."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Offer the source."""
    add.source("contrasts", "gantk_contrasts.source:Contrasts")
