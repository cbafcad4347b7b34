"""How sure a score is: patients, not slices, are what was sampled, so patients are what is drawn again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gantk.errors import UserError

DRAWS = 2000


@dataclass(frozen=True)
class Estimate:
    """A mean over patients, its 95 % interval, and how many patients stand behind it."""

    value: float | None  # None where no image could be scored
    ci95: tuple[float, float] | None  # None for fewer than two patients: one says nothing about the others
    n: int


def per_patient(values: Sequence[float], patients: Sequence[str]) -> dict[str, float]:
    """Mean over each patient's images. An unknown patient ("") has one image; nan (not scorable) is left out."""
    if len(values) != len(patients):
        raise UserError(f"{len(values)} values cannot belong to the patients of {len(patients)} images")
    groups: dict[str, list[float]] = {}
    for index, (value, patient) in enumerate(zip(values, patients, strict=True)):
        if not np.isnan(value):
            groups.setdefault(patient or f"image {index}", []).append(float(value))
    return {patient: float(np.mean(group)) for patient, group in groups.items()}


def estimate(values: Sequence[float], patients: Sequence[str], *, seed: int = 0, draws: int = DRAWS) -> Estimate:
    """Mean over images, then over patients, with a percentile interval from drawing patients with replacement.

    The same seed gives the same interval (Efron, 1979).
    """
    means = np.array(list(per_patient(values, patients).values()))
    if len(means) < 2:
        return Estimate(float(means[0]) if len(means) else None, None, len(means))
    low, high = np.percentile(drawn_means(means, seed, draws), [2.5, 97.5])
    return Estimate(float(means.mean()), (float(low), float(high)), len(means))


def probability_better(
    model: Sequence[float],
    baseline: Sequence[float],
    patients: Sequence[str],
    *,
    higher_is_better: bool,
    seed: int = 0,
    draws: int = DRAWS,
) -> float | None:
    """Share of draws of patients in which the model's mean beats the baseline's on the same patients; ties count half.

    Paired, so that patients who are hard for both do not hide a difference. None for fewer than two patients.
    """
    gains = np.asarray(model, dtype=float) - np.asarray(baseline, dtype=float)
    means = np.array(list(per_patient(gains if higher_is_better else -gains, patients).values()))
    if len(means) < 2:
        return None
    drawn = drawn_means(means, seed, draws)
    return float((drawn > 0).mean() + (drawn == 0).mean() / 2)


def drawn_means(means: np.ndarray, seed: int, draws: int) -> np.ndarray:
    """The mean of each of `draws` samples, with replacement and of the same size."""
    picks = np.random.default_rng(seed).integers(0, len(means), (draws, len(means)))
    return means[picks].mean(axis=1)
