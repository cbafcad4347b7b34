"""Verdicts in numbers: whether the model beats the best baseline, and with which probability."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist

import pandas as pd

from gantk.metrics.intervals import paired_test, patient_means, probability_better
from gantk.metrics.names import CEILING, needs_pairs
from gantk.metrics.table import MODEL, trouble
from gantk.runs.results import Score, Verdict


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
        rivals = {
            name: (_mean(rival), _test_against(rival, model, higher))
            for name, rival in systems.items()
            if not trouble(rival)
        }
        mean = _mean(model)
        if trouble(model):
            mean = -math.inf if higher else math.inf
            never = Verdict(probability=0.0)
            rivals = {name: (value, never) for name, (value, _) in rivals.items()}
        verdict = _against_best(mean, rivals, higher)
        if verdict:
            verdicts[metric] = verdict

    return verdicts


def _mean(lines: pd.DataFrame) -> float | None:
    """The mean over patients; None where no image could be scored."""
    means = patient_means(lines.value, lines.patient)
    return float(means.mean()) if len(means) else None


def _test_against(rival: pd.DataFrame, model: pd.DataFrame, higher: bool) -> Verdict:
    """The probability that the model is better than a baseline on the same images, and the test."""
    gains = model.value.to_numpy() - rival.value.to_numpy()
    of_patients = patient_means(gains if higher else -gains, model.patient)
    if "" in model.patient.array:
        of_patients = of_patients[:0]  # they are not known
    test = paired_test(of_patients)
    patients = None if test else len(of_patients)
    return Verdict(probability=probability_better(of_patients), test=test, patients=patients)


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
        for name, own in baselines.items():
            if metric in own:
                probability = _probability(score, own[metric], higher)
                judged = Verdict(probability=probability, patients=patients)
                rivals[name] = own[metric].value, judged
        verdict = _against_best(score.value, rivals, higher)
        if verdict:
            verdicts[metric] = verdict

    return verdicts


def _probability(score: Score, other: Score, higher: bool) -> float | None:
    """The probability that a score is better than another; None where one has no interval."""
    if score.value is None or other.value is None or not score.ends or not other.ends:
        return None
    gain = score.value - other.value if higher else other.value - score.value
    error = math.hypot(*((high - low) / (2 * 1.96) for low, high in (score.ends, other.ends)))
    if error > 0:
        return NormalDist().cdf(gain / error)
    return 0.5 if gain == 0 else float(gain > 0)


def _against_best(
    value: float | None, rivals: Mapping[str, tuple[float | None, Verdict]], higher: bool
) -> Verdict | None:
    """The verdict against the best baseline, and under `without_pairs` that against the best one that
    needs none; None where nothing is scored. `rivals`: mean and verdict of each baseline.
    """
    known = {
        name: mean for name, (mean, _) in rivals.items() if mean is not None and name != CEILING
    }
    if value is None or not known:
        return None

    def against(means: Mapping[str, float]) -> Verdict:
        best = (max if higher else min)(means, key=means.__getitem__)
        better = bool(value > means[best] if higher else value < means[best])
        # a copy, as tests are corrected in place
        update = {"better": better, "best_baseline": best}
        return rivals[best][1].model_copy(deep=True, update=update)

    verdict = against(known)
    fair = {name: mean for name, mean in known.items() if not needs_pairs(name)}
    verdict.without_pairs = against(fair) if fair else None
    return verdict
