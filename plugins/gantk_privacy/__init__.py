"""Whether a model from noise gives its training images away: the metric `memorisation`, and copies in the report."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """A metric of sets, which is several scores."""
    add.metric("memorisation", "gantk_privacy.memorisation:Memorisation")


@hookimpl
def gantk_tested(run, result, scorer) -> None:
    """Ask the discriminator too, raise the alarm and keep the likeliest copies, where the metric is asked for."""
    for metric in scorer.set_metrics:
        if metric.name.startswith("memorisation") and "image" in result["metrics"]:
            from gantk_privacy.copies import keep

            keep(run, result, scorer, metric)


@hookimpl
def gantk_report(record):
    """The section `Nearest training images`, where they were kept."""
    from gantk_privacy.copies import section

    return section(record)
