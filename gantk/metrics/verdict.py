"""Verdicts in words, and the tone in which they may be shown."""

from __future__ import annotations

from math import inf
from typing import Literal

from gantk.data.test_size import SIGNIFICANCE, least_patients
from gantk.runs.results import Verdict

# better than every baseline; ahead, but perhaps by chance; not better; not compared
Tone = Literal["good", "near", "bad", ""]
TONES: tuple[Tone, ...] = ("bad", "near", "good", "")  # the worst first
SHORT_WORDS: dict[Tone, str] = {
    "good": "better",
    "near": "may be chance",
    "bad": "not better",
    "": "",
}


def tone_of(verdict: Verdict) -> Tone:
    """How a verdict may be shown: "good" only if the model is significantly better than every
    baseline on six patients or more. The first score of a recipe is corrected for the directions,
    all others for all comparisons.
    """
    if verdict.better is None:
        return ""
    if not verdict.better:
        return "bad"
    p, _ = deciding_p(verdict)
    patients = _tested_patients(verdict)
    is_enough = patients is None or patients >= least_patients()
    return "good" if is_enough and p < SIGNIFICANCE else "near"


def short_verdict(verdict: Verdict) -> str:
    """A verdict in a table: `better`, `not better`, `may be chance`, of few patients who disagree
    `better in 1 of 2`, or why no test could tell: `too few patients`, `patients unknown`.
    """
    tone = tone_of(verdict)
    if tone != "near":
        return SHORT_WORDS[tone]
    test = verdict.test
    if test and test.wins is not None and test.wins < test.n:
        return f"better in {test.wins} of {test.n}"
    if _tested_patients(verdict) == 0:
        return "patients unknown"
    return "too few patients" if _needed_patients(verdict) else SHORT_WORDS[tone]


def verdict_words(verdict: Verdict, rival: str) -> str:
    """A verdict in words: `better than pixel noise`, `not better than pixel noise`, `ahead of pixel noise,
    but this can be chance: 5 patients are too few, 6 are needed`.
    """
    tone = tone_of(verdict)
    if not tone:
        return "not compared"
    if tone != "near":
        return f"{SHORT_WORDS[tone]} than {rival}"

    patients = _tested_patients(verdict)
    p, comparisons = deciding_p(verdict)
    test = verdict.test
    only = ""
    if test and test.wins is not None and test.wins < test.n:
        only = f" in only {test.wins} of {test.n} patients"
    words = f"ahead of {rival}{only}, but this can be chance"
    if patients == 0:
        return words  # which the result says first
    needed = _needed_patients(verdict)
    of = f" for {comparisons} comparisons" if comparisons > 1 else ""
    if needed:
        few = "1 patient is" if patients == 1 else f"{patients} patients are"
        return f"{words}: {few} too few, {needed} are needed{of}"
    return f"{words} (p = {p:.2g}{of})" if p <= 1 else words


def _needed_patients(verdict: Verdict) -> int:
    """How many patients a verdict needs that is based on too few for any gain to be significant; 0 for
    others.
    """
    # with so many patients this was the least p
    agree = verdict.test is None or verdict.test.p <= 2.0 ** (1 - verdict.test.n)
    _, comparisons = deciding_p(verdict)
    needed = least_patients(comparisons if agree else 1)
    patients = _tested_patients(verdict)
    return needed if patients is not None and patients < needed else 0


def _tested_patients(verdict: Verdict) -> int | None:
    """The number of patients that a verdict is based on, 0 where images are of unknown ones; None
    where it was not stored.
    """
    return verdict.patients if verdict.test is None else verdict.test.n


def deciding_p(verdict: Verdict) -> tuple[float, int]:
    """The p-value that decides, infinite if not known, and for how many comparisons it is corrected."""
    test = verdict.test
    if test is None:
        p, comparisons = verdict.holm, None
    elif test.primary_p is not None:
        p, comparisons = test.primary_p, test.primary_of
    else:
        p, comparisons = (test.p, None) if test.holm is None else (test.holm, test.of)
    return inf if p is None else p, comparisons or 1
