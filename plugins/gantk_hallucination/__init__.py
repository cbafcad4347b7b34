"""Finds invented and lost structures: the metric `sfrc`, patches in the report, `--uncertainty
suspicion`.
"""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register a metric and a kind of uncertainty."""
    add.metric("sfrc", "gantk_hallucination.sfrc:SFRC")
    add.uncertainty("suspicion", "gantk_hallucination.maps:Suspicion")


@hookimpl
def gantk_tested(run, tested, scorer) -> None:
    """Save the most suspicious patches of the test images, if the recipe has the metric `sfrc`."""
    if any(metric.name == "sfrc" for metric in scorer.pairs.metrics):
        from gantk_hallucination.patches import keep

        keep(run, tested)


@hookimpl
def gantk_report(record):
    """Return the section `Suspicious patches` of the report; None where no patches were saved."""
    from gantk_hallucination.patches import section

    return section(record)
