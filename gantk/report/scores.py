"""Prepares metrics.json and best.json for the page: cards of all scores and baselines, and the
chosen checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from gantk.metrics.rows import region_of
from gantk.metrics.words import baseline_words
from gantk.plugin.loader import registry
from gantk.report import words
from gantk.report.run_record import RunRecord
from gantk.runs.folder import flat
from gantk.runs.results import Score

Systems = dict[str, dict[str, Score]]  # the model or a baseline -> metric -> its score


# ---- cards: every score beside its baselines


def cards(run: RunRecord) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Direction's label -> section -> its cards, in the order of metrics.json; uncertainty last."""
    sections_of: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for key, scores in run.results.metrics.items():
        sections = sections_of.setdefault(run.label(key), {})
        systems: Systems = {"model": scores}
        for name in run.results.baselines:
            systems[baseline_words(name)] = run.results.baseline(name, key)

        for names in _names_of_cards(scores):
            sections.setdefault(_section(names[0]), []).append(_card(names, systems))

        uncertainty = run.results.uncertainty.get(key)
        if uncertainty:
            sections["Uncertainty against error"] = [
                _card([name], {"model": {name: score}})
                for name, score in uncertainty.scores.items()
            ]

    return sections_of


def _names_of_cards(scores: Iterable[str]) -> list[list[str]]:
    """The scores of each card: all those of one metric in the same features, where it asks for it."""
    groups: dict[str, list[str]] = {}
    for name in scores:
        metric = registry().metric_of(name)
        features = name.partition("_")[2]
        key = f"{metric.card}, {features}" if metric and metric.card else name
        groups.setdefault(key, []).append(name)
    return list(groups.values())


def _section(name: str) -> str:
    """The section of a score's card."""
    region = region_of(name).capitalize()
    metric = registry().metric_of(name)
    return region or (metric.section if metric else "") or "Whole image"


def _card(names: list[str], systems: Systems) -> dict[str, Any]:
    """A card: the model's scores `names`, side by side, and beneath them those of the baselines
    that have any.

    `whiskers[name]`: positions in percent of the first score and its interval's ends, on one axis
    for all rows.
    """
    rows = {}
    ends = {}
    for system, scores in systems.items():
        if any(metric in scores for metric in names):
            rows[system] = [scores.get(metric) or Score() for metric in names]
            first = rows[system][0]
            ends[system] = [*(first.ends or (None, None)), first.value]

    finite = []
    for row in ends.values():
        finite += [end for end in row if end is not None and math.isfinite(end)]

    low = min(finite, default=0.0)
    high = max(finite, default=0.0)
    whiskers = {name: [_percent(end, low, high) for end in row] for name, row in ends.items()}
    metric = registry().metric_of(names[0])
    return {
        "names": names,
        "title": metric.card if metric else "",
        "score": rows["model"][0],
        "rows": rows,
        "whiskers": whiskers,
    }


def _percent(value: float | None, low: float, high: float) -> float | None:
    """The position of a value on a card's axis, which leaves a margin at both ends."""
    if value is None or not math.isfinite(value):
        return None
    if high <= low:
        return 50.0
    return 4 + 92 * (value - low) / (high - low)


# ---- the chosen checkpoint


def best_checkpoint(run: RunRecord) -> dict[str, Any]:
    """best.json for the page: the chosen step, the rule, and the table of candidates; {} where none
    was chosen.
    """
    step = run.best.step
    if step is None:
        return {}

    rows = [dict(flat(row)) for row in run.best.table]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = sorted(names, key=lambda name: {"step": -2, "score": -1, "barred": 1}.get(name, 0))
    barred = ""
    cells = []
    for row in rows:
        is_best = row.get("step") == step
        if is_best and not barred:
            barred = str(row.get("barred") or "")
        cells.append((is_best, [_cell(row.get(name)) for name in columns]))

    return {
        "step": step,
        "rule": run.best.rule,
        "barred": barred,
        "columns": [_column_title(run, name) for name in columns],
        "rows": cells,
    }


def _column_title(run: RunRecord, column: str) -> str:
    """The title of a column such as `a_to_b.kid_random`."""
    direction, _, metric = column.rpartition(".")
    title = words.metric_name(metric)
    return f"{run.label(direction)} {title}" if direction else title


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return words.number(value)
    if value is None:
        return "–"
    if type(value) is int:
        return f"{value:,}"
    return str(value)
