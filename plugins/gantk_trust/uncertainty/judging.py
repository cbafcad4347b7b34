"""Measures how well uncertainty maps predict position and size of errors: AUROC, AUSE, rank
correlation, coverage.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from torch import Tensor

from gantk.metrics.intervals import estimate, patient_numbers
from gantk.runs.results import Scale, Score, Uncertainty

# 100 % of the pixels, 95 %, ... down to 5 %
KEPT_SHARES = np.array([round(1 - step / 20, 2) for step in range(20)])
NOMINAL = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.6827, 0.8, 0.9, 0.95, 0.99)  # nominal coverages
# coverage of one spread for normal errors, to which the scale is fitted
ONE = NOMINAL.index(0.6827)
# number of spreads for each coverage
SPREADS_FOR_NOMINAL = np.array([NormalDist().inv_cdf(0.5 + share / 2) for share in NOMINAL])
LARGE_ERROR_SHARE = 0.1  # share of the data range above which an error is large
WORST_QUANTILE = (
    0.9  # quantile of a patient's errors above which an error should have high uncertainty
)

Map = np.ndarray | Tensor


def judge_uncertainty(
    errors: Map,
    uncertainties: Map,
    foreground: Map,
    patients: Sequence[str],
    span: float = 0.0,
    fitted_on: tuple[Map, Map, Map, Sequence[str]] | None = None,
    lesions: Map | None = None,
) -> Uncertainty:
    """Score how well uncertainties predict errors in the foreground, patient by patient.

    `errors` (N, C, *size) are absolute; `uncertainties` and `foreground` (above 0 inside) have as
    many channels or one. All pixels of a patient are ranked together; values are means over
    patients with their 95 % interval.

    `span` is the data range; `fitted_on` are the same maps of other patients, to which the spread's
    scale is fitted. `lesions` (N, 1, *size) are above 0 in lesions.

    - `auroc`: the probability that a pixel with an error above the 90th percentile of its patient's
      errors is more
      uncertain than a pixel below. 1 perfect, 0.5 guessing.
    - `auroc_10`: the same for errors above 10 % of the range; patients without any are left out.
      `auroc_10_lesions`: the same in the lesions alone.
    - `ause`: mean distance of the rejection curve from the oracle's, as a share of the mean error
      (Ilg et al. 2018,
      5.2). 0 perfect; `random` is the value of guessing.
    - `spearman`: rank correlation of error and uncertainty. 1 perfect, 0 guessing.
    - `rejection`: mean error of the share `kept` when the most uncertain pixels are removed first;
      `oracle`: when
      those with the largest errors are; `random`: when random ones are.
    - `scale`: the factor on a spread with which 68.27 % of the errors of `fitted_on` are within it
      (conformal).
    - `coverage`: the share of errors within one scaled spread, ideally 0.6827; `unscaled` is that
      without the factor.
    - `reliability`: the `observed` and `unscaled` coverages at the spreads that hold `nominal` of
      normal errors.
    """
    from scipy.stats import spearmanr

    scale, others = _scale(*fitted_on) if fitted_on else (None, 0)
    scores = []
    curves = []
    covered = []
    owners = []
    for patient, e, u in _by_patient(errors, uncertainties, foreground, patients):
        varied = min(np.ptp(e), np.ptp(u)) > 0
        auroc = _auroc(e > np.quantile(e, WORST_QUANTILE), u)
        auroc_10 = _auroc(e > LARGE_ERROR_SHARE * (span or np.inf), u)
        rejected = _rejection(e, u)
        oracle = _rejection(e, e)
        random = np.full(len(KEPT_SHARES), e.mean())
        spearman = spearmanr(e, u).statistic if varied else np.nan
        scores.append((auroc, _area(rejected, oracle), spearman, _area(random, oracle), auroc_10))
        curves.append((rejected, oracle, random))
        spreads = SPREADS_FOR_NOMINAL * u[:, None]
        scaled = (e[:, None] <= spreads * (scale or 1.0)).mean(0)
        unscaled_share = (e[:, None] <= spreads).mean(0)
        covered.append([scaled, unscaled_share])
        owners.append(patient)

    columns = np.array(scores, dtype=float).reshape(-1, 5).T
    auroc, ause, spearman, guessed, auroc_10 = (estimate(values, owners) for values in columns)
    shares = np.array(covered).reshape(-1, 2, len(NOMINAL))
    within, raw = (estimate(shares[:, kind, ONE], owners) for kind in (0, 1))
    observed, unscaled = shares.mean(0).tolist() if len(shares) else ([], [])
    how = f"scaled-by-{others}-validation-patients" if scale else "not-scaled"
    mean = np.mean(curves, axis=0).tolist() if curves else [[], [], []]

    def score(
        found: Score, definition: str, higher: bool | None, region: str = "foreground"
    ) -> Score:
        named = f"{definition}/{region}"
        about = {"unit": "", "definition": named, "higher_is_better": higher}
        return found.model_copy(update=about)

    large = {}
    if span:
        name = "auroc/error-above-10-percent-of-range"
        large["auroc_10"] = score(auroc_10, name, True)
        if lesions is not None:
            inside = _by_patient(errors, uncertainties, lesions, patients)
            found = {patient: _auroc(e > LARGE_ERROR_SHARE * span, u) for patient, e, u in inside}
            of_lesions = estimate([*found.values()], [*found])
            large["auroc_10_lesions"] = score(of_lesions, name, True, "lesions")

    spread_name = f"errors-within-one-spread/nominal=0.6827/{how}"
    area = score(ause, "ause/share-of-error/rejected-0-to-95-percent", False)
    coverage = score(within, spread_name, None)
    return Uncertainty(
        auroc=score(auroc, "auroc/error-above-patient-p90", True),
        **large,
        ause=area.model_copy(update={"random": guessed.value}),
        spearman=score(spearman, "spearman/error-uncertainty", True),
        rejection={
            "kept": KEPT_SHARES.tolist(),
            "error": mean[0],
            "oracle": mean[1],
            "random": mean[2],
        },
        scale=Scale(factor=scale, patients=others),
        coverage=coverage.model_copy(update={"unscaled": raw.value}),
        reliability={"nominal": list(NOMINAL), "observed": observed, "unscaled": unscaled},
    )


def _auroc(large: np.ndarray, uncertainties: np.ndarray) -> float:
    """The area under the ROC curve of finding large errors by their uncertainty; nan where all or
    none are large.
    """
    from sklearn.metrics import roc_auc_score

    return roc_auc_score(large, uncertainties) if large.any() and not large.all() else np.nan


def _by_patient(errors: Map, uncertainties: Map, foreground: Map | int, patients: Sequence[str]):
    """Yield (patient, errors, uncertainties) of each patient, (P,) each: finite values in the
    foreground.
    """
    errors = np.asarray(errors)
    uncertainties, inside = (
        np.broadcast_to(np.asarray(m), errors.shape) for m in (uncertainties, foreground)
    )
    numbers = patient_numbers(patients)
    for number in range(len(set(numbers))):
        e = errors[numbers == number]
        u = uncertainties[numbers == number]
        known = (inside[numbers == number] > 0) & np.isfinite(e) & np.isfinite(u)
        if known.any():
            yield (
                patients[int(np.argmax(numbers == number))],
                e[known].astype(np.float64),
                u[known].astype(np.float64),
            )


def _scale(
    errors: Map, uncertainties: Map, foreground: Map, patients: Sequence[str]
) -> tuple[float | None, int]:
    """The mean over patients of the factor with which one spread holds 68.27 % of the errors; and
    their number.
    """
    factors = []
    for _, e, u in _by_patient(errors, uncertainties, foreground, patients):
        factors.append(np.quantile(e / np.maximum(u, 1e-6), NOMINAL[ONE]))

    return (float(np.mean(factors)), len(factors)) if factors else (None, 0)


def _rejection(errors: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Mean error of the shares KEPT_SHARES with the lowest `order`; pixels of equal order count
    with their mean error.
    """
    _, places, counts = np.unique(order, return_inverse=True, return_counts=True)
    shared = np.repeat(np.bincount(places, errors) / counts, counts)
    kept = np.maximum(np.rint(KEPT_SHARES * len(errors)).astype(int), 1)
    return np.cumsum(shared)[kept - 1] / kept


def _area(curve: np.ndarray, oracle: np.ndarray) -> float:
    """The area between two curves as a share of the mean error; nan where there is no error."""
    if not curve[0]:
        return float("nan")
    apart = (curve - oracle) / curve[0]
    return float((apart[1:] + apart[:-1]).mean() / 2)
