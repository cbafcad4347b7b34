"""Compares systems on the same patients: tests each pair of systems, and corrects tests together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from gantk.errors import UserError, count_noun
from gantk.metrics.intervals import paired_test
from gantk.metrics.names import LESION, join_words, short_metric_name
from gantk.metrics.verdict import deciding_p, verdict_words
from gantk.runs.results import PairedTest, Results, Score, Verdict

MAX_WITH_FIGURES = 3  # systems that a sentence compares with figures; a table has those of more
NOT_COMPARED = "Which of them is better cannot be said: with fewer than two common test patients, no test is possible."


class SystemTest(PairedTest):
    """The test of two systems on one score; its gain is that of `one` over `other`."""

    place: tuple[Any, ...]  # the score: its direction, if it has one, and its metric
    one: str
    other: str
    unit: str = ""  # of the gain

    @property
    def score(self) -> str:
        """The name of the metric."""
        return self.place[-1]

    @property
    def label(self) -> str:
        """The direction; "" where none is given."""
        return self.place[-2] if len(self.place) > 1 else ""

    @property
    def verdict(self) -> Verdict:
        """Whether `one` is better."""
        return Verdict(better=self.gain > 0, best_baseline=self.other, test=self)

    @property
    def corrected_p(self) -> float:
        """The p-value that decides: of the first score of a direction corrected for such scores alone."""
        return deciding_p(self.verdict)[0]

    @property
    def text(self) -> str:
        """The gain with its interval."""
        gain = Score(value=self.gain, ci95=self.ci95, unit=self.unit).in_percent
        return f"{gain.text()} {gain.interval()}".rstrip()

    def reverse(self) -> SystemTest:
        """The same test as the gain of `other`."""
        gain = Score(value=self.gain, ci95=self.ci95).times(-1)
        about = {"one": self.other, "other": self.one, "gain": gain.value, "ci95": gain.ci95}
        about["wins"] = None  # equal patients are nobody's
        return self.model_copy(update=about)


@dataclass(frozen=True)
class Comparison:
    """Which system leads in the first score of each direction, and the tests of all pairs."""

    sentences: list[str]
    tests: list[SystemTest]

    @property
    def table(self) -> pd.DataFrame:
        """A row for each test: score, systems, gain of the first, 95 % interval, p-values."""
        return pd.DataFrame([test.dump() for test in self.tests])


def correct_tests(tests: Sequence[PairedTest]) -> None:
    """Correct the p-values of tests of one family, in place: `holm` (Holm, 1979) controls the chance
    of any false finding, `of` is the number of tests.
    """
    for test, p in zip(tests, holm_of([test.p for test in tests]), strict=True):
        test.holm = p
        test.of = len(tests)


def _correct_primary(tests: Sequence[PairedTest]) -> None:
    """Correct the tests of the first score of each direction for themselves alone."""
    for test, p in zip(tests, holm_of([test.p for test in tests]), strict=True):
        test.primary_p = p
        test.primary_of = len(tests)


def holm_of(values: Sequence[float]) -> list[float]:
    """Each p-value of a family, corrected by Holm."""
    p = np.array(values)
    order = np.argsort(p)
    holm = np.empty_like(p)
    holm[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return holm.tolist()


def compare_systems(
    table: pd.DataFrame,
    higher_is_better: Mapping[str, bool | None],
    units: Mapping[Any, str] | None = None,
    *,
    by: Sequence[str] = ("direction", "metric"),
) -> Comparison:
    """Compare systems, pair by pair, on the patients that both have scores of.

    Example:

        tables = {"one": one.scores.table, "two": two.scores.table}
        models = [table[table.system == "model"].assign(system=name) for name, table in tables.items()]
        gantk.compare_systems(pandas.concat(models), {"psnr": True}).sentences

    Args:
        table: a line for each score of an image or a patient, such as `run.scores.table`. Its columns
            are `system`, `patient`, `value` and those of `by`. Lines without a value or a patient are
            left out.
        higher_is_better: by metric; metrics that it does not name, or names with None, are not
            compared.
        units: the unit of each metric, or of each score by its values of `by`, for the sentences.
        by: the columns that make a score, the name of the metric last. Only equal scores are compared.

    Returns:
        `sentences`, `tests` of all pairs, and these as a `table`. A sentence says which system leads in
        the first score of a direction, and whether this can be chance. The `gain` of a test states how
        much better the system `one` is than `other`; all tests are corrected together.

    Raises:
        UserError: a column is missing, a value is no finite number, or a system has two scores of one
            image, as where it is several.
    """
    means = _means_of_patients(table, [*by, "system", "patient"])
    tests: list[SystemTest] = []
    known = units or {}
    for place, of_score in means.groupby([*by], sort=False):
        higher = higher_is_better.get(place[-1])
        if higher is None:
            continue

        values = of_score.pivot(index="patient", columns="system", values="value")
        values = values.reindex(of_score.patient.unique())
        for one, other in combinations(of_score.system.unique(), 2):
            gains = (values[one] - values[other]).dropna()
            test = paired_test(gains if higher else -gains)
            if test:
                unit = known.get(place) or known.get(place[-1], "")
                tests.append(SystemTest(place=place, one=one, other=other, unit=unit, **dict(test)))

    correct_tests(tests)
    sentences = _sentences(tests)
    if not sentences and table["system"].nunique() > 1:
        sentences = [NOT_COMPARED]
    return Comparison(sentences, tests)


def _means_of_patients(table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """The mean of each patient by each score of each system; UserError for what is no table of scores."""
    missing = [name for name in [*columns, "value"] if name not in table]
    if missing:
        raise UserError(
            f"the table of scores has no column '{missing[0]}'",
            where="table",
            allowed=[*columns, "value"],
        )
    try:
        values = table["value"].astype(float)
    except (TypeError, ValueError):
        values = pd.Series([np.inf])
    if np.isinf(values).any():
        raise UserError(
            "the column 'value' holds what is not a finite number",
            where="table",
            remedy="leave the lines without a score out",
        )
    table = table.assign(value=values)
    known = table[table["patient"] != ""]
    if "image" in table:
        again = known[(known.image != "") & known.duplicated([*columns, "image"])]
        if len(again):
            line = again.iloc[0]
            raise UserError(
                f"the system '{line['system']}' has two scores of the image '{line['image']}'",
                where="table",
                remedy="give each system a name of its own; a run's table holds its baselines too",
            )
    return known.groupby(columns, sort=False, as_index=False)["value"].mean().dropna()


def _sentences(tests: Sequence[SystemTest]) -> list[str]:
    """For each direction which system leads in its first score, and in which ones it is behind. The
    tests of first scores are corrected for the directions and systems alone, as those of a recipe are.
    """
    by_direction: dict[tuple, list[SystemTest]] = defaultdict(list)
    for test in tests:
        by_direction[test.place[:-1]].append(test)
    groups = by_direction.values()
    _correct_primary([test for own in groups for test in own if test.place == own[0].place])
    return [_sentence(own) for own in groups]


def _sentence(tests: Sequence[SystemTest]) -> str:
    """`T1 → T2: one is better than two (PSNR better by 1.24 dB [0.80, 1.68], 8 patients in common),
    and behind it in SSIM (0.02)`, from the tests of all pairs of systems on one direction; of more
    than MAX_WITH_FIGURES systems without figures: `one is, by PSNR, better than two; better than ...`.
    """
    both_ways = [either for test in tests for either in (test, test.reverse())]
    first = [test for test in both_ways if test.place == tests[0].place]
    gains: dict[str, float] = defaultdict(float)
    for test in first:
        gains[test.one] += test.gain
    leader = max(gains, key=gains.__getitem__)  # the largest gain over all others

    is_many = len(gains) > MAX_WITH_FIGURES
    clauses = []
    for test in first:
        if test.one != leader:
            continue
        rival = test.other
        if not is_many:
            by = f"{short_metric_name(test.score)} better by {test.text}"
            lesion = (*test.place[:-1], test.score + LESION)
            by += "".join(
                f", in the lesion by {each.text}"
                for each in both_ways
                if each.place == lesion and (each.one, each.other) == (leader, test.other)
            )
            rival += f" ({by}, {count_noun(test.n, 'patient')} in common)"
        clause = verdict_words(test.verdict, rival)
        if not is_many:
            behind = [
                f"{short_metric_name(each.score)} ({each.text})"
                for each in both_ways
                if (each.one, each.other) == (test.other, leader) and each.gain > 0
            ]
            clause += f", and behind it in {join_words(behind)}" if behind else ""
        clauses.append(clause)
    place = f"{tests[0].label}: " if tests[0].label else ""
    by = f", by {short_metric_name(first[0].score)}," if is_many else ""
    return f"{place}{leader} is{by} {'; '.join(clauses)}."


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
