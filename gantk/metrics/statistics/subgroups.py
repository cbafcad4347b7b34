"""Scores of subgroups of patients by a column such as scanner, sex or age: means, the worst group,
and the gap.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from gantk.errors import UserError, did_you_mean
from gantk.metrics.evaluate import Scorer, Tested
from gantk.metrics.intervals import estimate, patient_means
from gantk.metrics.pair_scores import FOREGROUND
from gantk.metrics.references import OTHER
from gantk.metrics.statistics.comparing import corrected_p
from gantk.metrics.verdict import short_metric_name, title_of
from gantk.recipe.tables import Model
from gantk.runs.results import Groups, Results, Score

MIN_COMPARED_PATIENTS = 5  # smaller groups are listed, not compared
SHUFFLES = 2000
BAND_YEARS = 20  # width of an age band
MAX_SINGLE_NUMBERS = 8  # columns with more different numbers are divided into thirds
UNKNOWN = "not known"


def check_columns(model: Model) -> None:
    """Raise UserError where `evaluate.by` names a column that a recipe's data do not have."""
    source = model.data.source(model.data.domains, model.data.dims, model.data.size)
    columns = source.columns() if hasattr(source, "columns") else []
    for name in model.evaluate.by:
        if name.lower() in columns:
            continue

        none = (
            f"none: the source '{model.data.source.name}' has no table of patients; manifest, bids"
            " and dicom have one"
        )
        nearest = did_you_mean(name.lower(), columns)
        raise UserError(
            f"the data have no column '{name}' for patients",
            where="evaluate.by",
            allowed=", ".join(columns) or none,
            remedy=nearest or "name an existing column, or leave it out",
        )


def add_subgroups(tested: Mapping[str, Tested], results: Results, scorer: Scorer) -> list[str]:
    """Add `subgroups` by direction and column to results; returns lines on each column's worst
    group for a terminal.

    Each score has its groups (n, value, ci95) and, if two have five patients or more, the worst of
    these, the gap to the best, and the gap's p-value by random regrouping of the patients,
    corrected over all tests.
    """
    columns = [name.lower() for name in scorer.model.evaluate.by]
    if not columns or not tested:
        return []

    found = {direction: _subgroups_of(one, columns, scorer) for direction, one in tested.items()}
    results.subgroups = found
    lines = []
    scores = [
        (direction, column, metric, row)
        for direction, by_column in found.items()
        for column, by_metric in by_column.items()
        for metric, row in by_metric.items()
    ]
    compared = [groups for *_, groups in scores if groups.p is not None]
    corrected = corrected_p([groups.p or 0.0 for groups in compared])
    for groups, (holm, _) in zip(compared, corrected, strict=True):
        groups.holm = holm
    for direction, column, metric, row in scores:
        if not metric.endswith(FOREGROUND):
            title = title_of(direction, results.domains)
            lines.append(f"group    {title}: {short_metric_name(metric)} {_in_words(column, row)}")

    return lines


def _subgroups_of(
    one: Tested, columns: Sequence[str], scorer: Scorer
) -> dict[str, dict[str, Groups]]:
    """Column -> metric -> the groups of one direction's test images, see `_score_groups`."""
    about = _patient_data(one, scorer)
    found: dict[str, dict[str, Groups]] = {}
    for column in columns:
        found[column] = {}
        groups = group_names(column, [row.get(column, "") for row in about])
        for metric, values in one.scores.raw.items():
            higher = one.senses[metric]
            if higher is not None:
                found[column][metric] = _score_groups(values, groups, one.scores.patients, higher)

    return found


def _patient_data(one: Tested, scorer: Scorer) -> list[dict[str, str]]:
    """What the data's table knows of each pair's patient; the source image's row wins."""
    about: list[dict[str, str]] = [{} for _ in one.pairs]
    for letter in (one.to, OTHER[one.to]):
        rows = scorer.data.source.about([pair[letter] for pair in one.pairs])
        for known, row in zip(about, rows, strict=True):
            for column, value in row.items():
                if value:
                    known[column] = value

    return about


def group_names(column: str, values: Sequence[str]) -> list[str]:
    """The group of each value: ages in bands of 20 years, other numbers in thirds if there are
    many, else the value.

    Ages are years ("45", "89+") or DICOM age strings ("045Y", "018M").
    """
    numbers: dict[str, float] = {}
    for value in filter(None, values):
        number = _number(column, value)
        if number is None:  # a column of texts
            return [value or UNKNOWN for value in values]
        numbers[value] = number

    names: dict[str, str] = {}
    if column == "age":
        names = {value: _age_band(years) for value, years in numbers.items()}
    elif len(set(numbers.values())) > MAX_SINGLE_NUMBERS:
        names = _thirds(numbers, [numbers[value] for value in values if value])

    return [names.get(value, value) if value else UNKNOWN for value in values]


def _age_band(years: float) -> str:
    low = int(years // BAND_YEARS) * BAND_YEARS
    return f"{low}-{low + BAND_YEARS - 1}"


def _thirds(numbers: Mapping[str, float], known: Sequence[float]) -> dict[str, str]:
    """The third, such as `50 to 60`, of each value; a third has as many of the `known` numbers."""
    inner_ends = np.quantile(known, [1 / 3, 2 / 3])
    ends = [min(known), *inner_ends.tolist(), max(known)]
    names = [f"{low:g} to {high:g}" for low, high in pairwise(ends)]
    return {
        value: names[int(np.searchsorted(inner_ends, number, "right"))]
        for value, number in numbers.items()
    }


def _number(name: str, text: str) -> float | None:
    """The number in a cell, of an age in years; None where it is a text."""
    if name != "age":
        return float(text) if re.match(r"-?\d+(?:\.\d+)?$", text) else None
    match = re.match(r"(\d+(?:\.\d+)?)\s*([ymwd]?)\+?$", text, re.I)
    if match is None:
        return None
    per_year = {"m": 12, "w": 52.18, "d": 365.25}
    return float(match[1]) / per_year.get(match[2].lower(), 1)


def _score_groups(
    values: np.ndarray, groups: Sequence[str], patients: Sequence[str], higher: bool
) -> Groups:
    """One score's groups; with two large ones or more, also the worst and the best, their gap and
    its p-value.
    """
    group_of_image = np.array(groups)
    patient_of_image = np.array(patients)
    rows = {}
    compared: dict[str, np.ndarray] = {}  # group -> the mean of each patient
    for name in sorted(set(groups)):
        inside = group_of_image == name
        own = patient_of_image[inside].tolist()
        rows[name] = estimate(values[inside], own)
        if (rows[name].n or 0) >= MIN_COMPARED_PATIENTS and name != UNKNOWN:
            compared[name] = patient_means(values[inside], own)

    too_few = [name for name in rows if name not in compared]
    if len(compared) < 2:
        return Groups(groups=rows, too_few=too_few)

    means = {name: own.mean() for name, own in compared.items()}
    lowest = min(means, key=means.__getitem__)
    highest = max(means, key=means.__getitem__)
    worst, best = (lowest, highest) if higher else (highest, lowest)
    gap = abs(means[best] - means[worst])
    p = _chance_of_gap(gap, [*compared.values()])
    return Groups(groups=rows, too_few=too_few, worst=worst, best=best, gap=float(gap), p=p)


def _chance_of_gap(gap: float, groups: Sequence[np.ndarray]) -> float:
    """The p-value of a gap between means: how often random regrouping gives one as large."""
    every = np.concatenate(groups)
    ends = np.cumsum([len(own) for own in groups])[:-1]
    rng = np.random.default_rng(0)
    as_large = 0
    for _ in range(SHUFFLES):
        means = [part.mean() for part in np.split(rng.permutation(every), ends)]
        as_large += int(np.ptp(means) >= gap * (1 - 1e-9))

    return float((1 + as_large) / (1 + SHUFFLES))


def _in_words(name: str, row: Groups) -> str:
    words = f"by {name}: {row.text()}"
    if row.gap is not None:
        gap = Score(value=row.gap).text()
        words += f"; worst {row.worst}, gap {gap}, Holm {row.holm:.2g}"
    if row.too_few:
        words += f"; too few patients (under {MIN_COMPARED_PATIENTS}): {', '.join(row.too_few)}"
    return words
