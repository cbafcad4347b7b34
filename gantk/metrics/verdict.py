"""Verdicts: whether the model beats the best baseline, and with which probability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from gantk.metrics.intervals import estimate, patient_gains, probability_better
from gantk.metrics.pair_scores import FOREGROUND, Scores
from gantk.metrics.statistics.paired import MIN_TEST_PATIENTS
from gantk.runs.results import Verdict

WITH_PAIRS = ("intensity_map", "regression")  # baselines fitted on registered pairs
CEILING = "real_split"  # real images scored as generated: the best possible score, no baseline
SIGNIFICANCE = 0.05  # of p-values that are corrected for all comparisons
# of scores of sets in old results, which state no p-value
MIN_PROBABILITY_BETTER = 0.95
MAX_FOREGROUND = 0.9  # largest plausible share of foreground in images of heads

# better than every baseline; ahead, but perhaps by chance; not better; not compared
Tone = Literal["good", "near", "bad", ""]
# a baseline's mean, and the details of the verdict against it
Rival = tuple[float | None, dict[str, Any]]


def tone_of(verdict: Verdict) -> Tone:
    """How a verdict may be shown: "good" only if the model is significantly better than every
    baseline, corrected for all comparisons, on six patients or more.
    """
    if verdict.better is None:
        return ""
    if not verdict.better:
        return "bad"
    return "good" if _is_significant(verdict) else "near"


def tested_patients(verdict: Verdict) -> int | None:
    """The number of patients that a verdict is based on; None if unknown."""
    if verdict.test is not None:
        return verdict.test.n
    return verdict.patients


def _is_significant(verdict: Verdict) -> bool:
    """Whether a difference is unlikely to be chance; with few patients it always may be."""
    patients = tested_patients(verdict)
    if patients is not None and patients < MIN_TEST_PATIENTS:
        return False
    if verdict.test is not None:
        holm = verdict.test.holm
        return (verdict.test.p if holm is None else holm) < SIGNIFICANCE
    if verdict.holm is not None:
        return verdict.holm < SIGNIFICANCE
    return (verdict.probability or 0.0) >= MIN_PROBABILITY_BETTER


def pair_verdict(
    model: Scores, baselines: Mapping[str, Scores], senses: Mapping[str, bool | None]
) -> dict[str, Any]:
    """For each row: whether the model's mean beats the best baseline's, and in which share of
    resamples of patients.

    `senses`: row -> whether higher is better; None: no verdict. A model with outputs that are not
    finite never wins.
    """
    verdicts = {}
    for kind, name in model.values:
        higher = senses[name] if kind == "raw" else None
        if higher is None:
            continue

        rivals = {
            rival: _rival(model, scores, name, higher)
            for rival, scores in baselines.items()
            if ("raw", name) in scores.values and not scores.trouble(name)
        }
        value: float | None
        if model.trouble(name):
            value = -np.inf if higher else np.inf
        else:
            value = estimate(model.values["raw", name], model.patients, draws=1).value

        verdict = _verdict(value, rivals, higher)
        if verdict:
            verdicts[name] = verdict

    return verdicts


def _rival(model: Scores, baseline: Scores, name: str, higher: bool) -> Rival:
    """A baseline's mean, the probability that the model is better, and each patient's gain."""
    values = baseline.values["raw", name]
    details: dict[str, Any] = {"probability": 0.0}
    if not model.trouble(name):  # the gains are for statistical tests
        both = (model.values["raw", name], values, model.patients)
        details["probability"] = probability_better(*both, higher_is_better=higher)
        details["gains"] = patient_gains(*both, higher_is_better=higher).tolist()
    return estimate(values, model.patients, draws=1).value, details


def set_verdict(model: dict[str, Any], baselines: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The same from rows alone: the probability follows from both intervals, assuming independent
    normal errors.
    """
    verdicts = {}
    for name, row in model.items():
        higher = row["higher_is_better"]
        if higher is None:
            continue

        rivals = {}
        for rival, rows in baselines.items():
            if name in rows:
                details = {"probability": _probability_of_rows(row, rows[name], higher)}
                rivals[rival] = rows[name]["value"], details

        verdict = _verdict(row["value"], rivals, higher)
        if verdict:
            verdicts[name] = verdict

    return verdicts


def _probability_of_rows(row: dict[str, Any], other: dict[str, Any], higher: bool) -> float | None:
    """The probability that a row is better than another; None where one has no interval."""
    if not row["ci95"] or not other["ci95"]:
        return None

    gain = row["value"] - other["value"]
    if not higher:
        gain = -gain

    errors = [(high - low) / (2 * 1.96) for low, high in (row["ci95"], other["ci95"])]
    error = float(np.hypot(*errors))
    if error > 0:
        return NormalDist().cdf(gain / error)

    return (1 + float(np.sign(gain))) / 2


def _verdict(
    value: float | None, rivals: Mapping[str, Rival], higher: bool
) -> dict[str, Any] | None:
    """The verdict against the best baseline; under `without_pairs` that against those without."""
    verdict = _against_best(value, rivals, higher, (CEILING,))
    if verdict is None:
        return None
    without_pairs = _against_best(value, rivals, higher, (CEILING, *WITH_PAIRS))
    return verdict | {"without_pairs": without_pairs}


def _against_best(
    value: float | None, rivals: Mapping[str, Rival], higher: bool, left_out: Sequence[str]
) -> dict[str, Any] | None:
    """The verdict against the best baseline that is not left out; None where nothing is scored."""
    means = {
        name: mean
        for name, (mean, _) in rivals.items()
        if mean is not None and name not in left_out
    }
    if value is None or not means:
        return None

    best = (max if higher else min)(means, key=means.__getitem__)
    better = bool(value > means[best] if higher else value < means[best])
    return {"better": better, "best_baseline": best} | rivals[best][1]


def alarm_of_foreground(rows: Mapping[str, dict[str, Any]], share: float) -> str | None:
    """A warning if the foreground, `share` of all pixels, is larger than a head in air can be; else
    None.
    """
    same = []
    for name, row in rows.items():
        inside = rows.get(name + FOREGROUND, {}).get("value", -1)
        perfect = row["value"] in (None, 0.0, 1.0, 100.0)  # perfect scores are equal
        if row["value"] == inside and not perfect:
            same.append(name)

    if share <= MAX_FOREGROUND and not same:
        return None

    what = f"{share:.0%} of all pixels count as foreground, as if there were no air around the head"
    if same:
        what += f", so {', '.join(same)} have the same value in both regions"

    return (
        f'{what}. Check data.intensity, or score whole images only (evaluate.regions = ["whole"])'
    )


def title_of(key: str, domains: Sequence[str]) -> str:
    """Title of a direction: `T1 -> T2`, `T1 from noise`; the key itself if the domains are not
    known.
    """
    if key.endswith("_post") and domains:
        return f"{title_of(key.removesuffix('_post'), domains)}, after the post-steps"
    if key == "image" and domains:
        return f"{domains[0]} from noise"

    names = dict(zip("ab", domains, strict=False))
    source, _, target = key.partition("_to_")
    if names and target:
        return f"{names.get(source, source)} -> {names.get(target, target)}"

    return key
