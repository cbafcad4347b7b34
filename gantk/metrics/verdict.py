"""Verdicts: whether the model beats the best baseline, with which probability, and in which words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import pandas as pd

from gantk.data.test_size import SIGNIFICANCE, least_patients, needed_patients
from gantk.metrics.intervals import (
    MIN_PATIENTS,
    mean_score,
    paired_test,
    patient_means,
    probability_better,
)
from gantk.metrics.names import CEILING, baseline_words, needs_pairs
from gantk.metrics.table import MODEL, trouble
from gantk.runs.results import Score, Verdict

BY_CHANCE = "perhaps by chance"
SHORT_WORDS = {"good": "better", "bad": "not better", "": ""}


# better than every baseline; ahead, but perhaps by chance; not better; not compared
Tone = Literal["good", "near", "bad", ""]
Rival = tuple[Any, Verdict]  # a baseline's mean or None, and the verdict against it


def tone_of(verdict: Verdict) -> Tone:
    """How a verdict may be shown: "good" only if the model is significantly better than every
    baseline on six patients or more. The first score of a recipe is corrected for the directions,
    all others for all comparisons.
    """
    if verdict.better is None:
        return ""
    if not verdict.better:
        return "bad"
    p, _ = _deciding_p(verdict)
    patients = tested_patients(verdict)
    is_enough = patients is None or patients >= MIN_PATIENTS
    return "good" if is_enough and p is not None and p < SIGNIFICANCE else "near"


def tested_patients(verdict: Verdict) -> int | None:
    """The number of patients that a verdict is based on, 0 where images are of unknown ones; None
    where it was not stored.
    """
    return verdict.patients if verdict.test is None else verdict.test.n


def _deciding_p(verdict: Verdict) -> tuple[float | None, int]:
    """The p-value that decides, and for how many comparisons it is corrected; 1 if not known."""
    test = verdict.test
    if test is None:
        return verdict.holm, 1
    if test.primary_p is not None:
        return test.primary_p, test.primary_of or 1
    return (test.p, 1) if test.holm is None else (test.holm, test.of or 1)


def deciding_words(verdict: Verdict) -> str:
    """The p-value that decides: `p = 0.094, sign-flip test, corrected for 2 comparisons`; "" without
    any.
    """
    p, comparisons = _deciding_p(verdict)
    if p is None:
        return ""
    if verdict.test is None:
        return f"p = {p:.2g}, corrected for all comparisons"
    corrected = f", corrected for {comparisons} comparisons" if comparisons > 1 else ""
    return f"p = {p:.2g}, sign-flip test{corrected}"


def p_words(verdict: Verdict) -> str:
    """`deciding_words` of a lead that can be chance; "" for other verdicts, and where too few patients
    were tested for any p.
    """
    is_chance = tone_of(verdict) == "near" and _reason(verdict) == BY_CHANCE
    return deciding_words(verdict) if is_chance else ""


def _reason(verdict: Verdict) -> str:
    """Why a lead is not significant."""
    patients = tested_patients(verdict)
    _, comparisons = _deciding_p(verdict)
    if patients == 0:
        return "patients unknown"
    if patients is not None and patients < least_patients(comparisons):
        were = "was" if patients == 1 else "were"
        return f"{needed_patients(comparisons)} patients are needed, {patients} {were} tested"
    return BY_CHANCE


def verdict_words(verdict: Verdict, rivals: str = "every baseline") -> str:
    """A verdict in words: `better than every baseline`, `not better than a simple intensity map`,
    `ahead of every baseline, perhaps by chance`.
    """
    tone = tone_of(verdict)
    if tone == "good":
        return f"better than {rivals}"
    if tone == "bad":
        return f"not better than {baseline_words(verdict.best_baseline)}"
    return f"ahead of {rivals}, {_reason(verdict)}" if tone else "not compared"


def short_verdict_words(verdict: Verdict) -> str:
    """The same for a narrow column that stands beside the baseline's."""
    tone = tone_of(verdict)
    return f"ahead, {_reason(verdict)}" if tone == "near" else SHORT_WORDS[tone]


def pair_verdict(
    lines: pd.DataFrame, higher_is_better: Mapping[str, bool | None]
) -> dict[str, Verdict]:
    """For each score: whether the model's mean beats the best baseline's, in which share of
    resamples of patients, and the paired test, not yet corrected for other tests.

    `lines`: of the model and of baselines, each on the same images in the same order.
    `higher_is_better`: of each score; None: no verdict. A model with outputs that are not finite never
    wins.
    """
    verdicts = {}
    for metric, of_metric in lines.groupby("metric", sort=False):
        higher = higher_is_better[metric]
        if higher is None:
            continue

        systems = dict(iter(of_metric.groupby("system", sort=False)))
        model = systems.pop(MODEL)
        mean = mean_score(model.value, model.patient)
        if trouble(model):
            mean = -math.inf if higher else math.inf
        rivals = {
            name: (mean_score(rival.value, rival.patient), _test_against(rival, model, higher))
            for name, rival in systems.items()
            if not trouble(rival)
        }
        verdict = _verdict(mean, rivals, higher)
        if verdict:
            verdicts[metric] = verdict

    return verdicts


def _test_against(rival: pd.DataFrame, model: pd.DataFrame, higher: bool) -> Verdict:
    """The probability that the model is better than a baseline on the same images, and the test."""
    if trouble(model):
        return Verdict(probability=0.0)
    gains = model.value.to_numpy() - rival.value.to_numpy()
    of_patients = patient_means(gains if higher else -gains, model.patient)
    if "" in model.patient.array:
        of_patients = of_patients[:0]  # they are not known
    test = paired_test(of_patients)
    patients = None if test else len(of_patients)
    probability = probability_better(of_patients)
    return Verdict(probability=probability, test=test, patients=patients)


def set_verdict(
    model: Mapping[str, Score], baselines: Mapping[str, Mapping[str, Score]], patients: int
) -> dict[str, Verdict]:
    """The same from scores alone, of so many test patients, 0 if unknown: the probability follows from both
    intervals, assuming independent normal errors.
    """
    verdicts = {}
    for metric, score in model.items():
        higher = score.higher_is_better
        if higher is None:
            continue

        rivals = {}
        for name, scores in baselines.items():
            if metric in scores:
                probability = _probability_of_scores(score, scores[metric], higher)
                judged = Verdict(probability=probability, patients=patients)
                rivals[name] = scores[metric].value, judged

        verdict = _verdict(score.value, rivals, higher)
        if verdict:
            verdicts[metric] = verdict

    return verdicts


def _probability_of_scores(score: Score, other: Score, higher: bool) -> float | None:
    """The probability that a score is better than another; None where one has no interval."""
    if score.value is None or other.value is None or not score.ends or not other.ends:
        return None

    gain = score.value - other.value
    if not higher:
        gain = -gain

    error = math.hypot(*((high - low) / (2 * 1.96) for low, high in (score.ends, other.ends)))
    if error > 0:
        return NormalDist().cdf(gain / error)

    return (1 + float(np.sign(gain))) / 2


def _verdict(value: float | None, rivals: Mapping[str, Rival], higher: bool) -> Verdict | None:
    """The verdict against the best baseline, and under `without_pairs` that against the best one that
    needs none; None where nothing is scored.
    """
    scored = {
        name: rival for name, rival in rivals.items() if rival[0] is not None and name != CEILING
    }
    verdict = _against_best(value, scored, higher)
    if verdict:
        fair = {name: rival for name, rival in scored.items() if not needs_pairs(name)}
        verdict.without_pairs = _against_best(value, fair, higher)
    return verdict


def _against_best(value: float | None, rivals: Mapping[str, Rival], higher: bool) -> Verdict | None:
    if value is None or not rivals:
        return None
    best = (max if higher else min)(rivals, key=lambda name: rivals[name][0])
    mean, judged = rivals[best]
    better = bool(value > mean if higher else value < mean)
    # a copy, as tests are corrected in place
    return judged.model_copy(deep=True, update={"better": better, "best_baseline": best})
