"""Statistics over all rows of a bench: verdicts tested and corrected together, systems ranked on
the same patients.
"""

from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

from gantk import compare_systems, correct_tests
from gantk.metrics.verdict import SIGNIFICANCE, baseline_words
from gantk.report.words import metric_name, number
from gantk_bench.systems import Line, System, numbers

Rows = list[dict[str, Any]]


def statistics(systems: Sequence[System]) -> dict[str, list[Any]]:
    """For the main metrics: `baselines`, the test of each system against its best baseline (that of
    the seed with the largest p), corrected together; `sentences` on the best system and `ranks` of
    systems on the same test images, by means over seeds; `tests` of the first system against the
    others, or of all pairs where too few patients are ranked, corrected over all pairs. Failed
    trainings are left out.
    """
    baselines: Rows = []
    scores: dict[str, dict[tuple, dict[str, float]]] = {}
    higher_is_better: dict[tuple, bool | None] = {}
    units: dict[tuple, str] = {}
    lines = [line for system in systems for line in system.lines if not line.judgement.failed]
    for line in lines:
        for metric in line.main:
            test = _baseline_test(line, metric)
            if test is not None:
                baselines.append(test)
            patients = _mean_by_patient(line, metric)
            if patients is not None:
                key = _same_images(line, metric)
                scores.setdefault(line.system.name, {})[key] = patients
                higher_is_better[key] = line.score(metric).higher_is_better
                units[key] = line.score(metric).unit
    correct_tests(baselines)

    result = compare_systems(scores, higher_is_better, units)
    first = {row["score"]: row["system"] for row in reversed(result["ranks"])}
    result["tests"] = [
        test
        for test in result["tests"]
        if first.get(test["score"]) in (None, test["one"], test["other"])
    ]
    for row in (*result["tests"], *result["ranks"]):
        *_, row["label"], row["score"] = row["score"]
    return {"baselines": baselines} | result


def _baseline_test(line: Line, metric: str) -> dict[str, Any] | None:
    """The test against the best baseline, of the seed with the largest p; None without a test."""
    verdicts = [row.verdict_of(line.direction, metric) for row in line.system.scored]
    tested = [(verdict.test.p, verdict) for verdict in verdicts if verdict.test]
    if not tested:
        return None
    _, weakest = max(tested, key=lambda pair: pair[0])
    return {
        "label": line.label,
        "score": metric,
        "one": line.system.name,
        "other": baseline_words(weakest.best_baseline),
    } | weakest.test.dump()


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


def _same_images(line: Line, metric: str) -> tuple:
    """Equal for scores of the same test images on one gray scale, as the score of the unchanged input
    shows; seeds that differ in theirs match no other system's.
    """
    images = dict.fromkeys(row.test_images for row in line.system.scored)
    unchanged = [row.baseline("identity", line.direction) for row in line.system.scored]
    scales = dict.fromkeys(each[metric].text() for each in unchanged if metric in each)
    return (*images, *scales, line.label, metric)


def sentences(systems: Sequence[System]) -> Iterator[str]:
    """Which systems lead, tests and ranks as sentences; none if no row has scores per patient."""
    result = statistics(systems)
    yield from result["sentences"]
    if result["baselines"]:
        yield _baseline_sentence(result["baselines"])
    groups: dict[tuple[str, str], Rows] = {}
    for row in result["ranks"]:
        groups.setdefault((row["score"], row["label"]), []).append(row)
    for (score, label), rows in groups.items():
        ranked = [
            f"{r['system']} (first in {r['first']:.0%}, rank {r['rank'][0]:g}-{r['rank'][1]:g})"
            for r in rows
        ]
        yield (
            f"Ranks in {metric_name(score)}, {label}, over draws of {rows[0]['n']} patients:"
            f" {', '.join(ranked)}."
        )


def _baseline_sentence(tests: Rows) -> str:
    """How many tests against the best baseline are better, worse or undecided."""
    decided = [test for test in tests if test["holm"] < SIGNIFICANCE]
    better = sum(test["gain"] > 0 for test in decided)
    worse = sum(test["gain"] < 0 for test in decided)
    undecided = [
        f"{t['one']} {metric_name(t['score'])} {t['label']} ({number(t['holm'], 2)})"
        for t in tests
        if t["holm"] >= SIGNIFICANCE
    ]
    listed = f": {', '.join(undecided)}" if undecided else ""
    return (
        "Sign-flip permutation tests over patients against the best baseline, Holm over"
        f" {len(tests)} comparisons: {better} better, {worse} worse,"
        f" {len(undecided)} undecided at 5 %{listed}."
    )
