"""A data source that joins several sources: for example patients' scans and synthetic heads, or two
studies.
"""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the source mixed."""
    add.source("mixed", "gantk_mixed.source:Mixed")
