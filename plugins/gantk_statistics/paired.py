"""Tests of two systems on the same patients: p-values, the size of the effect, and how many patients it would need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gantk.metrics.intervals import estimate

EXACT, FLIPS = 20, 20_000  # patients up to which all signs are tried; random ones beyond
FEWEST, MOST = 6, 10_000  # patients: with fewer no sign-flip p falls below 0.05; more are not told
REACH = 2.802  # standard normal quantiles 0.975 + 0.80: the effect at 80 % power, in standard errors


def paired_test(gains: Sequence[float]) -> dict[str, Any] | None:
    """Two-sided tests of gains, one for each patient, being symmetric around 0; None for fewer than two patients.

    `p` is the sign-flip permutation test's (Fisher, 1935), exact up to 20 patients; `wilcoxon` the signed-rank test's;
    `effect` Hedges' g of paired differences, None where they are all alike; `needed` the patients that a paired test at
    5 % would need to find that effect with 80 % power, None for more than 10,000 or where there is no `effect`.
    """
    from scipy.stats import wilcoxon

    gains = np.asarray(gains, dtype=float)
    if (n := len(gains)) < 2:
        return None
    mean, effect = estimate(gains, [str(i) for i in range(n)]), hedges_g(gains)
    found = {"n": n, "gain": mean.value, "ci95": list(mean.ci95), "p": sign_flip_p(gains), "exact": n <= EXACT}
    found["wilcoxon"] = float(wilcoxon(gains).pvalue) if gains.any() else 1.0
    return found | {"effect": effect, "needed": patients_needed(effect)}


def sign_flip_p(gains: np.ndarray) -> float:
    """The share of sign patterns under which the sum of the gains is at least as far from 0 as it is."""
    reached = abs(gains.sum()) - 1e-9 * np.abs(gains).sum()  # ties are ties, however the sum was rounded
    if len(gains) <= EXACT:
        sums = gains[:1]  # the mirrored patterns are as far from 0
        for gain in gains[1:]:
            sums = np.concatenate([sums + gain, sums - gain])
        return float((np.abs(sums) >= reached).mean())
    signs = np.random.default_rng(0).integers(0, 2, (FLIPS, len(gains)), dtype=np.int8) * 2 - 1
    return float(1 + (np.abs(signs @ gains) >= reached).sum()) / (1 + FLIPS)


def hedges_g(gains: np.ndarray) -> float | None:
    """Cohen's d of paired differences, mean over deviation, without its bias in small samples (Hedges, 1981)."""
    from scipy.special import gammaln

    free, spread = len(gains) - 1, gains.std(ddof=1)
    if free < 2 or spread <= 1e-12 * np.abs(gains).max():
        return None
    return float(gains.mean() / spread * np.exp(gammaln(free / 2) - gammaln((free - 1) / 2)) / (free / 2) ** 0.5)


def patients_needed(effect: float | None) -> int | None:
    """The fewest patients with whom a two-sided paired t-test at 5 % finds this effect with 80 % power."""
    from scipy.special import nctdtr, stdtrit

    about = (REACH / effect) ** 2 if effect else np.inf
    if about > MOST:
        return None
    counts = np.arange(max(FEWEST, int(about) - 3), int(about) + 12)
    missed = nctdtr(counts - 1, abs(effect) * counts**0.5, stdtrit(counts - 1, 0.975))
    return int(counts[(missed <= 0.2).argmax()])
