"""A data source that misaligns registered pairs, to measure how much a method loses by that, and
the metric nmi.
"""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the source misaligned, which wraps another source, and normalised mutual
    information.
    """
    add.source("misaligned", "gantk_misaligned.source:Misaligned")
    add.metric("nmi", "gantk_misaligned.nmi:NMI")


@hookimpl
def gantk_tested(tested, result) -> None:
    """Where a run is scored by `nmi`, add that of output and input: it falls where an output moves
    off its input.
    """
    if any("nmi" in one.senses for one in tested.values()):
        from gantk_misaligned.nmi import add_nmi_of_inputs

        add_nmi_of_inputs(tested, result)
