"""Compares systems on the same patients: tests each pair of systems, and corrects tests together."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np

from gantk.errors import UserError, join_first
from gantk.metrics.names import short_metric_name, split_region
from gantk.metrics.statistics.paired import paired_test
from gantk.metrics.verdict import p_words, verdict_words
from gantk.runs.results import PairedTest, Results, Score, Verdict

NOT_COMPARED = (
    "Which of them is better cannot be said: no two of them have scores of the same two patients."
)

# system -> score -> patient -> value
PatientScoresOfSystems = Mapping[str, Mapping[Hashable, Mapping[str, float | None]]]


class SystemTest(PairedTest):
    """The test of two systems on one score; its gain is that of `one` over `other`."""

    place: tuple[Any, ...]  # the score: its direction, if it has one, and its metric
    one: str
    other: str

    @property
    def score(self) -> str:
        """The name of the metric."""
        return self.place[-1]

    @property
    def label(self) -> str:
        """The direction; "" where none is given."""
        return self.place[-2] if len(self.place) > 1 else ""


@dataclass(frozen=True)
class Comparison:
    """Which system leads in the first score of each direction, and the tests of all pairs."""

    sentences: list[str]
    tests: list[SystemTest]


def correct_tests(tests: Sequence[PairedTest]) -> None:
    """Correct the p-values of tests of one family, in place: `holm` (Holm, 1979) controls the chance
    of any false finding, `of` is the number of tests.
    """
    for test, holm in zip(tests, holm_of([test.p for test in tests]), strict=True):
        test.holm = holm
        test.of = len(tests)


def _correct_primary(tests: Sequence[PairedTest]) -> None:
    """Correct the tests of the first score of each direction for themselves alone."""
    for test, holm in zip(tests, holm_of([test.p for test in tests]), strict=True):
        test.primary_p = holm
        test.primary_of = len(tests)


def holm_of(values: Sequence[float]) -> list[float]:
    """Each p-value of a family, corrected by Holm."""
    p = np.array(values)
    order = np.argsort(p)
    holm = np.empty_like(p)
    holm[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return holm.tolist()


def compare_systems(
    scores: PatientScoresOfSystems,
    senses: Mapping[Hashable, bool | None],
    units: Mapping[Hashable, str] | None = None,
) -> Comparison:
    """Compare systems, pair by pair, on the patients that both have scores of.

    Args:
        scores: system -> score -> patient -> value; a value may be None. A score is the name of a
            metric, or a tuple that ends with its direction and this name.
        senses: for each score whether higher is better; None: the score is not compared.
        units: the unit of each score, for the sentences.

    Returns:
        `sentences` and `tests` of all pairs. A sentence says which system leads in the first score of
        a direction, and whether this can be chance. The `gain` of a test states how much better the
        system `one` is than `other`; all tests are corrected together.

    Raises:
        UserError: a score has no name, or a value is no finite number.
    """
    tests: list[SystemTest] = []
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

        place = score if isinstance(score, tuple) else (score,)
        for one, other in combinations(scored, 2):
            gains = [
                sign * (value - scored[other][patient])
                for patient, value in scored[one].items()
                if patient in scored[other]
            ]
            test = paired_test(gains)
            if test:
                tests.append(SystemTest(place=place, one=one, other=other, **dict(test)))

    correct_tests(tests)
    sentences = _sentences(tests, units or {})
    if not sentences and len(scores) > 1:
        sentences = [NOT_COMPARED]
    return Comparison(sentences, tests)


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
    for test in tests:
        of_direction = first.setdefault(test.place[:-1], [])
        if not of_direction or of_direction[0].place == test.place:
            of_direction.append(test)

    _correct_primary([test for of_direction in first.values() for test in of_direction])
    sentences = []
    for own in first.values():
        place = own[0].place
        unit = units.get(place) or units.get(place[-1]) or ""
        sentences.append(_sentence(own, unit, tests))
    return sentences


def leader_of(tests: Sequence[SystemTest]) -> str:
    """The system with the largest gain over all others, of the tests of one score."""
    gains: dict[str, float] = defaultdict(float)
    for test in tests:
        gains[test.one] += test.gain
        gains[test.other] -= test.gain
    return max(gains, key=gains.__getitem__)


def _sentence(tests: Sequence[SystemTest], unit: str, of_all_scores: Sequence[SystemTest]) -> str:
    """`T1 → T2: one is better than two (PSNR better by 1.24 dB [0.80, 1.68], n = 8).`, from the
    tests of all pairs of systems on one score; of the other scores, those of whole images in which
    that system is behind another one.
    """
    leader = leader_of(tests)

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

    clauses = []
    for said, of_rivals in rivals.items():
        nearest = min(of_rivals, key=lambda name: of_rivals[name][0].value or 0.0)
        gain, chance = of_rivals[nearest]
        figure = f"{short_metric_name(tests[0].score)} better by {gain.text()} {gain.interval()}".rstrip()
        than = f" than {nearest}" if len(of_rivals) > 1 else ""
        names = join_first([*of_rivals])
        clauses.append(
            f"{said.format(names)} ({figure}{than}, {gain.sample()}{chance and f'; {chance}'})"
        )
    place = f"{tests[0].label}: " if tests[0].label else ""
    sentence = f"{place}{leader} is {'; '.join(clauses)}."
    of_direction = [each for each in of_all_scores if each.place[:-1] == tests[0].place[:-1]]
    behind = _scores_behind(leader, of_direction)
    return f"{sentence} In {join_first(behind)} it is behind." if behind else sentence


def _tests_of(
    system: str, tests: Sequence[SystemTest]
) -> Iterator[tuple[PairedTest, str, Literal[1, -1]]]:
    """Yield the tests of a system, its rival, and the sign with which gains are this system's."""
    for test in tests:
        if test.one == system:
            yield test, test.other, 1
        elif test.other == system:
            yield test, test.one, -1


def _scores_behind(system: str, tests: Sequence[SystemTest]) -> list[str]:
    """The names of scores of whole images in which a system is behind another one."""
    behind = []
    for test in tests:
        loser = test.other if test.gain > 0 else test.one
        if loser == system and test.gain and not split_region(test.score)[1]:
            behind.append(short_metric_name(test.score))
    return list(dict.fromkeys(behind))


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
    correct_tests(tests)
    _correct_primary([own[0].test for own in by_direction if own and own[0].test])
    known = [each for each in family if each.patients is not None and each.probability is not None]
    two_sided = [2 * min(p, 1 - p) for each in known if (p := each.probability) is not None]
    for verdict, holm in zip(known, holm_of(two_sided), strict=True):
        verdict.holm = holm
