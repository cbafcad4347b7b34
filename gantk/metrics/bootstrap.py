"""How sure a score is: patients, not slices, are what was sampled, so patients are what is drawn again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gantk.errors import UserError

DRAWS = 2000
GROUPS = 20  # parts that a set of images is left out in, one at a time


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


def estimate_alike(values: Sequence[float], patients: Sequence[str], *, seed: int = 0, draws: int = DRAWS) -> Estimate:
    """Mean over the values, each counting alike however many its patient has; n is their number.

    For slices or volumes as such. The interval still comes from drawing patients, with all that is theirs.
    """
    if len(values) != len(patients):
        raise UserError(f"{len(values)} values cannot belong to the patients of {len(patients)} images")
    totals: dict[str, list[float]] = {}
    for index, (value, patient) in enumerate(zip(values, patients, strict=True)):
        if not np.isnan(value):
            total = totals.setdefault(patient or f"image {index}", [0.0, 0])
            total[0], total[1] = total[0] + float(value), total[1] + 1
    if not totals:
        return Estimate(None, None, 0)
    sums, counts = np.array(list(totals.values())).T
    value, n = float(sums.sum() / counts.sum()), int(counts.sum())
    if len(sums) < 2:
        return Estimate(value, None, n)
    picks = np.random.default_rng(seed).integers(0, len(sums), (draws, len(sums)))
    low, high = np.percentile(sums[picks].sum(1) / counts[picks].sum(1), [2.5, 97.5])
    return Estimate(value, (float(low), float(high)), n)


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


def left_out_interval(
    statistic: Callable[[np.ndarray, np.ndarray], float], real: Sequence[str], fake: Sequence[str]
) -> tuple[float, float] | None:
    """95 % interval of a number that belongs to two sets of images: by leaving out one group of patients at a time.

    `statistic` gives the number for the images that are kept, (indices of real, indices of fake); `real` and `fake` are
    their patients, at most 20 groups each. Drawing with replacement would put copies into a set, which such numbers
    take for likeness; leaving out does not. The two sets are independent, so their variances add (the two-sample
    jackknife, Arvesen 1969); the width is Student's for the smaller number of groups. None where a set is one
    patient's, or would be left with a single image.
    """
    from scipy.special import stdtrit

    sides = [parts_of(real), parts_of(fake)]
    whole = [np.arange(len(groups)) for groups in sides]
    counts = [len(set(groups.tolist())) for groups in sides]
    if min(counts) < 2:
        return None
    variance = 0.0
    for side, count in enumerate(counts):
        kept = [[np.flatnonzero(sides[s] != g) if s == side else whole[s] for s in (0, 1)] for g in range(count)]
        if min(len(indices[side]) for indices in kept) < 2:
            return None
        values = np.array([statistic(*indices) for indices in kept])
        variance += (count - 1) / count * float(np.square(values - values.mean()).sum())
    value, reach = statistic(*whole), float(stdtrit(min(counts) - 1, 0.975)) * variance**0.5
    return value - reach, value + reach


def drawn_interval(
    statistic: Callable[[np.ndarray], float], patients: Sequence[str], *, seed: int = 0, draws: int = 1000
) -> tuple[float, float] | None:
    """95 % percentile interval of `statistic(indices of images)` from drawing patients with replacement.

    For numbers that are no mean of images, such as an area under a curve; draws in which it is nan are left out. None
    for fewer than two patients.
    """
    names = [patient or f"image {index}" for index, patient in enumerate(patients)]
    members: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        members.setdefault(name, []).append(index)
    each = [np.array(indices) for indices in members.values()]
    if len(each) < 2:
        return None
    picks = np.random.default_rng(seed).integers(0, len(each), (draws, len(each)))
    values = [statistic(np.concatenate([each[i] for i in row])) for row in picks]
    values = [value for value in values if not np.isnan(value)]
    if not values:
        return None
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def parts_of(patients: Sequence[str]) -> np.ndarray:
    """The part (N,), 0 to 19, of each image: a patient's images share it; an unknown patient ("") has one image."""
    names = [patient or f"image {index}" for index, patient in enumerate(patients)]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] % GROUPS for name in names])
