"""Scores of subgroups of patients by a column such as scanner, sex or age: means, the worst group,
and the gap.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from gantk.errors import UserError, did_you_mean
from gantk.metrics.evaluate import Scorer, Tested
from gantk.metrics.intervals import estimate, patient_means
from gantk.metrics.pair_scores import FOREGROUND
from gantk.metrics.references import OTHER
from gantk.metrics.statistics.comparing import correct_tests
from gantk.metrics.verdict import title_of
from gantk.recipe.tables import Model

LEAST = 5  # fewest patients of a group that is compared
SHUFFLES = 2000
YEARS = 20  # width of an age band
FEW = 8  # columns with more different numbers than this are divided into thirds
UNKNOWN = "not known"


def check_columns(model: Model) -> None:
    """Raise UserError where `evaluate.by` names a column that a recipe's data do not have."""
    source = model.data.source(model.data.domains, model.data.dims, model.data.size)
    columns = source.columns() if hasattr(source, "columns") else []
    for name in model.evaluate.by:
        if name.lower() not in columns:
            what = f"the data know no column '{name}' of their patients"
            none = (
                f"none: the source '{model.data.source.name}' has no table; manifest, bids and"
                " dicom have"
            )
            remedy = (
                did_you_mean(name.lower(), columns) or "name one that is there, or leave it out"
            )
            raise UserError(
                what, where="evaluate.by", allowed=", ".join(columns) or none, remedy=remedy
            )


def add_subgroups(
    tested: Mapping[str, Tested], result: dict[str, Any], scorer: Scorer
) -> Iterator[str]:
    """Add `subgroups` by direction and column to a result; returns lines on each column's worst
    group for a terminal.

    Each score has its groups (n, value, ci95) and, if two have five patients or more, the worst of
    these, the gap to the best, and the gap's p-value by random regrouping of the patients,
    corrected over all tests.
    """
    columns = [name.lower() for name in scorer.model.evaluate.by]
    if not columns or not tested:
        return iter(())
    found = {direction: _subgroups_of(one, columns, scorer) for direction, one in tested.items()}
    rows = [
        (direction, column, metric, row)
        for direction, by_column in found.items()
        for column, by_metric in by_column.items()
        for metric, row in by_metric.items()
    ]
    correct_tests([row for *_, row in rows if "p" in row])
    result["subgroups"] = found
    lines = []
    for direction, column, metric, row in rows:
        if not metric.endswith(FOREGROUND):
            title = title_of(direction, result.get("domains", []))
            lines.append(f"group    {title}: {metric} {_said(column, row)}")
    return iter(lines)


def _subgroups_of(
    one: Tested, columns: Sequence[str], scorer: Scorer
) -> dict[str, dict[str, dict[str, Any]]]:
    """Column -> metric -> the groups of one direction's test images, see `_scored`."""
    about: list[dict[str, str]] = [{} for _ in one.pairs]  # of each pair, its target's first
    for letter in (one.to, OTHER[one.to]):
        rows = scorer.data.source.about([pair[letter] for pair in one.pairs])
        for known, row in zip(about, rows, strict=True):
            known |= {key: value for key, value in row.items() if value}
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for column in columns:
        found[column] = {}
        groups = banded(column, [row.get(column, "") for row in about])
        for (kind, metric), values in one.scores.values.items():
            higher = one.senses[metric] if kind == "raw" else None
            if higher is not None:
                found[column][metric] = _scored(values, groups, one.scores.patients, higher)
    return found


def banded(name: str, values: Sequence[str]) -> list[str]:
    """The group of each value: ages in bands of 20 years, other numbers in thirds if there are
    many, else the value.

    Ages are years ("45", "89+") or DICOM age strings ("045Y", "018M").
    """
    as_they_are = [value or UNKNOWN for value in values]
    numbers = [_number(name, value) if value else None for value in values]
    texts = any(value and number is None for value, number in zip(values, numbers, strict=True))
    if not any(values) or texts:
        return as_they_are
    if name == "age":
        bands = [None if years is None else int(years // YEARS) * YEARS for years in numbers]
        return [UNKNOWN if low is None else f"{low}-{low + YEARS - 1}" for low in bands]
    known = [number for number in numbers if number is not None]
    if len(set(known)) <= FEW:
        return as_they_are
    thirds = np.quantile(known, [1 / 3, 2 / 3])
    ends = [min(known), *thirds.tolist(), max(known)]
    names = [f"{low:g} to {high:g}" for low, high in pairwise(ends)]
    return [
        UNKNOWN if number is None else names[int(np.searchsorted(thirds, number, "right"))]
        for number in numbers
    ]


def _number(name: str, text: str) -> float | None:
    """The number in a cell, of an age in years; None where it is a text."""
    if name != "age":
        return float(text) if re.match(r"-?\d+(?:\.\d+)?$", text) else None
    match = re.match(r"(\d+(?:\.\d+)?)\s*([ymwd]?)\+?$", text, re.I)
    if match is None:
        return None
    per_year = {"m": 12, "w": 52.18, "d": 365.25}
    return float(match[1]) / per_year.get(match[2].lower(), 1)


def _scored(
    values: np.ndarray, groups: Sequence[str], patients: Sequence[str], higher: bool
) -> dict[str, Any]:
    """One score's groups; with two large ones or more, also the worst and the best, their gap and
    its p-value.
    """
    which = np.array(groups)
    rows = {}
    means = {}
    for name in sorted(set(groups)):
        own = [patient for patient, group in zip(patients, groups, strict=True) if group == name]
        rows[name] = estimate(values[which == name], own).row()
        if rows[name]["n"] >= LEAST and name != UNKNOWN:
            means[name] = patient_means(values[which == name], own)
    result: dict[str, Any] = {
        "groups": rows,
        "too_few": [name for name in rows if name not in means],
    }
    if len(means) < 2:
        return result
    worst, best = (
        pick(means, key=lambda name: means[name].mean())
        for pick in ((min, max) if higher else (max, min))
    )
    gap = abs(means[best].mean() - means[worst].mean())
    every = np.concatenate([*means.values()])
    ends = np.cumsum([len(own) for own in means.values()])[:-1]
    rng = np.random.default_rng(0)
    gaps = [
        np.ptp([part.mean() for part in np.split(rng.permutation(every), ends)])
        for _ in range(SHUFFLES)
    ]
    chance = (1 + sum(wide >= gap * (1 - 1e-9) for wide in gaps)) / (1 + SHUFFLES)
    return result | {"worst": worst, "best": best, "gap": float(gap), "p": float(chance)}


def _said(name: str, row: Mapping[str, Any]) -> str:
    cells = [
        f"{group} {one['value']:.4g} (n={one['n']})"
        for group, one in row["groups"].items()
        if one["n"]
    ]
    few = f"; too few (under {LEAST}): {', '.join(row['too_few'])}" * bool(row["too_few"])
    if "gap" not in row:
        return f"by {name}: {', '.join(cells)}{few}"
    return (
        f"by {name}: {', '.join(cells)}; worst {row['worst']}, gap {row['gap']:.3g}, Holm"
        f" {row['holm']:.2g}{few}"
    )
