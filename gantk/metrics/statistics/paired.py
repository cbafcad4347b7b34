"""Tests two systems on the same patients."""

from __future__ import annotations

from typing import cast

import numpy as np

from gantk.metrics.intervals import Values, estimate
from gantk.runs.results import PairedTest

# Up to this number of patients all sign patterns are tried, beyond it FLIPS random ones.
MAX_EXACT_PATIENTS = 20
FLIPS = 20_000


def paired_test(gains: Values) -> PairedTest | None:
    """Test whether gains, one for each patient, are symmetric around 0 (two-sided); None for fewer
    than two patients.

    `p` is of the sign-flip permutation test (Fisher, 1935), exact up to 20 patients. `ci95` is None
    below six patients, where no difference can be told from chance.
    """
    values = np.asarray(gains, dtype=float)
    if len(values) < 2:
        return None
    mean = estimate(values, [str(patient) for patient in range(len(values))])
    return PairedTest(
        n=len(values), gain=cast(float, mean.value), ci95=mean.ci95, p=sign_flip_p(values)
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
