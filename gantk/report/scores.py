"""Prepares metrics.json and best.json for the page: cards of all scores and baselines, and the
chosen checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from gantk.metrics.words import baseline_words
from gantk.report import words
from gantk.report.run_record import RunRecord
from gantk.runs.folder import flat

NEIGHBOURS = ("precision", "recall", "density", "coverage")  # four scores that share one card
# first words of the names of scores of sets
SETS = ("fid", "kid", "prdc", "diversity", "two", "copied", "distance", "membership", *NEIGHBOURS)
# first words of downstream tasks' scores
TASKS = ("classification", "segmentation", "inventory", "accuracy", "dice")
FIELDS = ("value", "ci95", "unit", "definition", "higher_is_better", "corrected", "per", "in_units")
Baselines = dict[str, dict[str, words.Scored]]  # baseline -> metric -> its score


# ---- cards: every score beside its baselines


def cards(run: RunRecord) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Direction's label -> section -> its cards, in the order of metrics.json; uncertainty last."""
    sections_of: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for direction, scores in (run.metrics.get("metrics") or {}).items():
        sections = sections_of.setdefault(run.label(direction), {})
        systems = {"model": scores}
        for name, own in _baselines(run, direction).items():
            systems[baseline_words(name)] = own

        for names in _names_of_cards(scores):
            sections.setdefault(_section(names[0]), []).append(_card(names, systems))

        uncertainty = _uncertainty_cards(run, direction)
        if uncertainty:
            sections["Uncertainty against error"] = uncertainty

    return sections_of


def _uncertainty_cards(run: RunRecord, direction: str) -> list[dict[str, Any]]:
    entry = (run.metrics.get("uncertainty") or {}).get(direction) or {}
    found = []
    for name, row in entry.items():
        if isinstance(row, dict) and "value" in row:
            found.append(_card([name], {"model": {name: row}}))
    return found


def _names_of_cards(scores: Iterable[str]) -> list[list[str]]:
    """The scores of each card: those of nearest neighbours in the same features share one."""
    groups: dict[str, list[str]] = {}
    for name in scores:
        head, _, features = name.partition("_")
        key = f"neighbours in {features}" if head in NEIGHBOURS else name
        groups.setdefault(key, []).append(name)
    return list(groups.values())


def _section(name: str) -> str:
    """The section of a score's card."""
    region = words.region_of(name).capitalize()
    head = name.partition("_")[0]
    if region:
        return region
    if head in SETS:
        return "Sets of images"
    return "Tasks" if head in TASKS else "Whole image"


def _baselines(run: RunRecord, direction: str) -> Baselines:
    """Baseline -> metric -> its score; after the post-steps, the baselines are those of the plain
    direction.
    """
    plain = direction.removesuffix("_post")
    baselines = run.metrics.get("baselines") or {}
    return {
        name: scores.get(direction) or scores.get(plain) or {} for name, scores in baselines.items()
    }


def _card(names: list[str], scores: Baselines) -> dict[str, Any]:
    """A card: the model's scores `names`, side by side, and beneath them those of the baselines
    that have any.

    `whiskers[name]`: positions in percent of the first score and its interval's ends, on one axis
    for all rows.
    """
    blank = dict.fromkeys(FIELDS)
    rows = {}
    ends = {}
    for name, own in scores.items():
        if any(own.get(metric) for metric in names):
            rows[name] = [blank | (own.get(metric) or {}) for metric in names]
            first = rows[name][0]
            low, high = first["ci95"] or (None, None)
            ends[name] = [low, high, first["value"]]

    finite = []
    for row in ends.values():
        finite += [end for end in row if end is not None and math.isfinite(end)]

    low = min(finite, default=0.0)
    high = max(finite, default=0.0)
    whiskers = {name: [_percent(end, low, high) for end in row] for name, row in ends.items()}
    return {"names": names, "score": rows["model"][0], "rows": rows, "whiskers": whiskers}


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
    step = run.best.get("step")
    if step is None:
        return {}

    rows = [dict(flat(row)) for row in run.best.get("table") or ()]
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
        "rule": run.best.get("rule") or "",
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
