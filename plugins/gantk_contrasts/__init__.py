"""A data source over patients' folders with one file per contrast, for example T1 and FLAIR as
input, T2 as target.
"""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the source."""
    add.source("contrasts", "gantk_contrasts.source:Contrasts")
