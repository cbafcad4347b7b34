"""Measures how well uncertainty maps predict position and size of errors: AUROC and coverage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from gantk.metrics.intervals import count_patients, estimate, patient_numbers
from gantk.runs.results import Scale, Score, Uncertainty

ONE_SPREAD = 0.6827  # share of normal errors within one standard deviation
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
    - `scale`: the factor on a spread with which 68.27 % of the errors of `fitted_on` are within it
      (conformal).
    - `coverage`: the share of errors within one scaled spread, ideally 0.6827; `unscaled` is that
      without the factor.
    """
    scale, others = _scale(*fitted_on) if fitted_on else (None, 0)
    rows = []
    owners = []
    for patient, e, u in _by_patient(errors, uncertainties, foreground, patients):
        worst = _auroc(e > np.quantile(e, WORST_QUANTILE), u)
        large = _auroc(e > LARGE_ERROR_SHARE * (span or np.inf), u)
        rows.append((worst, large, (e <= u * (scale or 1.0)).mean(), (e <= u).mean()))
        owners.append(patient)

    columns = np.array(rows, dtype=float).reshape(-1, 4).T
    auroc, auroc_10, within, unscaled = (estimate(values, owners) for values in columns)
    how = "not-scaled"
    if scale:
        how = f"scaled-by-{'unknown' if others is None else others}-validation-patients"

    def score(
        found: Score, definition: str, higher: bool | None, region: str = "foreground"
    ) -> Score:
        named = f"{definition}/{region}"
        about = {"unit": "", "definition": named, "higher_is_better": higher}
        return found.model_copy(update=about)

    of_large: dict[str, Score] = {}
    if span:
        name = "auroc/error-above-10-percent-of-range"
        of_large["auroc_10"] = score(auroc_10, name, True)
        if lesions is not None:
            inside = _by_patient(errors, uncertainties, lesions, patients)
            found = [(_auroc(e > LARGE_ERROR_SHARE * span, u), name) for name, e, u in inside]
            of_lesions = estimate([value for value, _ in found], [name for _, name in found])
            of_large["auroc_10_lesions"] = score(of_lesions, name, True, "lesions")

    coverage = score(within, f"errors-within-one-spread/nominal={ONE_SPREAD}/{how}", None)
    return Uncertainty(
        auroc=score(auroc, "auroc/error-above-patient-p90", True),
        **of_large,
        scale=Scale(factor=scale, patients=others),
        coverage=coverage.model_copy(update={"unscaled": unscaled.value}),
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
) -> tuple[float | None, int | None]:
    """The mean over patients of the factor with which one spread holds 68.27 % of the errors; and
    their number, None where that of any image is unknown.
    """
    factors = []
    names = []
    for patient, e, u in _by_patient(errors, uncertainties, foreground, patients):
        factors.append(np.quantile(e / np.maximum(u, 1e-6), ONE_SPREAD))
        names.append(patient)

    return (float(np.mean(factors)), count_patients(names)) if factors else (None, 0)
