"""From scores to rows of metrics.json: one number with all that belongs to it, for the model as for its rivals."""

from __future__ import annotations

from typing import Any

import numpy as np

from gantk.errors import UserError
from gantk.metrics.bootstrap import estimate
from gantk.metrics.sets import ImageGroup, Score


def report(
    metric: Any,
    values: np.ndarray,
    patients: list[str],
    corrected: np.ndarray | None = None,
    definition: str | None = None,
) -> dict[str, Any]:
    """One number with all that belongs to it: interval, n, unit, definition, linearly corrected score."""
    found = estimate(values, patients)
    return {
        "value": found.value,
        "ci95": list(found.ci95) if found.ci95 else None,
        "n": found.n,
        "images": int((~np.isnan(values)).sum()),
        "unit": metric.unit,
        "definition": definition or metric.definition,
        "higher_is_better": metric.higher_is_better,
        "corrected": estimate(corrected, patients, draws=1).value if corrected is not None else None,
    }


def set_rows(metric: Any, train: ImageGroup, test: ImageGroup, fake: ImageGroup, note: str = "") -> dict[str, Any]:
    """The rows of one set metric, most often one; `note` ends their definitions.

    What cannot be computed has no value, and its definition says why: one metric does not cost a training its others.
    """
    try:
        scores = scores_of(metric, train, test, fake)
    except UserError as error:
        scores = {metric.name: Score(None, None, len(fake), f"{metric.definition}/not-computed: {error}")}
    return {name: score_row(metric, score, note) for name, score in scores.items()}


def scores_of(metric: Any, train: ImageGroup, test: ImageGroup, fake: ImageGroup) -> dict[str, Score]:
    """A set metric's scores by name; UserError where it cannot judge these sets."""
    broken = len(fake) - int(fake.images.isfinite().flatten(1).all(1).sum())
    if broken:
        raise UserError(f"{broken} of {len(fake)} images hold NaN or infinite values")
    found = metric(train, test, fake)
    return found if isinstance(found, dict) else {metric.name: found}


def score_row(metric: Any, score: Score, note: str = "") -> dict[str, Any]:
    """As `report` for pairs."""
    return {
        "value": score.value,
        "ci95": list(score.ci95) if score.ci95 else None,
        "n": score.n,
        "images": score.n,
        "unit": metric.unit,
        "definition": score.definition + note,
        "higher_is_better": metric.higher_is_better,
        "corrected": None,
        **({"details": score.details} if score.details else {}),
    }
