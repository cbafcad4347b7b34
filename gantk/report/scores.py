"""Prepares metrics.json for pages: all scores of all systems."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gantk.metrics.names import baseline_words, split_region
from gantk.plugin.loader import registry
from gantk.report.run_record import RunRecord
from gantk.runs.results import Score

ScoresByMetric = Mapping[str, Score]  # by metric
# place among the compared runs (None: no run), name of the system, and its scores
GridRow = tuple[int | None, str, ScoresByMetric]


@dataclass(frozen=True)
class ScoreGrid:
    """Scores of several systems: a column for each score, a row for each system."""

    title: str
    columns: dict[str, Score]  # a score of each metric, which has its definition
    rows: list[GridRow]


def score_grids(run: RunRecord) -> dict[str, list[ScoreGrid]]:
    """Direction's label -> the scores of the model and of all baselines, a grid for each section."""
    grids: dict[str, list[ScoreGrid]] = {}
    for key, scores in run.results.metrics.items():
        systems: dict[str, ScoresByMetric] = {"model": scores}
        for name in run.results.baselines:
            systems[baseline_words(name)] = run.results.baseline(name, key)

        sections: dict[str, list[str]] = {}
        for metric in scores:
            sections.setdefault(_section(metric), []).append(metric)

        of_direction = grids.setdefault(run.label(key), [])
        for section, metrics in sections.items():
            columns = {metric: scores[metric] for metric in metrics}
            rows: list[GridRow] = []
            for name, of_system in systems.items():
                if columns.keys() & of_system.keys():
                    rows.append((None, name, of_system))

            of_direction.append(ScoreGrid(section, columns, rows))

    return grids


def _section(score: str) -> str:
    """The section of a score: its region, or what its metric names."""
    _, region = split_region(score)
    metric = registry().metric_of(score)
    section = metric.section if metric else ""
    return region.capitalize() or section or "Whole image"
