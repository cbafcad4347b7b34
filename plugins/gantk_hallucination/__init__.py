"""Invented and vanished structure: the metric `sfrc`, suspicious patches in the report, `--uncertainty suspicion`."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """A metric and a kind of uncertainty."""
    add.metric("sfrc", "gantk_hallucination.sfrc:SFRC")
    add.uncertainty("suspicion", "gantk_hallucination.maps:Suspicion")


@hookimpl
def gantk_tested(run, tested, scorer) -> None:
    """Keep the most suspicious patches of the test images, where the metric `sfrc` is asked for."""
    if any(metric.name == "sfrc" for metric in scorer.pairs.metrics):
        from gantk_hallucination.patches import keep

        keep(run, tested)


@hookimpl
def gantk_report(record):
    """The section `Suspicious patches`, where they were kept."""
    from gantk_hallucination.patches import section

    return section(record)
