"""Compares systems on the same patients: tests each pair of systems, corrects all tests together,
and ranks the systems by bootstrap.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from gantk.metrics.intervals import bootstrap_draws
from gantk.metrics.statistics.paired import paired_test

# system -> score -> patient -> value
Scores = Mapping[str, Mapping[Hashable, Mapping[str, float | None]]]


def correct_tests(tests: Sequence[dict[str, Any]]) -> None:
    """Add corrected p-values to tests of one family, in place.

    Args:
        tests: dictionaries with the key `p`. Each gets three further keys: `holm` (Holm 1979)
            controls the chance of any false finding, `fdr` (Benjamini and Hochberg 1995) the share
            of false ones among the findings, and `of` is the number of tests.
    """
    p = np.array([test["p"] for test in tests])
    count = len(tests)
    order = np.argsort(p)
    ranks = np.arange(1, count + 1)
    holm = np.maximum.accumulate(p[order] * ranks[::-1]).clip(max=1)
    fdr = np.minimum.accumulate((p[order] * count / ranks)[::-1])[::-1]
    for place, of_holm, of_fdr in zip(order, holm.tolist(), fdr.tolist(), strict=True):
        tests[place].update(holm=of_holm, fdr=of_fdr, of=count)


def compare_systems(
    scores: Scores, senses: Mapping[Hashable, bool | None]
) -> dict[str, list[dict[str, Any]]]:
    """Compare systems, pair by pair, on the patients that both have scores of.

    Args:
        scores: system -> score -> patient -> value; a value may be None.
        senses: for each score whether higher is better; None: the score is not compared.

    Returns:
        `tests` of all pairs and `ranks`. The `gain` of a test states how much better the system
        `one` is than `other`; all tests are corrected together. A rank (1 is best) has its 95 %
        interval, and the share of bootstrap draws in which the system is first. Ranks need at least
        two patients that all systems share.
    """
    tests: list[dict[str, Any]] = []
    ranks: list[dict[str, Any]] = []
    for score, higher in senses.items():
        if higher is None:
            continue

        sign = 1 if higher else -1
        scored = {}  # system -> patient -> value
        for system, of_score in scores.items():
            by_patient = of_score.get(score, {})
            known = {patient: value for patient, value in by_patient.items() if value is not None}
            if known:
                scored[system] = known

        for one, other in combinations(scored, 2):
            gains = [
                sign * (value - scored[other][patient])
                for patient, value in scored[one].items()
                if patient in scored[other]
            ]
            test = paired_test(gains)
            if test:
                tests.append({"score": score, "one": one, "other": other} | test)

        shared = _shared_patients(scored)
        if len(scored) > 1 and len(shared) > 1:
            values = np.array([[own[patient] for patient in shared] for own in scored.values()])
            ranks += _ranks(score, values, sign, [*scored])

    correct_tests(tests)
    return {"tests": tests, "ranks": ranks}


def _shared_patients(scored: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The patients of whom every system has a score, in the first system's order."""
    first, *others = scored.values() or [{}]
    return [patient for patient in first if all(patient in own for own in others)]


def _ranks(
    score: Hashable, values: np.ndarray, sign: int, names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yield a row of ranks for each system from values (systems, patients), the best mean first."""
    from scipy.stats import rankdata

    count = values.shape[1]
    places = rankdata(-sign * values[:, bootstrap_draws(count)].mean(2), axis=0)
    means = values.mean(1)
    for place in np.argsort(-sign * means, kind="stable"):
        low, high = np.percentile(places[place], [2.5, 97.5])
        row = {
            "score": score,
            "system": names[place],
            "value": float(means[place]),
            "n": count,
            "first": float((places[place] == 1).mean()),
            "rank": [float(low), float(high)],
        }
        yield row


def add_tests(result: dict[str, Any]) -> None:
    """Replace the gains of all verdicts by tests, corrected together."""
    tests = []
    for rows in result["verdict"].values():
        for row in rows.values():
            test = paired_test(row.pop("gains", ()))
            if row["without_pairs"]:
                row["without_pairs"].pop("gains", None)
            if test:
                row["test"] = test
                tests.append(test)

    correct_tests(tests)
