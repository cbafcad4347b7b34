"""From metrics to rows of metrics.json: the same for the model and for its rivals, and who is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gantk.errors import UserError
from gantk.metrics.baselines import linearly_corrected
from gantk.metrics.bootstrap import estimate, probability_better
from gantk.metrics.lesions import LesionContrast
from gantk.metrics.sets import ImageGroup, Score

LESION = "_lesion"  # what the name of a score over the lesion masks ends with


@dataclass(frozen=True)
class Truth:
    """What outputs should be: images (N, C, *size), their patients, and lesion masks (N, 1, *size) where known."""

    images: Tensor
    patients: list[str]
    masks: Tensor | None = None


@dataclass(frozen=True)
class Scores:
    """One candidate's values: metric -> one number per image, raw and after the best linear correction."""

    raw: dict[str, np.ndarray]
    corrected: dict[str, np.ndarray]
    patients: list[str]


class PairScorer:
    """Scores of outputs against their truth by every pair metric; where lesions are known, over their masks too."""

    def __init__(self, metrics: Sequence[Any], low: float, data_range: float, dims: int, batch: int, device: Any):
        self.low, self.batch, self.device = low, batch, device
        self.whole = {metric.name: metric for metric in metrics}
        self.masked = {metric.name + LESION: metric for metric in metrics if hasattr(metric, "in_mask")}
        if self.masked:
            contrast = LesionContrast(data_range, dims)
            self.masked[contrast.name] = contrast

    def __call__(self, output: Tensor, truth: Truth, names: tuple[str, ...] = ()) -> Scores:
        """All scores; with `names` these alone, and of whole images only."""
        raw: dict[str, list] = {}
        corrected: dict[str, list] = {}
        for first in range(0, len(output), self.batch):
            part = slice(first, first + self.batch)
            # Metrics count from black: SSIM's luminance term means nothing where intensities change sign.
            made, real = (images[part].to(self.device) - self.low for images in (output, truth.images))
            fitted = None if names else linearly_corrected(made, real)
            for name, metric in self.whole.items():
                if not names or name in names:
                    raw.setdefault(name, []).append(metric(made, real).cpu())
                    if fitted is not None:
                        corrected.setdefault(name, []).append(metric(fitted, real).cpu())
            if truth.masks is not None and not names:
                mask = truth.masks[part].to(self.device)
                for name, metric in self.masked.items():
                    raw.setdefault(name, []).append(metric(made, real, mask).cpu())
        join = lambda values: {name: torch.cat(v).double().numpy() for name, v in values.items()}  # noqa: E731
        return Scores(join(raw), join(corrected), truth.patients)

    def rows(self, scores: Scores) -> dict[str, Any]:
        """metric -> row."""
        rows = {}
        for name, values in scores.raw.items():
            metric = self.whole.get(name) or self.masked[name]
            definition = metric.definition if name in self.whole else metric.in_mask
            rows[name] = report(metric, values, scores.patients, scores.corrected.get(name), definition)
        return rows

    def verdict(self, model: Scores, rivals: dict[str, Scores]) -> dict[str, Any]:
        """Per metric: the best baseline, whether the model's mean beats it, and how probable that is."""
        verdict = {}
        for name, values in model.raw.items():
            higher = (self.whole.get(name) or self.masked[name]).higher_is_better
            mean = estimate(values, model.patients, draws=1).value
            means = {rival: estimate(s.raw[name], s.patients, draws=1).value for rival, s in rivals.items()}
            means = {rival: value for rival, value in means.items() if value is not None}
            if higher is None or mean is None or not means:
                continue
            best = (max if higher else min)(means, key=means.get)
            p = probability_better(values, rivals[best].raw[name], model.patients, higher_is_better=higher)
            better = mean > means[best] if higher else mean < means[best]
            verdict[name] = {"better": bool(better), "best_baseline": best, "probability": p}
        return verdict


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


def set_verdict(model: dict[str, Any], rivals: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """As for pairs, from rows alone: how probable it is follows from the intervals, as if both erred independently."""
    verdict = {}
    for name, row in model.items():
        known = {rival: rows[name] for rival, rows in rivals.items() if rows.get(name, {}).get("value") is not None}
        higher = row["higher_is_better"]
        if row["value"] is None or higher is None or not known:
            continue
        best = (max if higher else min)(known, key=lambda rival, known=known: known[rival]["value"])
        gain = (row["value"] - known[best]["value"]) * (1 if higher else -1)
        verdict[name] = {"better": gain > 0, "best_baseline": best, "probability": _sure(gain, row, known[best])}
    return verdict


def _sure(gain: float, one: dict[str, Any], other: dict[str, Any]) -> float | None:
    if one["ci95"] is None or other["ci95"] is None:
        return None
    widths = [(row["ci95"][1] - row["ci95"][0]) / (2 * 1.96) for row in (one, other)]
    error = float(np.hypot(*widths))
    return NormalDist().cdf(gain / error) if error > 0 else float(gain > 0)
