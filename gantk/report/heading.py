"""The head of report.html: which recipe was run, and where it departs from the published system."""

from __future__ import annotations

from gantk.errors import join_first
from gantk.metrics.names import join_words
from gantk.recipe.published import (
    NOT_GIVEN,
    ON_IN_WORDS,
    PublishedSystem,
    is_within,
    published_system,
)
from gantk.report import words
from gantk.report.run_record import RunRecord
from gantk.runs.results import Score, ScoresByMetric

MAX_NAMED_KEYS = 3  # in one sentence; more are only counted


def what_was_run(run: RunRecord) -> list[tuple[str, str, str]]:
    """The settings that differ: key, the published value, or the recipe's where the report states
    none, and the value here.
    """
    record = run.environment.recipe
    system = system_of(run)
    rows = []
    if system is not None:
        rows = [(key, *values) for key, values in system.departures.items()]
        if system.data:
            rows.append(("data", system.data, run.data))

    for key, (of_file, here) in record.changed.items():
        if system is None:
            rows.append((key, of_file, here))
        # what the report states, or the run departs from within it, is compared with the report
        elif key in system.named or not (
            is_within(key, system.stated)
            or any(is_within(each, [key]) for each in system.departures)
        ):
            in_recipe = "not in the recipe" if of_file == NOT_GIVEN else f"in the recipe {of_file}"
            stated = ON_IN_WORDS if key in system.named else "not stated"
            if key not in system.departures:
                rows.append((key, f"{stated}; {in_recipe}", here))

    return rows


def system_of(run: RunRecord) -> PublishedSystem | None:
    """The published system of a run's recipe; None if it names none."""
    return published_system(run.recipe.dump(), run.environment.recipe.changed)


def figures_beside(
    system: PublishedSystem | None, direction: str, scores: ScoresByMetric
) -> dict[str, str]:
    """Metric -> the published figure as text, for the metrics that the run has of a direction; none
    beside another system than the published one.
    """
    figures = system.figures.get(direction, {}) if system and not system.other_system else {}
    return {
        metric: words.with_unit(Score(value=value, unit=scores[metric].unit), 2)
        for metric, value in figures.items()
        if metric in scores
    }


def figures_note(system: PublishedSystem | None) -> str:
    """What stands below every published figure in a table."""
    note = "other data, other protocol"
    if system is not None and system.other_settings:
        note += f", other settings: {join_first(system.other_settings, most=MAX_NAMED_KEYS)}"
    return note


def undefined_figures(system: PublishedSystem | None) -> str:
    """The published figures that the report does not define, as a sentence; "" if there are none."""
    if system is None or system.other_system or not system.undefined:
        return ""
    texts = [
        f"{words.metric_name(name)} {words.number(value, 5)}"
        for name, value in system.undefined.items()
    ]
    return (
        f"Published, undefined: {join_words(texts)}. The report does not say of what, by"
        " what, or on which images."
    )
