"""One score at several levels: beside the mean over patients, that over slices and that over whole volumes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gantk.metrics.bootstrap import estimate_alike


@dataclass(frozen=True)
class Values:
    """One score of every image: (N,), nan where it cannot be scored; where it follows from a mean, that and its weight.

    Of PSNR the mean is that of the squared error, and the weight the number of pixels it was taken over.
    """

    scores: np.ndarray
    means: np.ndarray | None = None
    weights: np.ndarray | None = None


def per_level(
    values: Values, patients: Sequence[str], volumes: Sequence[str], dims: int, of_mean: Callable | None = None
) -> dict[str, dict[str, Any]]:
    """ "slice" and "volume": value, ci95, n and how a volume's value was made; of volumes (dims 3) the latter alone.

    `volumes` names the volume that each slice belongs to, "" where unknown. Slices without known volumes, or one of
    each, have no level of their own for them.
    """
    if dims == 3:
        return {"volume": _level(values.scores, patients, "whole")}
    levels = {"slice": _level(values.scores, patients)}
    if any(volumes) and len(set(volumes)) < len(volumes):
        scores, owners, how = of_volumes(values, patients, volumes, of_mean)
        levels["volume"] = _level(scores, owners, how)
    return levels


def of_volumes(
    values: Values, patients: Sequence[str], volumes: Sequence[str], of_mean: Callable[[Tensor], Tensor] | None = None
) -> tuple[np.ndarray, list[str], str]:
    """(score of each volume, its patient, how): from what its slices pool to, else the mean of their scores.

    Pooled, a slice weighs as much as it has pixels: the PSNR is that of the whole volume's squared error.
    """
    members: dict[str, list[int]] = {}
    for index, volume in enumerate(volumes):
        members.setdefault(volume or f"image {index}", []).append(index)
    owners = [patients[indices[0]] for indices in members.values()]
    if of_mean is None or values.means is None or values.weights is None:
        scores = [_mean(values.scores[indices]) for indices in members.values()]
        return np.array(scores), owners, "mean-of-slices"
    pooled = [_mean(values.means[indices], values.weights[indices]) for indices in members.values()]
    return of_mean(torch.tensor(pooled, dtype=torch.float64)).numpy(), owners, "pooled-over-slices"


def _mean(values: np.ndarray, weights: np.ndarray | None = None) -> float:
    known = ~np.isnan(values)
    if not known.any():
        return float("nan")
    return float(np.average(values[known], weights=None if weights is None else weights[known]))


def _level(scores: np.ndarray, patients: Sequence[str], how: str = "") -> dict[str, Any]:
    found = estimate_alike(scores, patients)
    level = {"value": found.value, "ci95": list(found.ci95) if found.ci95 else None, "n": found.n}
    return level | ({"how": how} if how else {})
