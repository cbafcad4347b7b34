"""Verdicts: whether the model beats the best baseline, with which probability, and in which words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Literal

import numpy as np
import pandas as pd
from torch import Tensor

from gantk.data.test_size import SIGNIFICANCE, least_patients, needed_patients
from gantk.metrics.intervals import (
    MIN_PATIENTS,
    mean_score,
    paired_test,
    patient_means,
    probability_better,
)
from gantk.metrics.names import CEILING, FOREGROUND, baseline_words, needs_pairs
from gantk.metrics.table import MODEL, trouble
from gantk.runs.results import PairedTest, Score, Verdict

# of scores of sets in old results, which state no p-value
MIN_PROBABILITY_BETTER = 0.95
MAX_FOREGROUND = 0.9  # largest plausible share of foreground in images of heads


# better than every baseline; ahead, but perhaps by chance; not better; not compared
Tone = Literal["good", "near", "bad", ""]
Rival = tuple[float | None, Verdict]  # a baseline's mean, and the verdict against it


def tone_of(verdict: Verdict) -> Tone:
    """How a verdict may be shown: "good" only if the model is significantly better than every
    baseline on six patients or more. The first score of a recipe is corrected for the directions,
    all others for all comparisons.
    """
    if verdict.better is None:
        return ""
    if not verdict.better:
        return "bad"
    return "good" if _is_significant(verdict) else "near"


def tested_patients(verdict: Verdict) -> int | None:
    """The number of patients that a verdict is based on, 0 where images are of unknown ones; None
    where it was not stored.
    """
    return verdict.patients if verdict.test is None else verdict.test.n


def _deciding_p(test: PairedTest) -> tuple[float, int | None]:
    """The p-value of a test that decides, and for how many comparisons it is corrected."""
    if test.primary_p is not None:
        return test.primary_p, test.primary_of
    return (test.p, 1) if test.holm is None else (test.holm, test.of)


def _comparisons(verdict: Verdict) -> int:
    """For how many comparisons the p-value that decides is corrected; 1 where that is not known."""
    return (_deciding_p(verdict.test)[1] or 1) if verdict.test else 1


def _is_significant(verdict: Verdict) -> bool:
    """Whether a difference is unlikely to be chance; with few patients it always may be."""
    p = _deciding_p(verdict.test)[0] if verdict.test else verdict.holm
    patients = tested_patients(verdict)
    if patients is not None and patients < MIN_PATIENTS:
        return False
    if p is None:
        return (verdict.probability or 0.0) >= MIN_PROBABILITY_BETTER
    return p < SIGNIFICANCE


def p_words(verdict: Verdict) -> str:
    """Why a lead can be chance: `p = 0.094, sign-flip test, corrected for 2 comparisons`; "" for other
    verdicts, and where too few patients were tested for any p.
    """
    patients = tested_patients(verdict)
    too_few = patients is not None and patients < least_patients(_comparisons(verdict))
    if tone_of(verdict) != "near" or too_few:
        return ""
    if verdict.test is not None:
        return deciding_words(verdict.test)
    return "" if verdict.holm is None else f"p = {verdict.holm:.2g}{_correction(None)}"


def deciding_words(test: PairedTest) -> str:
    """The p-value of a test that decides: `p = 0.094, sign-flip test, corrected for 2 comparisons`."""
    p, comparisons = _deciding_p(test)
    return f"p = {p:.2g}, sign-flip test{_correction(comparisons)}"


def _correction(comparisons: int | None) -> str:
    if comparisons is None:
        return ", corrected for all comparisons"
    return f", corrected for {comparisons} comparisons" if comparisons > 1 else ""


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
    for name, of_score in lines.groupby("metric", sort=False):
        higher = higher_is_better[name]
        if higher is None:
            continue

        systems = dict(iter(of_score.groupby("system", sort=False)))
        own = systems.pop(MODEL)
        patients = own["patient"].to_list()
        values = None if trouble(own) else own["value"].to_numpy()
        rivals = {
            rival: _rival(values, other["value"].to_numpy(), patients, higher)
            for rival, other in systems.items()
            if not trouble(other)
        }
        worst = -math.inf if higher else math.inf
        mean = worst if values is None else mean_score(values, patients)
        verdict = _verdict(mean, rivals, higher)
        if verdict:
            verdicts[name] = verdict

    return verdicts


def _rival(
    model: np.ndarray | None, baseline: np.ndarray, patients: Sequence[str], higher: bool
) -> Rival:
    """A baseline's mean of one score, the probability that the model is better, and the test, of the
    scores of the same images. `model`: None where its outputs are broken.
    """
    verdict = Verdict(probability=0.0)
    if model is not None:
        gains = model - baseline if higher else baseline - model
        of_patients = patient_means(gains, patients)
        if "" in patients:
            of_patients = of_patients[:0]  # they are not known
        test = paired_test(of_patients)
        verdict = Verdict(
            probability=probability_better(of_patients),
            test=test,
            patients=None if test else len(of_patients),
        )
    return mean_score(baseline, patients), verdict


def set_verdict(
    model: Mapping[str, Score], baselines: Mapping[str, Mapping[str, Score]], patients: int
) -> dict[str, Verdict]:
    """The same from scores alone, of so many test patients, 0 if unknown: the probability follows from both
    intervals, assuming independent normal errors.
    """
    verdicts = {}
    for name, score in model.items():
        higher = score.higher_is_better
        if higher is None:
            continue

        rivals: dict[str, Rival] = {}
        for rival, scores in baselines.items():
            if name in scores:
                probability = _probability_of_scores(score, scores[name], higher)
                verdict = Verdict(probability=probability, patients=patients)
                rivals[rival] = scores[name].value, verdict

        verdict_of_all = _verdict(score.value, rivals, higher)
        if verdict_of_all:
            verdicts[name] = verdict_of_all

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
    """The verdict against the best baseline; under `without_pairs` that against those without."""
    verdict = _against_best(value, rivals, higher, (CEILING,))
    if verdict is None:
        return None
    fitted = filter(needs_pairs, rivals)
    without_pairs = _against_best(value, rivals, higher, (CEILING, *fitted))
    return verdict.model_copy(update={"without_pairs": without_pairs})


def _against_best(
    value: float | None, rivals: Mapping[str, Rival], higher: bool, left_out: Sequence[str]
) -> Verdict | None:
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
    found = rivals[best][1].model_copy(deep=True)  # tests are corrected in place
    return found.model_copy(update={"better": better, "best_baseline": best})


def alarm_of_foreground(scores: Mapping[str, Score], foreground: Tensor | None) -> str | None:
    """A warning if the foreground, a mask of the images, is larger than a head in air can be; else
    None. Pictures such as photographs have no air.
    """
    if foreground is None:
        return None
    share = float(foreground.float().mean())
    same = []
    for name, score in scores.items():
        inside = scores.get(name + FOREGROUND)
        perfect = score.value in (None, 0.0, 1.0, 100.0)  # perfect scores are equal
        if inside is not None and score.value == inside.value and not perfect:
            same.append(name)

    if share <= MAX_FOREGROUND and not same:
        return None

    what = f"{share:.0%} of all pixels count as foreground"
    if same:
        what += f", so {', '.join(same)} have the same value in both regions"

    return (
        f"{what}. Scans of heads have air around them: check data.intensity. Of pictures without a dark"
        ' background score the whole image only: evaluate.regions = ["whole"]'
    )


def verdict_words(verdict: Verdict, *, short: bool = False, rivals: str = "every baseline") -> str:
    """A verdict in words, such as "better than every baseline" or "not better than a simple intensity
    map"; `short` for a narrow column.
    """
    tone = tone_of(verdict)
    if tone == "good":
        return "better" if short else f"better than {rivals}"
    if tone == "bad" and short:
        return "not better"
    if tone == "bad":
        return f"not better than {baseline_words(verdict.best_baseline)}"
    if not tone:
        return "not compared: no baseline was measured"

    reason = "perhaps by chance" if short else "but this can be chance"
    patients = tested_patients(verdict)
    comparisons = _comparisons(verdict)
    if patients == 0:
        reason = "patients unknown" if short else "but the patients are not known"
    elif patients is not None and patients < least_patients(comparisons):
        were = "was" if patients == 1 else "were"
        needed = f"{needed_patients(comparisons)} patients are needed"
        reason = f"{needed}, {patients} {were} tested"
        if not short:
            reason = f"but {needed} and {patients} {were} tested"
    return f"ahead, {reason}" if short else f"ahead of {rivals}, {reason}"
