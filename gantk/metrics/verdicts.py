"""Who is better: the model, or the best of the answers that anybody could have had without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import NormalDist
from typing import Any

import numpy as np

from gantk.metrics.bootstrap import estimate, probability_better
from gantk.metrics.pair_scores import Scores

WITH_PAIRS = ("intensity_map", "regression")  # baselines that were fitted on registered pairs
NO_RIVALS = ("real_split",)  # real images, as if made: what a perfect generator would get

Judge = Callable[[Mapping[str, Any]], dict[str, Any] | None]


def pair_verdict(model: Scores, rivals: Mapping[str, Scores], senses: Mapping[str, bool | None]) -> dict[str, Any]:
    """Per row: whether the model's mean beats the best baseline's, and in how many draws of patients it does.

    `senses`: row -> whether higher is better; None is not judged. A model whose outputs are no numbers is not better.
    """
    verdict = {}
    for name in model.raw:
        values = {rival: s.raw[name].scores for rival, s in rivals.items() if name in s.raw and not s.trouble(name)}
        if senses[name] is None:
            continue
        judged = _against_both(lambda some, name=name: _in_pairs(model, name, some, senses[name]), values)
        verdict |= {name: judged} if judged else {}
    return verdict


def set_verdict(model: dict[str, Any], rivals: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """As for pairs, from rows alone: how probable it is follows from the intervals, as if both erred independently."""
    verdict = {}
    for name, row in model.items():
        known = {rival: rows[name] for rival, rows in rivals.items() if rows.get(name, {}).get("value") is not None}
        if row["value"] is None or row["higher_is_better"] is None:
            continue
        judged = _against_both(lambda some, row=row: _by_intervals(row, some), known)
        verdict |= {name: judged} if judged else {}
    return verdict


def _against_both(judge: Judge, rivals: Mapping[str, Any]) -> dict[str, Any] | None:
    """The verdict over all rivals, and within it that over those that needed no pairs."""
    rivals = {name: rival for name, rival in rivals.items() if name not in NO_RIVALS}
    judged = judge(rivals)
    if judged is None:
        return None
    return judged | {"without_pairs": judge({n: rival for n, rival in rivals.items() if n not in WITH_PAIRS})}


def _in_pairs(model: Scores, name: str, rivals: Mapping[str, np.ndarray], higher: bool) -> dict[str, Any] | None:
    values, patients = model.raw[name].scores, model.truth.patients
    means = {rival: estimate(scores, patients, draws=1).value for rival, scores in rivals.items()}
    means = {rival: value for rival, value in means.items() if value is not None}
    if not means:
        return None
    best = (max if higher else min)(means, key=means.get)
    if model.trouble(name):
        return {"better": False, "best_baseline": best, "probability": 0.0}
    mean = estimate(values, patients, draws=1).value
    if mean is None:
        return None
    probability = probability_better(values, rivals[best], patients, higher_is_better=higher)
    better = mean > means[best] if higher else mean < means[best]
    return {"better": bool(better), "best_baseline": best, "probability": probability}


def _by_intervals(row: dict[str, Any], rivals: Mapping[str, dict[str, Any]]) -> dict[str, Any] | None:
    if not rivals:
        return None
    higher = row["higher_is_better"]
    best = (max if higher else min)(rivals, key=lambda rival: rivals[rival]["value"])
    gain = (row["value"] - rivals[best]["value"]) * (1 if higher else -1)
    return {"better": gain > 0, "best_baseline": best, "probability": _sure(gain, row, rivals[best])}


def _sure(gain: float, one: dict[str, Any], other: dict[str, Any]) -> float | None:
    if one["ci95"] is None or other["ci95"] is None:
        return None
    widths = [(row["ci95"][1] - row["ci95"][0]) / (2 * 1.96) for row in (one, other)]
    error = float(np.hypot(*widths))
    return NormalDist().cdf(gain / error) if error > 0 else (1 + float(np.sign(gain))) / 2
