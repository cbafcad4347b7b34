"""Statistics over all rows of a bench: verdicts tested and corrected together, systems ranked on
the same patients.
"""

from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

from gantk import compare_systems, correct_tests
from gantk.report.words import baseline_name, metric_name, number
from gantk_bench.systems import System, dig, mapping, value_of

Rows = list[dict[str, Any]]


def statistics(systems: Sequence[System]) -> dict[str, Rows]:
    """For the main metrics: `baselines`, the test of each system against its best baseline (that of
    the seed with the largest p), corrected together; `ranks` of systems on the same test images, by
    means over seeds; `tests` of the first system against the others, corrected over all pairs.
    Failed trainings are left out.
    """
    baselines, scores, higher_is_better = [], {}, {}
    for line in (line for system in systems for line in system.lines if not line.judgement.failed):
        rows, name = line.system.scored, line.system.name
        for metric in line.main:
            verdicts = [mapping(dig(row, "verdict", line.direction, metric)) for row in rows]
            verdicts = [each for each in verdicts if value_of(dig(each, "test", "p")) is not None]
            if verdicts:
                weakest = max(verdicts, key=lambda each: each["test"]["p"])
                names = {"one": name, "other": baseline_name(str(weakest["best_baseline"]))}
                baselines.append({"label": line.label, "score": metric} | names | weakest["test"])
            seeds = [mapping(dig(row, "patients", line.direction, metric)) for row in rows]
            key = (*dict.fromkeys(row.get("test_images") for row in rows), line.label, metric)
            if all(seeds):  # if seeds differ in their test images, `key` matches no other system's
                shared = [
                    patient
                    for patient in seeds[0]
                    if all(value_of(s.get(patient)) is not None for s in seeds)
                ]
                scores.setdefault(name, {})[key] = {
                    patient: fmean(s[patient] for s in seeds) for patient in shared
                }
                higher_is_better[key] = line.entry(metric).get("higher_is_better")
    correct_tests(baselines)
    result = compare_systems(scores, higher_is_better)
    first = {row["score"]: row["system"] for row in reversed(result["ranks"])}
    result["tests"] = [
        test for test in result["tests"] if first.get(test["score"]) in (test["one"], test["other"])
    ]
    for row in (*result["tests"], *result["ranks"]):
        row["label"], row["score"] = row["score"][-2:]
    return {"baselines": baselines} | result


def sentences(systems: Sequence[System]) -> Iterator[str]:
    """The results of the tests and ranks as sentences; none if the rows have no scores per patient."""
    result, groups = statistics(systems), {}
    if tests := result["baselines"]:
        better, worse = (
            sum(t["holm"] < 0.05 and t["gain"] * sign > 0 for t in tests) for sign in (1, -1)
        )
        rest = [t for t in tests if t["holm"] >= 0.05]
        texts = [
            f"{t['one']} {metric_name(t['score'])} {t['label']} ({number(t['holm'], 2)})"
            for t in rest
        ]
        yield (
            "Sign-flip permutation tests over patients against the best baseline, Holm over"
            f" {len(tests)} comparisons: {better} better, {worse} worse, {len(rest)} undecided at 5"
            f" %{': ' * bool(rest)}{', '.join(texts)}."
        )
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
