"""Whether an uncertainty map knows where the errors are: AUROC, AUSE and rank correlation with the true errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from gantk.metrics.intervals import estimate, patient_numbers

KEPT = np.array([round(1 - step / 20, 2) for step in range(20)])  # 100 % of the pixels, 95 %, ... down to 5 %
WORST = 0.9  # an error above this quantile of a patient's errors is one that a user would want to be warned of

Map = np.ndarray | Tensor


def judge_uncertainty(errors: Map, uncertainties: Map, foreground: Map, patients: Sequence[str]) -> dict[str, Any]:
    """How well uncertainties predict errors, inside the foreground, each patient on its own: rows of metrics.json.

    `errors` (N, C, *size) are absolute; `uncertainties` and `foreground` (above 0 inside) have as many channels or one.
    All pixels of a patient are ranked together; values are means over patients with their 95 % interval.

    - `auroc`: how probable it is that a pixel whose error is above the 90th percentile of its patient's errors is more
      uncertain than one below. 1 perfect, 0.5 guessing.
    - `ause`: mean distance of the rejection curve from the oracle's, as shares of the whole error (Ilg et al. 2018,
      5.2). 0 perfect; `random` is what guessing gets.
    - `spearman`: rank correlation of error and uncertainty. 1 perfect, 0 guessing.
    - `rejection`: mean error of the share `kept` when the most uncertain pixels go first, beside the order of the
      errors themselves (`oracle`) and none at all (`random`).
    """
    from scipy.stats import spearmanr
    from sklearn.metrics import roc_auc_score

    errors = np.asarray(errors)
    uncertainties, inside = (np.broadcast_to(np.asarray(m), errors.shape) for m in (uncertainties, foreground))
    numbers, found, curves, owners = patient_numbers(patients), [], [], []
    for number in range(len(set(numbers))):
        e, u = errors[numbers == number], uncertainties[numbers == number]
        known = (inside[numbers == number] > 0) & np.isfinite(e) & np.isfinite(u)
        if not known.any():
            continue
        e, u = e[known].astype(np.float64), u[known].astype(np.float64)
        large, varied = e > np.quantile(e, WORST), min(np.ptp(e), np.ptp(u)) > 0
        auroc = roc_auc_score(large, u) if large.any() and not large.all() else np.nan
        rejected, oracle, random = curve = _rejection(e, u), _rejection(e, e), np.full(len(KEPT), e.mean())
        spearman = spearmanr(e, u).statistic if varied else np.nan
        found.append((auroc, _area(rejected, oracle), spearman, _area(random, oracle)))
        curves.append(curve)
        owners.append(patients[int(np.argmax(numbers == number))])
    columns = np.array(found, dtype=float).reshape(-1, 4).T
    auroc, ause, spearman, guessed = (estimate(values, owners) for values in columns)
    mean = np.mean(curves, axis=0).tolist() if curves else [[], [], []]

    def row(values: Any, definition: str, higher: bool) -> dict[str, Any]:
        return values.row() | {"unit": "", "definition": f"{definition}/foreground", "higher_is_better": higher}

    return {
        "auroc": row(auroc, "auroc/error-above-patient-p90", True),
        "ause": row(ause, "ause/share-of-error/rejected-0-to-95-percent", False) | {"random": guessed.value},
        "spearman": row(spearman, "spearman/error-uncertainty", True),
        "rejection": {"kept": KEPT.tolist(), "error": mean[0], "oracle": mean[1], "random": mean[2]},
    }


def _rejection(errors: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Mean error of the kept shares, least `order` first; each of equal ones stands for their mean error."""
    _, places, counts = np.unique(order, return_inverse=True, return_counts=True)
    shared = np.repeat(np.bincount(places, errors) / counts, counts)
    kept = np.maximum(np.rint(KEPT * len(errors)).astype(int), 1)
    return np.cumsum(shared)[kept - 1] / kept


def _area(curve: np.ndarray, oracle: np.ndarray) -> float:
    """Between both, as a share of the whole error; nan where there is no error to predict."""
    if not curve[0]:
        return float("nan")
    apart = (curve - oracle) / curve[0]
    return float((apart[1:] + apart[:-1]).mean() / 2)
