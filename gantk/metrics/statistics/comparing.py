"""Compares systems on the same patients: tests each pair of systems, corrects all tests together,
and ranks the systems by bootstrap.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np

from gantk.data.test_size import least_patients
from gantk.errors import UserError, join_first
from gantk.metrics.intervals import MIN_PATIENTS, bootstrap_draws
from gantk.metrics.statistics.paired import paired_test
from gantk.metrics.verdict import p_words, short_metric_name, split_region, verdict_words
from gantk.runs.results import PairedTest, Results, Score, Verdict

NOT_COMPARED = (
    "Which of them is better cannot be said: no two of them have scores of the same two patients."
)

# system -> score -> patient -> value
Scores = Mapping[str, Mapping[Hashable, Mapping[str, float | None]]]


def correct_tests(tests: Sequence[dict[str, Any]]) -> None:
    """Add corrected p-values to tests of one family, in place.

    Args:
        tests: dictionaries with the key `p`. Each gets three further keys: `holm` (Holm 1979)
            controls the chance of any false finding, `fdr` (Benjamini and Hochberg 1995) the share
            of false ones among the findings, and `of` is the number of tests. `needed`, if it is
            known, is at least the number of patients with whom a corrected p can be significant.
    """
    typed = [PairedTest.model_construct(p=test["p"], needed=test.get("needed")) for test in tests]
    _correct(typed)
    for test, corrected in zip(tests, typed, strict=True):
        test.update(holm=corrected.holm, fdr=corrected.fdr, of=corrected.of)
        if corrected.needed:
            test["needed"] = corrected.needed


def _correct(tests: Sequence[PairedTest]) -> None:
    """Add corrected p-values to tests of one family, see `correct_tests`."""
    corrected = corrected_p([test.p for test in tests])
    for test, (holm, fdr) in zip(tests, corrected, strict=True):
        test.holm = holm
        test.fdr = fdr
        test.of = len(tests)
        if test.needed:
            test.needed = max(test.needed, least_patients(len(tests)))


def _correct_primary(tests: Sequence[PairedTest]) -> None:
    """Correct the tests of the first score of each direction for themselves alone."""
    for test, (holm, _) in zip(tests, corrected_p([test.p for test in tests]), strict=True):
        test.primary_p = holm
        test.primary_of = len(tests)


def corrected_p(values: Sequence[float]) -> list[tuple[float, float]]:
    """Each p-value of a family, corrected by Holm and by Benjamini and Hochberg."""
    from scipy.stats import false_discovery_control

    if not values:
        return []
    p = np.array(values)
    order = np.argsort(p)
    holm = np.empty_like(p)
    holm[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return list(zip(holm.tolist(), false_discovery_control(p).tolist(), strict=True))


@dataclass(frozen=True)
class SystemTest:
    """The test of two systems on one score; its gain is that of `one` over `other`."""

    score: Hashable
    one: str
    other: str
    test: PairedTest

    @property
    def place(self) -> tuple[Any, ...]:
        """The score as a tuple: its direction, if it has one, and its metric."""
        return self.score if isinstance(self.score, tuple) else (self.score,)


def compare_systems(
    scores: Scores,
    senses: Mapping[Hashable, bool | None],
    units: Mapping[Hashable, str] | None = None,
) -> dict[str, list[Any]]:
    """Compare systems, pair by pair, on the patients that both have scores of.

    Args:
        scores: system -> score -> patient -> value; a value may be None. A score is the name of a
            metric, or a tuple that ends with its direction and this name.
        senses: for each score whether higher is better; None: the score is not compared.
        units: the unit of each score, for the sentences.

    Returns:
        `sentences`, `tests` of all pairs and `ranks`. A sentence says which system leads in the first
        score of a direction, and whether this can be chance. The `gain` of a test states how much
        better the system `one` is than `other`; all tests are corrected together. A rank (1 is best)
        has its 95 % interval, and the share of bootstrap draws in which the system is first. Ranks
        need at least six patients that all systems share.

    Raises:
        UserError: a score has no name, or a value is no finite number.
    """
    tests: list[SystemTest] = []
    ranks: list[dict[str, Any]] = []
    for score, higher in senses.items():
        if higher is None:
            continue

        _expect_name(score)
        sign = 1 if higher else -1
        scored = {}  # system -> patient -> value
        for system, of_score in scores.items():
            known = _known_values(of_score.get(score, {}), f"scores[{system!r}][{score!r}]")
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
                tests.append(SystemTest(score, one, other, test))

        shared = _shared_patients(scored)
        if len(scored) > 1 and len(shared) >= MIN_PATIENTS:
            values = np.array([[own[patient] for patient in shared] for own in scored.values()])
            ranks += _ranks(score, values, sign, [*scored])

    _correct([each.test for each in tests])
    sentences = _sentences(tests, units or {})
    if not sentences and len(scores) > 1:
        sentences = [NOT_COMPARED]
    rows = [
        {"score": each.score, "one": each.one, "other": each.other} | each.test.dump()
        for each in tests
    ]
    return {"sentences": sentences, "tests": rows, "ranks": ranks}


def _expect_name(score: Hashable) -> None:
    """UserError for a score that is neither a name nor a tuple that ends with one."""
    name = score[-1] if isinstance(score, tuple) and score else score
    if not isinstance(name, str):
        allowed = "the name of a metric, or a tuple that ends with it"
        raise UserError(f"{score!r} is not the name of a score", where="senses", allowed=allowed)


def _known_values(by_patient: Mapping[str, float | None], where: str) -> dict[str, float]:
    """The values that are not None; UserError for one that is no finite number."""
    known = {patient: value for patient, value in by_patient.items() if value is not None}
    for patient, value in known.items():
        try:
            is_finite = math.isfinite(value)
        except TypeError:
            is_finite = False
        if not is_finite:
            what = f"the value {value!r} of {patient!r} is not a finite number"
            raise UserError(what, where=where, remedy="give None where there is no score")
    return known


def _sentences(tests: Sequence[SystemTest], units: Mapping[Hashable, str]) -> list[str]:
    """For each direction which system leads in its first score. These tests are corrected for the
    directions and systems alone, as the first scores of a recipe are.
    """
    first: dict[Hashable, list[SystemTest]] = {}
    for each in tests:
        of_direction = first.setdefault(each.place[:-1], [])
        if not of_direction or of_direction[0].score == each.score:
            of_direction.append(each)

    _correct_primary([each.test for of_direction in first.values() for each in of_direction])
    return [_sentence(own, units.get(own[0].score, ""), tests) for own in first.values()]


def _sentence(tests: Sequence[SystemTest], unit: str, of_all_scores: Sequence[SystemTest]) -> str:
    """`T1 → T2: one is better than two (PSNR better by 1.24 dB [0.80, 1.68], n = 8).`, from the
    tests of all pairs of systems on one score; of the other scores, those of whole images in which
    that system is behind another one.
    """
    gains: dict[str, float] = defaultdict(float)
    for each in tests:
        gains[each.one] += each.test.gain
        gains[each.other] -= each.test.gain
    leader = max(gains, key=gains.__getitem__)

    # what is said -> of whom, by how much, and the p-value where that may be chance
    rivals: dict[str, dict[str, tuple[Score, str]]] = defaultdict(dict)
    for test, rival, sign in _tests_of(leader, tests):
        gain = Score(value=test.gain, ci95=test.ci95, n=test.n, unit=unit).times(sign)
        said = "no better than {}"
        chance = ""
        if sign * test.gain > 0:
            verdict = Verdict(better=True, test=test)
            said = verdict_words(verdict, rivals="{}")
            chance = p_words(verdict)
        rivals[said][rival] = gain, chance

    *direction, metric = tests[0].place
    clauses = []
    for said, of_rivals in rivals.items():
        nearest = min(of_rivals, key=lambda name: of_rivals[name][0].value or 0.0)
        gain, chance = of_rivals[nearest]
        figure = f"{short_metric_name(metric)} better by {gain.text()} {gain.interval()}".rstrip()
        than = f" than {nearest}" if len(of_rivals) > 1 else ""
        names = join_first([*of_rivals])
        clauses.append(
            f"{said.format(names)} ({figure}{than}, {gain.sample()}{chance and f'; {chance}'})"
        )
    place = f"{direction[-1]}: " if direction else ""
    sentence = f"{place}{leader} is {'; '.join(clauses)}."
    behind = _scores_behind(leader, direction, of_all_scores)
    return f"{sentence} In {join_first(behind)} it is behind." if behind else sentence


def _tests_of(
    system: str, tests: Sequence[SystemTest]
) -> Iterator[tuple[PairedTest, str, Literal[1, -1]]]:
    """Yield the tests of a system, its rival, and the sign with which gains are this system's."""
    for each in tests:
        if each.one == system:
            yield each.test, each.other, 1
        elif each.other == system:
            yield each.test, each.one, -1


def _scores_behind(system: str, direction: list[Any], tests: Sequence[SystemTest]) -> list[str]:
    """The names of a direction's scores of whole images in which a system is behind another one."""
    behind = []
    for each in tests:
        *of, name = each.place
        loser = each.other if each.test.gain > 0 else each.one
        if of == direction and loser == system and each.test.gain and not split_region(name)[1]:
            behind.append(short_metric_name(name))
    return list(dict.fromkeys(behind))


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


def add_tests(results: Results) -> None:
    """Correct the tests of all verdicts together: those on pairs, those against baselines without
    pairs, and those on sets, whose p follows from their probability.

    The first score of each direction is the primary endpoint: which one it is was decided before
    the training, so it is also corrected for the directions alone.
    """
    by_direction = [
        [verdict for verdict in of_scores.values() if verdict]
        for of_scores in results.verdict.values()
    ]
    _correct_family(by_direction)
    without_pairs = [
        [verdict.without_pairs for verdict in own if verdict.without_pairs] for own in by_direction
    ]
    _correct_family(without_pairs)


def _correct_family(by_direction: Sequence[Sequence[Verdict]]) -> None:
    """Correct the tests of the verdicts of all directions, the primary score first in each."""
    family = [verdict for own in by_direction for verdict in own]
    tests = [verdict.test for verdict in family if verdict.test]
    _correct(tests)
    _correct_primary([own[0].test for own in by_direction if own and own[0].test])
    known = [each for each in family if each.patients is not None and each.probability is not None]
    two_sided = [2 * min(p, 1 - p) for each in known if (p := each.probability) is not None]
    for verdict, (holm, _) in zip(known, corrected_p(two_sided), strict=True):
        verdict.holm = holm
