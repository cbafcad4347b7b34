"""Tests two systems on the same patients: p-values, effect size, and the number of patients for 80
% power.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from gantk.metrics.intervals import MIN_PATIENTS, Values, estimate
from gantk.runs.results import PairedTest

# Up to this number of patients all sign patterns are tried, beyond it FLIPS random ones.
MAX_EXACT_PATIENTS = 20
FLIPS = 20_000
MAX_NEEDED_PATIENTS = 10_000  # larger numbers are not stated
# standard normal quantiles 0.975 + 0.80: the effect at 80 % power, in standard errors
POWER_QUANTILES = 2.802


def paired_test(gains: Values) -> PairedTest | None:
    """Test whether gains, one for each patient, are symmetric around 0 (two-sided); None for fewer
    than two patients.

    `p` is of the sign-flip permutation test (Fisher, 1935), exact up to 20 patients; `wilcoxon` of
    the signed-rank test; `ci95` is None below six patients, where no difference can be told from
    chance; `effect` is Hedges' g of paired differences, None if they are all equal;
    `needed` is the number of patients for 80 % power of a paired test at 5 % for that effect, None
    above 10,000 or without an `effect`.
    """
    from scipy.stats import wilcoxon

    values = np.asarray(gains, dtype=float)
    n = len(values)
    if n < 2:
        return None

    mean = estimate(values, [str(i) for i in range(n)])
    effect = hedges_g(values)
    return PairedTest(
        n=n,
        gain=cast(float, mean.value),
        ci95=mean.ci95,
        p=sign_flip_p(values),
        wilcoxon=float(wilcoxon(values).pvalue) if values.any() else 1.0,
        effect=effect,
        needed=patients_needed(effect),
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


def hedges_g(gains: np.ndarray) -> float | None:
    """Hedges' g: Cohen's d of paired differences (mean / deviation), corrected for small samples
    (Hedges, 1981).
    """
    from scipy.special import gammaln

    free = len(gains) - 1
    spread = gains.std(ddof=1)
    if free < 2 or spread <= 1e-12 * np.abs(gains).max():
        return None

    ratio_of_gammas = np.exp(gammaln(free / 2) - gammaln((free - 1) / 2))
    return float(gains.mean() / spread * ratio_of_gammas / (free / 2) ** 0.5)


def patients_needed(effect: float | None) -> int | None:
    """The fewest patients with whom a two-sided paired t-test at 5 % finds this effect with 80 %
    power.
    """
    from scipy.special import nctdtr, stdtrit

    if not effect:
        return None

    about = (POWER_QUANTILES / effect) ** 2
    if about > MAX_NEEDED_PATIENTS:
        return None

    counts = np.arange(max(MIN_PATIENTS, int(about) - 3), int(about) + 12)
    missed = nctdtr(counts - 1, abs(effect) * counts**0.5, stdtrit(counts - 1, 0.975))
    return int(counts[(missed <= 0.2).argmax()])
