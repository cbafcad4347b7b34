"""Statistics over all rows of a bench: verdicts tested and corrected together, systems compared on
the same patients.
"""

from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

import pandas

from gantk import compare_systems, correct_tests
from gantk.metrics.comparing import SystemTest
from gantk.metrics.names import baseline_words
from gantk.metrics.verdict import SIGNIFICANCE
from gantk.report.words import metric_name
from gantk_bench.systems import Line, System, numbers


def sentences(systems: Sequence[System]) -> Iterator[str]:
    """Which systems lead on the same test images, and how many are better than their best baseline,
    without failed trainings; the tests of each question are corrected together. None if no row has
    scores per patient.
    """
    baselines: list[SystemTest] = []
    scores: list[dict[str, Any]] = []
    higher_is_better: dict[str, bool | None] = {}
    units: dict[str, str] = {}
    lines = [line for system in systems for line in system.lines if not line.judgement.failed]
    for line in lines:
        for metric in line.main:
            test = _baseline_test(line, metric)
            if test is not None:
                baselines.append(test)
            patients = _mean_by_patient(line, metric)
            if patients is not None:
                score = {
                    "images": _same_images(line, metric),
                    "direction": line.label,
                    "metric": metric,
                    "system": line.system.name,
                }
                scores += [
                    score | {"patient": patient, "value": value}
                    for patient, value in patients.items()
                ]
                higher_is_better[metric] = line.score(metric).higher_is_better
                units[metric] = line.score(metric).unit

    if scores:
        by = ("images", "direction", "metric")
        table = pandas.DataFrame(scores)
        yield from compare_systems(table, higher_is_better, units, by=by).sentences
    if baselines:
        correct_tests(baselines)
        yield _baseline_sentence(baselines)


def _baseline_test(line: Line, metric: str) -> SystemTest | None:
    """The test against the best baseline, of the seed with the largest p; None without a test."""
    verdicts = [row.verdict_of(line.direction, metric) for row in line.system.scored]
    tested = [(verdict.test.p, verdict) for verdict in verdicts if verdict.test]
    if not tested:
        return None
    _, weakest = max(tested, key=lambda pair: pair[0])
    return SystemTest(
        place=(line.label, metric),
        one=line.system.name,
        other=baseline_words(weakest.best_baseline),
        **dict(weakest.test),
    )


def _mean_by_patient(line: Line, metric: str) -> dict[str, float] | None:
    """The mean over seeds of each patient whom all seeds scored; None if a seed has no patients."""
    of_rows = (row.patients.get(line.direction, {}) for row in line.system.scored)
    seeds = [scores.get(metric) for scores in of_rows]
    if not all(seeds):
        return None
    means = {}
    for patient in seeds[0]:
        scores = numbers(seed.get(patient) for seed in seeds)
        if len(scores) == len(seeds):
            means[patient] = fmean(scores)
    return means


def _same_images(line: Line, metric: str) -> str:
    """Equal for scores of the same test images on one gray scale, as the score of the unchanged input
    shows; seeds that differ in theirs match no other system's.
    """
    images = dict.fromkeys(row.test_images for row in line.system.scored)
    unchanged = [row.baseline("identity", line.direction) for row in line.system.scored]
    scales = dict.fromkeys(each[metric].text() for each in unchanged if metric in each)
    return " ".join([*images, *scales])


def _baseline_sentence(tests: Sequence[SystemTest]) -> str:
    """Which tests against the best baseline are better or worse, and how many are undecided."""
    decided = [test for test in tests if (test.holm or 0.0) < SIGNIFICANCE]
    better = [test for test in decided if test.gain > 0]
    worse = [test for test in decided if test.gain < 0]
    return (
        "Sign-flip permutation tests over patients against the best baseline, p corrected by Holm"
        f" over {len(tests)} comparisons: {_counted(better)} better, {_counted(worse)} worse,"
        f" {len(tests) - len(decided)} undecided at 5 %."
    )


def _counted(tests: Sequence[SystemTest]) -> str:
    """How many tests these are, with the names of their systems."""
    names = [f"{test.one} {metric_name(test.score)} {test.label}" for test in tests]
    return f"{len(tests)} ({', '.join(names)})" if names else "0"
