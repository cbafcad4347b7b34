"""Scores of subgroups of patients by a column such as scanner, sex or age."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from gantk.errors import UserError, did_you_mean
from gantk.metrics.evaluate import Scorer, Tested
from gantk.metrics.intervals import estimate
from gantk.metrics.pair_scores import FOREGROUND
from gantk.metrics.references import OTHER
from gantk.metrics.verdict import short_metric_name, title_of
from gantk.recipe.tables import Model
from gantk.runs.results import Groups, Results

BAND_YEARS = 20  # width of an age band
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
    """Add `subgroups` by direction and column to results; returns lines on each column for a
    terminal.
    """
    columns = [name.lower() for name in scorer.model.evaluate.by]
    lines = []
    for direction, one in tested.items() if columns else ():
        title = title_of(direction, results.domains)
        results.subgroups[direction] = _subgroups_of(one, columns, scorer)
        for column, by_metric in results.subgroups[direction].items():
            for metric, groups in by_metric.items():
                if not metric.endswith(FOREGROUND):
                    said = f"{short_metric_name(metric)} by {column}: {groups.text()}"
                    lines.append(f"group    {title}: {said}")

    return lines


def _subgroups_of(
    one: Tested, columns: Sequence[str], scorer: Scorer
) -> dict[str, dict[str, Groups]]:
    """Column -> metric -> the groups of one direction's test images."""
    about = _patient_data(one, scorer)
    patients = np.array(one.scores.patients)
    found: dict[str, dict[str, Groups]] = {}
    for column in columns:
        found[column] = {}
        group_of_image = np.array(group_names(column, [row.get(column, "") for row in about]))
        for metric, values in one.scores.raw.items():
            groups = {}
            for name in np.unique(group_of_image).tolist():
                inside = group_of_image == name
                groups[name] = estimate(values[inside], patients[inside].tolist())
            found[column][metric] = Groups(groups=groups)

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
    """The group of each value: ages in bands of 20 years, else the value.

    Ages are years ("45", "89+") or DICOM age strings ("045Y", "018M").
    """
    of = _age_band if column == "age" else str
    return [of(value) if value else UNKNOWN for value in values]


def _age_band(age: str) -> str:
    match = re.match(r"(\d+(?:\.\d+)?)\s*([ymwd]?)\+?$", age, re.I)
    if match is None:
        return age
    per_year = {"m": 12, "w": 52.18, "d": 365.25}
    years = float(match[1]) / per_year.get(match[2].lower(), 1)
    low = int(years // BAND_YEARS) * BAND_YEARS
    return f"{low}-{low + BAND_YEARS - 1}"
