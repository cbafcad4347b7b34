"""Means over patients with 95 % intervals, from resampling patients, and the test of two systems;
fewer than `MIN_PATIENTS` have no interval.

Images whose patient is unknown ("") may be of one head: with any of them the number of patients is
unknown, and there is no interval and no test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from gantk.data.test_size import least_patients
from gantk.runs.results import PairedTest, Score

# with fewer no sign-flip p is below 0.05, and resampling repeats the same few values
MIN_PATIENTS = least_patients()
BOOTSTRAP_DRAWS = 2000
GROUPS = 20  # jackknife: groups of images that are left out, one at a time
# Up to this number of patients all sign patterns are tried, beyond it FLIPS random ones.
MAX_EXACT_PATIENTS = 20
FLIPS = 20_000

Values = Any  # numbers, one for each image: a sequence, an array or a column


def metric_score(metric: Any, found: Score, images: int | None, definition: str) -> Score:
    """A score with what its metric says of it."""
    about: dict[str, Any] = {
        "images": images,
        "unit": metric.unit,
        "definition": definition,
        "higher_is_better": metric.higher_is_better,
        "corrected": None,
    }
    if metric.of_sets:
        about["of_sets"] = True
    return found.model_copy(update=about)


def patient_numbers(patients: Sequence[str]) -> np.ndarray:
    """The number (N,) of each image's patient, in order of appearance; each unknown one ("") gets
    its own.
    """
    return head_numbers([patient or f"\0{index}" for index, patient in enumerate(patients)])


def head_numbers(patients: Sequence[str]) -> np.ndarray:
    """The number (N,) of each image's patient, in order of appearance; all unknown ones ("") share
    one.
    """
    return pd.factorize(np.array(patients, dtype=object))[0]


def count_patients(patients: Sequence[str]) -> int | None:
    """The number of the images' patients; None where that of any image is unknown ("")."""
    return None if "" in patients else len(set(patients))


def or_blocks(patients: Sequence[str]) -> Sequence[str]:
    """The patients to leave out of a score; where any is unknown, as many blocks of neighbouring
    images as there are groups, because neighbours are likely to show one person.
    """
    count = len(patients)
    return [f"block {GROUPS * i // count}" for i in range(count)] if "" in patients else patients


def group_numbers(patients: Sequence[str]) -> np.ndarray:
    """The jackknife group (N,), 0 to 19, of each image; images of one patient share a group."""
    return head_numbers(patients) % GROUPS


def estimate(values: Values, patients: Sequence[str], **about: Any) -> Score:
    """Mean over images, then over patients, with a percentile interval from resampling patients
    (Efron, 1979), expanded as for few patients Student's is (Hesterberg, 2015, section 5.3), and
    further keys of the score.

    Of fewer than `MIN_PATIENTS` it has the lowest and the highest patient in place of the interval;
    of unknown ones neither, and n is 1, as all may be one. nan (not scorable) is left out. Seeded:
    the same values give the same interval.
    """
    means = patient_means(values, patients)
    if not len(means):
        return Score(value=None, ci95=None, n=0, **about)
    value = float(means.mean())
    if "" in patients:
        return Score(value=value, ci95=None, n=1, patients_unknown=True, **about)

    ci95 = None
    if len(means) >= MIN_PATIENTS:
        from scipy.special import ndtr, stdtrit  # not before a first interval

        count = len(means)
        drawn = means[bootstrap_draws(count)].mean(axis=1)
        level = ndtr(-stdtrit(count - 1, 0.975) * (count / (count - 1)) ** 0.5)
        ci95 = np.quantile(drawn, [level, 1 - level]).tolist()
    elif len(means) > 1:
        about["range"] = [float(means.min()), float(means.max())]
    return Score(value=value, ci95=ci95, n=len(means), **about)


def probability_better(gains: np.ndarray) -> float | None:
    """Share of resamples of the patients in which their mean gain is positive; 0 counts half. None
    for fewer than `MIN_PATIENTS`.
    """
    if len(gains) < MIN_PATIENTS:
        return None

    drawn = gains[bootstrap_draws(len(gains))].mean(axis=1)
    return float((drawn > 0).mean() + (drawn == 0).mean() / 2)


def patient_means(values: Values, patients: Sequence[str]) -> np.ndarray:
    """The mean of each patient's values without nan, for patients with any value, in their order."""
    table = pd.Series(np.asarray(values, dtype=float))
    return table.groupby(head_numbers(patients)).mean().dropna().to_numpy()


def left_out_interval(
    statistic: Callable[[np.ndarray, np.ndarray], Any],
    real: Sequence[str],
    fake: Sequence[str],
    least: int = 2,
) -> tuple[Any, list[Any] | None]:
    """A statistic of two sets of images, and its 95 % interval by a jackknife over groups of
    patients.

    `statistic` returns a number, or an array of several, for the images that are kept: bools (R,)
    of the real ones, (F,) of the generated ones; `real` and `fake` are their patients. Resampling
    with replacement would put copies into a set, which such statistics take for similarity. Both
    variances add (two-sample jackknife, Arvesen 1969), the width is Student's. No interval if a set
    has unknown patients or fewer than `MIN_PATIENTS`, or would keep fewer than `least` images.
    """
    from scipy.special import stdtrit

    sides = [group_numbers(patients) for patients in (real, fake)]
    whole = [np.ones(len(groups), dtype=bool) for groups in sides]
    value = statistic(*whole)
    counts = [len(np.unique(groups)) for groups in sides]
    if (
        "" in {*real, *fake}
        or min(counts) < MIN_PATIENTS
        or any(len(groups) - np.bincount(groups).max() < least for groups in sides)
    ):
        return value, None

    variance = 0.0
    for side, (groups, count) in enumerate(zip(sides, counts, strict=True)):
        results = []
        for left_out in range(count):
            kept = list(whole)
            kept[side] = groups != left_out
            results.append(statistic(*kept))
        values = np.array(results)
        variance = variance + (count - 1) / count * np.square(values - values.mean(0)).sum(0)

    reach = float(stdtrit(min(counts) - 1, 0.975)) * variance**0.5
    return value, [value - reach, value + reach]


def estimate_share(right: np.ndarray, patients: Sequence[str] = (), **about: Any) -> Score:
    """The share of ones among zeros and ones, with the 95 % interval of Wilson (1927), and further
    keys of the score. Where all patients are known, the interval is that of as many trials as there
    are patients.
    """
    from scipy.stats import binomtest

    count = len(right)
    if count == 0:
        return Score(value=None, ci95=None, n=0, **about)
    trials = count_patients(patients) or count
    found = binomtest(round(trials * right.mean()), trials)
    ends = found.proportion_ci(method="wilson")
    return Score(value=float(right.mean()), ci95=[float(end) for end in ends], n=count, **about)


def bootstrap_draws(count: int) -> np.ndarray:
    """Seeded random indices (BOOTSTRAP_DRAWS, count) below `count`, with replacement."""
    return np.random.default_rng(0).integers(0, count, (BOOTSTRAP_DRAWS, count))


def paired_test(gains: Values) -> PairedTest | None:
    """Test whether gains, one for each patient, are symmetric around 0 (two-sided); None for fewer
    than two patients.

    `p` is of the sign-flip permutation test (Fisher, 1935), exact up to 20 patients. `ci95` is None
    below six patients, where no difference can be told from chance.
    """
    values = np.asarray(gains, dtype=float)
    count = len(values)
    if count < 2:
        return None
    mean = estimate(values, [*map(str, range(count))])
    return PairedTest(
        n=count,
        gain=float(values.mean()),
        wins=int((values > 0).sum()),
        ci95=mean.ci95,
        p=sign_flip_p(values),
    )


def sign_flip_p(gains: np.ndarray) -> float:
    """The share of sign patterns under which the sum of the gains is at least as far from 0 as it
    is.
    """
    reached = abs(gains.sum()) - 1e-9 * np.abs(gains).sum()  # rounding must not break ties
    if len(gains) <= MAX_EXACT_PATIENTS:
        sums = gains[:1]  # the first sign is fixed: mirrored patterns are equally far from 0
        for gain in gains[1:]:
            sums = np.concatenate([sums + gain, sums - gain])
        return float((np.abs(sums) >= reached).mean())

    signs = np.random.default_rng(0).integers(0, 2, (FLIPS, len(gains)), dtype=np.int8) * 2 - 1
    return float(1 + (np.abs(signs @ gains) >= reached).sum()) / (1 + FLIPS)
