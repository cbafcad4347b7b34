"""Statistics: known p-values, corrections, errors of the first kind, power."""

import json
from itertools import product

import numpy as np
import pandas as pd
import pytest
from pages import Page
from tiny import TINY, draw_pictures, read_json

import gantk
from gantk.errors import UserError
from gantk.metrics import intervals as paired
from gantk.metrics.comparing import add_tests
from gantk.metrics.intervals import paired_test
from gantk.metrics.verdict import tone_of
from gantk.runs.results import PairedTest, Results
from gantk_bench.rows import Row
from gantk_bench.statistics import sentences
from gantk_bench.systems import systems

GAINS = np.array([1.0, -0.5, 2.0, 2.0, 0.0, 0.25, -0.25, 1.5])  # with ties and a zero


def p_of_all_signs(gains: np.ndarray) -> float:
    sums = [abs(np.dot(signs, gains)) for signs in product((1, -1), repeat=len(gains))]
    return np.mean([total >= abs(gains.sum()) for total in sums])


def test_the_p_of_sign_flips_is_that_of_all_patterns_of_signs():
    p = p_of_all_signs(GAINS)
    assert 0.01 < p < 0.2
    assert paired.sign_flip_p(GAINS) == p
    assert paired.sign_flip_p(np.ones(3)) == 2 / 2**3
    assert paired.sign_flip_p(np.zeros(4)) == 1
    assert paired.paired_test([1.0]) is None
    # of so many patients signs are drawn: the pattern that was seen is one of those drawn
    assert paired.sign_flip_p(np.ones(60)) == 1 / (1 + paired.FLIPS)


def test_the_interval_of_a_share_is_that_of_wilson():
    score = paired.estimate_share(np.array([1] * 9 + [0]))
    assert score.ci95 == pytest.approx([0.5958, 0.9821], abs=1e-4)


def test_corrections_are_those_of_the_hand_computed_table():
    tests = [PairedTest(n=9, gain=1.0, p=p) for p in (0.01, 0.04, 0.03, 0.005)]
    gantk.correct_tests(tests)

    assert [test.holm for test in tests] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert {test.of for test in tests} == {4}


def table_of(values: dict) -> pd.DataFrame:
    """The table of system -> metric -> patient -> value."""
    return pd.DataFrame(
        [
            {"direction": "T1 → T2", "system": system, "metric": metric}
            | {"patient": p, "value": v}
            for system, metrics in values.items()
            for metric, patients in metrics.items()
            for p, v in patients.items()
        ]
    )


def systems_of(rng: np.random.Generator, patients: int = 12, better: float = 0.0) -> pd.DataFrame:
    """Two systems with four scores of each patient, which go together."""
    heads = rng.normal(size=patients)
    shifted = [heads + rng.normal(shift, 1, patients) for shift in (0, better)]
    values = {
        name: {
            f"m{k}": {
                f"p{n}": float(v) for n, v in enumerate(values + rng.normal(0, 0.3, patients))
            }
            for k in range(4)
        }
        for name, values in zip("xy", shifted, strict=True)
    }
    return table_of(values)


@pytest.mark.slow
def test_comparisons_find_chance_differences_rarely():
    rng = np.random.default_rng(0)
    senses = dict.fromkeys(("m0", "m1", "m2", "m3"), True)
    runs = 400
    of_one = []
    of_any = []
    for _ in range(runs):
        tests = gantk.compare_systems(systems_of(rng), senses).tests
        of_one.append(tests[0].p < 0.05)
        of_any.append(min(test.holm for test in tests) < 0.05)

    error = (0.05 * 0.95 / runs) ** 0.5

    assert abs(np.mean(of_one) - 0.05) < 3 * error
    assert 0.005 < np.mean(of_any) < 0.05 + 3 * error


def test_sign_flips_find_an_effect_as_often_as_a_t_test():
    rng = np.random.default_rng(0)
    power = np.mean([paired.sign_flip_p(rng.normal(0.8, 1, 15)) < 0.05 for _ in range(600)])

    assert 0.74 < power < 0.87


def test_a_test_of_systems_states_the_gain_of_the_first():
    systems = systems_of(np.random.default_rng(2), 40, 3.0)
    (test,) = gantk.compare_systems(systems, {"m0": True}).tests

    assert (test.one, test.other, test.score, test.n) == ("x", "y", "m0", 40)
    assert test.gain < 0
    assert test.holm < 0.001
    (lower,) = gantk.compare_systems(systems, {"m0": False}).tests
    assert lower.gain == -test.gain


def test_first_scores_are_corrected_among_themselves():
    rows = [
        (way, metric, system, f"p{n}", n + (system == "y"))
        for way in ("a", "b")
        for metric in ("psnr", "ssim", "ms_ssim")
        for system in "xy"
        for n in range(6)
    ]
    table = pd.DataFrame(rows, columns=["direction", "metric", "system", "patient", "value"])
    tests = gantk.compare_systems(table, dict.fromkeys(table.metric, True)).tests

    assert [test.corrected_p for test in tests] == 2 * [2 * 2 / 64, 6 * 2 / 64, 6 * 2 / 64]


UNSURE = "but this can be chance (p = "
# by how much y and z are better than x for each patient -> the sentence, and whether the gain has an interval
SENTENCES = {
    "one patient": ([[3]], "Which of them is better cannot be said: with fewer than two", False),
    "two": (
        [[3, 4]],
        "y is ahead of x (PSNR better by 3.50 dB, 2 patients in common), but this can be chance: 2 patients are too"
        " few, 6 are needed.",
        False,
    ),
    "five": (
        [[3] * 5],
        "y is ahead of x (PSNR better by 3.00 dB, 5 patients in common), but this can be chance: 5 patients are too"
        " few, 6 are needed.",
        False,
    ),
    "six": (
        [[3] * 6],
        "y is better than x (PSNR better by 3.00 dB [3.00, 3.00], 6 patients in common).",
        True,
    ),
    "worse": (
        [[-3] * 6],
        "x is better than y (PSNR better by 3.00 dB [3.00, 3.00], 6 patients in common).",
        True,
    ),
    "chance": (
        [[3, -2] * 4],
        f"y is ahead of x (PSNR better by 0.50 dB [-1.38, 2.38], 8 patients in common), {UNSURE}",
        True,
    ),
    "equal": (
        [[0] * 6],
        "x is not better than y (PSNR better by 0.00 dB [0.00, 0.00], 6 patients in common).",
        True,
    ),
    "three": (
        [[3] * 8, [5] * 8],
        "z is better than x (PSNR better by 5.00 dB [5.00, 5.00], 8 patients in common); better than y (PSNR better"
        " by 2.00 dB [2.00, 2.00], 8 patients in common).",
        True,
    ),
    "near": (
        [[5] * 8, [3, 6, 4.5] * 2 + [5, 5]],
        "y is better than x (PSNR better by 5.00 dB [5.00, 5.00], 8 patients in common); ahead of z (PSNR"
        " better by 0.38 dB [-0.50, 1.25], 8 patients in common) in only 4 of 8 patients, but this can be chance (p = ",
        True,
    ),
    "four": (
        [[5] * 8, [3] * 8, [4] * 8],
        "y is, by PSNR, better than x; better than z; better than w.",
        True,
    ),
}


@pytest.mark.parametrize("case", SENTENCES)
def test_the_sentence_on_systems_claims_what_the_patients_carry(case):
    gains, sentence, known = SENTENCES[case]
    values = {
        name: {"psnr": {f"p{n}": 20.0 + n + gain for n, gain in enumerate(own)}}
        for name, own in zip("xyzw", [[0] * len(gains[0]), *gains], strict=False)
    }
    found = gantk.compare_systems(table_of(values), {"psnr": True}, {"psnr": "dB"})
    (said,) = found.sentences

    assert said.removeprefix("T1 → T2: ").startswith(sentence)
    assert all((test.ci95 is not None) is known for test in found.tests)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("value", float("inf"), "holds what is not a finite number"),
        ("value", "n/a", "holds what is not a finite number"),
        ("system", None, "the table of scores has no column 'system'"),
        ("image", "slice-1", "the system 'x' has two scores of the image 'slice-1'"),
    ],
)
def test_what_is_no_table_of_scores_is_refused(column, value, words):
    table = table_of({"x": {"psnr": {"p": 1.0, "q": 2.0}}, "y": {"psnr": {"p": 1.0, "q": 2.0}}})
    if column == "image":  # the lines of a run's baselines beside its own
        table = pd.concat([table, table])
    wrong = table.drop(columns=column) if value is None else table.assign(**{column: value})
    with pytest.raises(UserError, match=words):
        gantk.compare_systems(wrong, {"psnr": True})


def test_a_bench_states_its_tests_and_corrections():
    test = {"p": 0.001, "gain": 1.0, "n": 9, "holm": 1.0, "of": 1}
    score = {"value": 1.0, "higher_is_better": True}
    kept = {name: n for n, name in enumerate("pqrstu")}
    row = {"format": 1, "status": "ok", "domains": ["T1", "T2"], "test_images": "x"}
    row |= {"metrics": {"a_to_b": {"psnr": score}}, "patients": {"a_to_b": {"psnr": kept}}}
    judged = [
        {"a_to_b": {"psnr": {"best_baseline": "identity", "test": test | {"p": p}}}}
        for p in (0.001, 0.2)
    ]
    rows = [
        Row.model_validate(row | {"label": name, "verdict": each})
        for name, each in zip(("one", "two"), judged, strict=True)
    ]
    leading, tests = sentences(systems(rows))

    assert (
        "one is not better than two (PSNR better by 0.0000 [0.0000, 0.0000], 6 patients in common)"
        in leading
    )
    better = "1 (one PSNR T1\xa0→\xa0T2) better, 0 worse, 1 undecided at 5 %"
    assert f"corrected by Holm over 2 comparisons: {better}" in tests
    unknown = Row.model_validate(row | {"label": "one", "patients": None})
    assert list(sentences(systems([unknown]))) == []


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A run of 24 patients in a table, 14 of them tested; the truth of every other one is another
    image.
    """
    folder = tmp_path_factory.mktemp("study")
    a = draw_pictures(folder / "T1", 24, seed=0)
    b = draw_pictures(folder / "T2", 24, seed=0)
    other = draw_pictures(folder / "other", 24, seed=5)
    rows = ["T1,T2,patient,split"]
    for n in range(24):
        truth = other[n] if n % 2 else b[n]
        rows.append(f"{a[n]},{truth},p{n},{'test' if n < 14 else 'train'}")

    (folder / "study.csv").write_text("\n".join(rows))
    source = {"name": "manifest", "path": str(folder / "study.csv")}
    data = TINY["data"] | {"source": source, "split": {"test": 0.5, "validation": 0.0}}
    recipe = TINY | {"data": data, "evaluate": {"metrics": ["psnr"], "samples": 1}}
    return gantk.run(recipe, out=folder / "run", device="cpu", say=lambda line: None)


def test_every_verdict_is_tested(scored):
    metrics = read_json(scored.path / "metrics.json")
    test = metrics["verdict"]["a_to_b"]["psnr"]["test"]

    assert test["n"] == 14
    assert test["of"] == 4
    assert '"gains"' not in json.dumps(metrics)


def test_tests_are_reported(scored):
    words = Page(gantk.write_report(scored)).words
    assert "system baseline" in words
    assert "for all 4 comparisons" in words


@pytest.mark.parametrize(
    ("patients", "tones"),
    [(5, ["near"] * 4), (8, ["good", *["near"] * 3]), (12, ["good"] * 4)],
)
def test_the_first_score_decides_by_itself(patients, tones):
    """Gains of every patient in three scores and two directions: which count as better."""
    gains = [1.0 + 0.1 * number for number in range(patients)]
    scores = ("psnr", "ssim", "mae", "rmse")
    verdict = {"better": True, "best_baseline": "identity", "probability": 1.0}
    results = Results.model_validate(
        {"verdict": {key: dict.fromkeys(scores, verdict) for key in ("a_to_b", "b_to_a")}}
    )
    for of_scores in results.verdict.values():
        for each in of_scores.values():
            each.test = paired_test(gains)
    add_tests(results)

    for of_scores in results.verdict.values():
        assert [tone_of(of_scores[score]) for score in scores] == tones
        assert [of_scores[score].test.primary_p is None for score in scores] == [
            False,
            True,
            True,
            True,
        ]
