"""Whether an uncertainty map knows where the errors are: what remains when the most uncertain pixels are set aside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from gantk.metrics.bootstrap import estimate

KEPT = tuple(round(1 - step / 20, 2) for step in range(20))  # 100 % of the pixels, 95 %, ... down to 5 %
WORST = 0.9  # an error above this quantile of a patient's errors is one that a user would want to be warned of
AIR = 0.05  # of the data range: what is no brighter than this in any channel of any image is background

Map = np.ndarray | Tensor


def foreground(*images: Tensor, low: float, data_range: float) -> Tensor:
    """Where any of the images (N, C, *size) shows more than air: (N, 1, *size), bool.

    Hand in source and truth, in network intensities, `low` being black: a tissue may be black in one of them.
    """
    shown = [(image > low + AIR * data_range).any(1, keepdim=True) for image in images]
    for other in shown[1:]:
        shown[0] = shown[0] | other
    return shown[0]


def judge(
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
    groups = list(_by_patient(errors, uncertainties, foreground, patients))
    names = [name for name, _, _ in groups]
    curves = [(_rejection(e, u), _rejection(e, e), np.full(len(KEPT), e.mean())) for _, e, u in groups]
    areas = [_area(found, oracle) for found, oracle, _ in curves]
    guessed = [_area(random, oracle) for _, oracle, random in curves]
    aurocs = [_auroc(e, u, threshold) for _, e, u in groups]
    ranks = [_spearman(e, u) for _, e, u in groups]
    above = "patient-p90" if threshold is None else f"{threshold:g}"
    mean = [np.mean(column, axis=0).tolist() for column in zip(*curves, strict=True)] or [[], [], []]
    return {
        "auroc": _row(aurocs, names, f"auroc/error-above-{above}/foreground", True),
        "ause": _row(areas, names, "ause/share-of-error/rejected-0-to-95-percent/foreground", False)
        | {"random": estimate(guessed, names, draws=1).value},
        "spearman": _row(ranks, names, "spearman/error-uncertainty/foreground", True),
        "rejection": {"kept": list(KEPT), "error": mean[0], "oracle": mean[1], "random": mean[2]},
    }


def _row(values: list[float], patients: list[str], definition: str, higher_is_better: bool) -> dict[str, Any]:
    found = estimate(values, patients)
    return {
        "value": found.value,
        "ci95": list(found.ci95) if found.ci95 else None,
        "n": found.n,
        "unit": "",
        "definition": definition,
        "higher_is_better": higher_is_better,
    }


def _by_patient(errors: Map, uncertainties: Map, foreground: Map, patients: Sequence[str]):
    """(patient, errors, uncertainties) of each patient with a foreground, in one row each."""
    if len(patients) != len(errors):
        raise ValueError(f"{len(errors)} images cannot belong to the patients of {len(patients)}")
    errors = np.asarray(errors)
    uncertainties, inside = (np.broadcast_to(np.asarray(m), errors.shape) for m in (uncertainties, foreground))
    images: dict[str, list[int]] = {}
    for index, patient in enumerate(patients):
        images.setdefault(patient or f"image {index}", []).append(index)
    for name, chosen in images.items():
        e, u = errors[chosen], uncertainties[chosen]
        known = (inside[chosen] > 0) & np.isfinite(e) & np.isfinite(u)
        if known.any():
            yield name, e[known].astype(np.float64), u[known].astype(np.float64)


def _rejection(errors: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Mean error of the kept shares, least `order` first; each of equal ones stands for their mean error."""
    places = np.argsort(order, kind="stable")
    ordered, sorted_errors = order[places], errors[places]
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    counts = np.diff(np.append(first, len(ordered)))
    shared = np.repeat(np.add.reduceat(sorted_errors, first) / counts, counts)
    kept = np.maximum(np.rint(np.array(KEPT) * len(errors)).astype(int), 1)
    return np.cumsum(shared)[kept - 1] / kept


def _area(curve: np.ndarray, oracle: np.ndarray) -> float:
    from scipy.integrate import trapezoid  # not needed before a training's end, and slow to import

    if curve[0] == 0:
        return float("nan")  # without an error there is nothing to predict
    rejected = 1 - np.array(KEPT)
    return float(trapezoid((curve - oracle) / curve[0], rejected) / rejected[-1])


def _auroc(errors: np.ndarray, uncertainties: np.ndarray, threshold: float | None) -> float:
    """The Mann-Whitney statistic as a share of all pairs."""
    from scipy.stats import rankdata

    large = errors > (np.quantile(errors, WORST) if threshold is None else threshold)
    positive, negative = int(large.sum()), int((~large).sum())
    if not positive or not negative:
        return float("nan")
    ranks = rankdata(uncertainties)[large].sum()
    return float((ranks - positive * (positive + 1) / 2) / (positive * negative))


def _spearman(errors: np.ndarray, uncertainties: np.ndarray) -> float:
    from scipy.stats import rankdata

    ranks = [rankdata(values) for values in (errors, uncertainties)]
    if min(np.ptp(values) for values in ranks) == 0:
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])
