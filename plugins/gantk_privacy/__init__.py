"""Tests whether a noise-to-image model copies its training images: metric `memorisation`, and a
report section.
"""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the metric memorisation, which returns several scores of a set."""
    add.metric("memorisation", "gantk_privacy.memorisation:Memorisation")


@hookimpl
def gantk_tested(run, result, scorer) -> None:
    """Where the recipe has the metric: score by the discriminator too, set the alarm and save the
    likeliest copies.
    """
    for metric in scorer.set_metrics:
        if metric.name.startswith("memorisation") and "image" in result["metrics"]:
            from gantk_privacy.copies import keep

            keep(run, result, scorer, metric)


@hookimpl
def gantk_report(record):
    """The report's section `Nearest training images`, if the run saved them."""
    from gantk_privacy.copies import section

    return section(record)
