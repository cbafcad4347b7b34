"""Whether an uncertainty map knows where the errors are: AUROC, AUSE and rank correlation with the true errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from gantk.metrics.intervals import estimate, patient_names

KEPT = tuple(round(1 - step / 20, 2) for step in range(20))  # 100 % of the pixels, 95 %, ... down to 5 %
WORST = 0.9  # an error above this quantile of a patient's errors is one that a user would want to be warned of

Map = np.ndarray | Tensor


def judge_uncertainty(
    errors: Map,
    uncertainties: Map,
    foreground: Map,
    patients: Sequence[str],
    *,
    threshold: float | None = None,
) -> dict[str, Any]:
    """How well uncertainties predict errors, inside the foreground, each patient on its own: rows of metrics.json.

    `errors` (N, C, *size) are absolute and, like `threshold`, in any unit; `uncertainties` and `foreground` (above 0
    inside) have as many channels or one. All pixels of a patient are ranked together; an unknown patient ("") has one
    image. Values are means over patients, with a 95 % interval from drawing patients; nan is left out.

    - `auroc`: how probable it is that a pixel whose error is above `threshold` (None: the 90th percentile of its
      patient's errors) is more uncertain than one below. 1 perfect, 0.5 guessing; ties count half.
    - `ause`: mean distance of the rejection curve from the oracle's, both as shares of the whole error (Ilg et al.
      2018, 5.2). 0 perfect; `random` is what guessing gets.
    - `spearman`: rank correlation of error and uncertainty. 1 perfect, 0 guessing.
    - `rejection`: mean error of the share `kept` when the most uncertain pixels go first, beside the order of the
      errors themselves (`oracle`) and none at all (`random`). Equally uncertain pixels go in equal parts.
    """
    errors = np.asarray(errors)
    uncertainties, inside = (np.broadcast_to(np.asarray(m), errors.shape) for m in (uncertainties, foreground))
    images: dict[str, list[int]] = {}
    for index, patient in enumerate(patient_names(patients)):
        images.setdefault(patient, []).append(index)
    names, found, curves = [], [], []
    for name, chosen in images.items():
        e, u = errors[chosen], uncertainties[chosen]
        known = (inside[chosen] > 0) & np.isfinite(e) & np.isfinite(u)
        if not known.any():
            continue
        e, u = e[known].astype(np.float64), u[known].astype(np.float64)
        rejected, oracle, random = curve = _rejection(e, u), _rejection(e, e), np.full(len(KEPT), e.mean())
        names.append(name)
        curves.append(curve)
        found.append((_auroc(e, u, threshold), _area(rejected, oracle), _spearman(e, u), _area(random, oracle)))
    auroc, ause, spearman, guessed = zip(*found, strict=True) if found else ((), (), (), ())
    above = "patient-p90" if threshold is None else f"{threshold:g}"
    mean = [np.mean(column, axis=0).tolist() for column in zip(*curves, strict=True)] or [[], [], []]

    def row(values: Sequence[float], definition: str, higher_is_better: bool) -> dict[str, Any]:
        about = {"unit": "", "definition": f"{definition}/foreground", "higher_is_better": higher_is_better}
        return estimate(values, names).row() | about

    return {
        "auroc": row(auroc, f"auroc/error-above-{above}", True),
        "ause": row(ause, "ause/share-of-error/rejected-0-to-95-percent", False)
        | {"random": estimate(guessed, names, draws=1).value},
        "spearman": row(spearman, "spearman/error-uncertainty", True),
        "rejection": {"kept": list(KEPT), "error": mean[0], "oracle": mean[1], "random": mean[2]},
    }


def _rejection(errors: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Mean error of the kept shares, least `order` first; each of equal ones stands for their mean error."""
    _, places, counts = np.unique(order, return_inverse=True, return_counts=True)
    shared = np.repeat(np.bincount(places, errors) / counts, counts)
    kept = np.maximum(np.rint(np.array(KEPT) * len(errors)).astype(int), 1)
    return np.cumsum(shared)[kept - 1] / kept


def _area(curve: np.ndarray, oracle: np.ndarray) -> float:
    from scipy.integrate import trapezoid  # not needed before a training's end, and slow to import

    if curve[0] == 0:
        return float("nan")  # without an error there is nothing to predict
    rejected = 1 - np.array(KEPT)
    return float(trapezoid((curve - oracle) / curve[0], rejected) / rejected[-1])


def _auroc(errors: np.ndarray, uncertainties: np.ndarray, threshold: float | None) -> float:
    from sklearn.metrics import roc_auc_score

    large = errors > (np.quantile(errors, WORST) if threshold is None else threshold)
    return float(roc_auc_score(large, uncertainties)) if 0 < large.sum() < len(large) else float("nan")


def _spearman(errors: np.ndarray, uncertainties: np.ndarray) -> float:
    from scipy.stats import spearmanr

    if min(np.ptp(values) for values in (errors, uncertainties)) == 0:
        return float("nan")
    return float(spearmanr(errors, uncertainties).statistic)
