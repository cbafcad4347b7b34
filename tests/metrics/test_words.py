"""Verdicts in plain words, the same in the terminal and in the report."""

import pytest

from gantk.metrics.rows import (
    result_sentence,
    result_tone,
    score_rows,
)
from gantk.metrics.summary import summary_lines
from gantk.metrics.verdict import short_verdict, tone_of, verdict_words
from gantk.runs.results import Results, Score, Verdict
from gantk.terminal import TextTable

AHEAD = {"better": True, "best_baseline": "histogram", "probability": 1.0}
BY_CHANCE = "ahead of a rule, but this can be chance"
WON = AHEAD | {"test": {"n": 8, "gain": 1.0, "p": 0.004, "holm": 0.01}}


def with_test(n: int, holm: float) -> dict:
    """A better model, with its paired test on n patients."""
    return AHEAD | {"test": {"n": n, "gain": 1.0, "p": holm / 2, "holm": holm}}


LOST = {"better": False, "best_baseline": "intensity_map", "probability": 0.0}


def result(verdicts: dict, **more) -> Results:
    """Results of directions with verdicts on PSNR."""
    row = {"value": 24.93, "unit": "dB", "n": 8, "images": 64}
    histogram = {key: {"psnr": row | {"value": 23.2}} for key in verdicts}
    intensity_map = {key: {"psnr": row | {"value": 26.66}} for key in verdicts}
    content = {
        "metrics": {key: {"psnr": row} for key in verdicts},
        "baselines": {"histogram": histogram, "intensity_map": intensity_map},
        "verdict": {key: {"psnr": verdict} for key, verdict in verdicts.items()},
        "split": {"by": "patient", "consequences": []},
        "domains": ["T1", "T2"],
    }
    return Results.model_validate(content | more)


@pytest.mark.parametrize(
    ("verdict", "tone", "words"),
    [
        (WON, "good", "better than a rule"),
        (with_test(6, 0.04), "good", "better than a rule"),
        (with_test(6, 0.06), "near", f"{BY_CHANCE} (p = 0.06)"),
        (
            with_test(5, 0.01),
            "near",
            "ahead of a rule, but this can be chance: 5 patients are too few, 6 are needed",
        ),
        (
            with_test(2, 0.5),
            "near",
            "ahead of a rule, but this can be chance: 2 patients are too few, 6 are needed",
        ),
        (
            AHEAD | {"patients": 5},
            "near",
            "ahead of a rule, but this can be chance: 5 patients are too few, 6 are needed",
        ),
        (
            AHEAD | {"patients": 0},
            "near",
            BY_CHANCE,
        ),
        (
            AHEAD | {"patients": 8, "holm": 0.2},
            "near",
            f"{BY_CHANCE} (p = 0.2)",
        ),
        (AHEAD | {"patients": 8, "holm": 0.01}, "good", "better than a rule"),
        (LOST, "bad", "not better than a rule"),
        (LOST | {"best_baseline": "my_rule"}, "bad", "not better than a rule"),
        (AHEAD | {"probability": 0.7}, "near", BY_CHANCE),
        (AHEAD | {"probability": None}, "near", BY_CHANCE),
        (
            AHEAD | {"probability": None, "patients": 1},
            "near",
            "ahead of a rule, but this can be chance: 1 patient is too few, 6 are needed",
        ),
        ({}, "", "not compared"),
    ],
)
def test_only_a_significant_verdict_is_good(verdict, tone, words):
    judged = Verdict.model_validate(verdict)
    assert (tone_of(judged), verdict_words(judged, "a rule")) == (tone, words)


def decided(n: int, **test) -> Verdict:
    """A better model, with the p-values of its test on n patients."""
    return Verdict.model_validate(AHEAD | {"test": {"n": n, "gain": 1.0, "p": 0.03} | test})


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (decided(6), "better than a rule"),
        (
            decided(6, holm=0.06, of=2),
            "ahead of a rule, but this can be chance: 6 patients are too few, 7 are needed for 2 comparisons",
        ),
        (decided(8, holm=0.06, of=2), f"{BY_CHANCE} (p = 0.06 for 2 comparisons)"),
        (
            decided(8, holm=0.3, of=10, primary_p=0.094, primary_of=2),
            f"{BY_CHANCE} (p = 0.094 for 2 comparisons)",
        ),
    ],
)
def test_a_lead_that_can_be_chance_states_the_p_that_decides(verdict, words):
    assert verdict_words(verdict, "a rule") == words


def test_one_sentence_says_first_which_direction_is_behind():
    found = result({"a_to_b": WON, "b_to_a": LOST})
    said = result_sentence(found)
    assert said == (
        "On 8 unseen patients, T2 -> T1 is not better than a simple intensity map (PSNR 1.73 dB worse)."
        " T1 -> T2 is better than histogram matching (PSNR 1.00 dB better)."
    )
    assert len(said.split()) <= 35
    first = next(iter(summary_lines(found)))
    assert first.startswith("warning  On 8 unseen patients, T2 -> T1 is not better than")
    alone = "".join(summary_lines(result({"a_to_b": {}})))
    assert "interval" in alone and "95 %" not in alone, "of few patients it is the range"
    better = next(iter(summary_lines(result({"a_to_b": WON}))))
    assert better.startswith("result   On 8 unseen patients, T1 -> T2 is better than")


FEW = with_test(5, 0.01)
NO_SETS = (
    "No held-out pairs are known, so the outputs are not compared with real images. Compare them as"
    " sets: "
)
# verdicts of more directions than are named -> what is said of the model
MANY = {
    "no pairs": ([], "gantk eval RUN --metrics kid"),
    "all better": (
        [WON] * 4,
        "better than the best baseline in 4 directions.",
    ),
    "few patients": (
        [FEW] * 4,
        "ahead of the best baseline in 4 directions, but this can be chance: 5 patients are"
        " too few, 6 are needed.",
    ),
    "some lost": (
        [WON, LOST, FEW, LOST],
        "not better than the best baseline in 2 directions; ahead of it in 1 direction, but this can be"
        " chance: 5 patients are too few, 6 are needed; better than it in 1 direction.",
    ),
    "none compared": ([{}] * 4, ""),
}


@pytest.mark.parametrize("case", MANY)
def test_many_directions_are_counted_by_their_verdict(case):
    verdicts, said = MANY[case]
    cases = {f"T{number}_to_T9": verdict for number, verdict in enumerate(verdicts)}
    found = result(cases)
    for number, scores in enumerate(found.metrics.values()):
        scores["psnr"].value = 24.0 - number
    of_all = "PSNR is 21.00 dB (T3 -> T9) to 24.00 dB (T0 -> T9) in 4 directions."
    place = f"On 8 unseen patients, {of_all} The model is " if cases else NO_SETS

    assert result_sentence(found) == (said and place + said)


@pytest.mark.parametrize(
    ("split", "whose"),
    [
        ({"by": "file"}, "On 64 test images of 1 patient,"),
        ({"by": "image"}, "On 64 test images of 1 patient,"),
        ({"by": "patient"}, "On 1 unseen patient,"),
        (
            {"by": "image", "unknown_patients": True, "consequences": ["not known"]},
            "On 64 test images of unknown patients,",
        ),
    ],
)
def test_one_patient_is_unknown_only_where_the_split_says_so(split, whose):
    tested = result({"a_to_b": WON}, split=split)
    tested.metrics["a_to_b"]["psnr"].n = 1
    assert result_sentence(tested).startswith(whose)


def test_directions_of_other_images_state_their_own_counts():
    split = {"by": "image", "unknown_patients": True, "consequences": ["not known"]}
    tested = result({"a_to_b": WON, "b_to_a": LOST}, split=split)
    tested.metrics["a_to_b"]["psnr"].images = 20
    said = result_sentence(tested)
    assert said.startswith("On 20 and 64 test images of unknown patients,")


def test_images_from_noise_are_no_patients():
    both = result({"reconstruction": WON, "image": WON})
    both.metrics["image"]["psnr"].n = 256
    assert result_sentence(both).startswith("On 8 unseen patients,")


@pytest.mark.parametrize(("verdict", "tone"), [(WON, "near"), (LOST, "bad")])
def test_images_from_noise_stand_beside_real_ones(verdict, tone):
    made = result({"image": verdict})
    real = Score(value=30.5, unit="dB")
    made.baselines["real_split"] = {"image": {"psnr": real}}
    said = result_sentence(made)

    assert "(other real images: 30.50 dB)" in said
    assert "ahead" not in said and "better than" not in said.replace("no better than", "")
    assert ("no better than" in said) == (tone == "bad")
    assert result_tone(made) == tone, "better than noise is no achievement"


@pytest.mark.parametrize(("verdict", "tone"), [(WON, "near"), (LOST, "bad")])
def test_sets_of_images_do_not_say_what_is_right(verdict, tone):
    made = result({"a_to_b": verdict})
    made.metrics["a_to_b"]["psnr"].of_sets = True
    first = result_sentence(made).partition(". ")[0]

    assert first.startswith("Without registered pairs nothing here says whether an image is right")
    assert "better" not in first
    assert result_tone(made) == tone


FEWER = "T1 -> T2 is ahead of histogram matching ("
OF_FEW = ", but this can be chance: 5 patients are too few, 6 are needed."


@pytest.mark.parametrize(
    ("psnr", "ssim", "foreground", "said"),
    [
        (
            LOST,
            LOST,
            LOST,
            "PSNR 1.73 dB worse).",
        ),
        (
            LOST,
            WON,
            WON,
            "PSNR 1.73 dB worse).",
        ),
        (
            LOST,
            WON,
            LOST,
            "PSNR 1.73 dB worse).",
        ),
        (WON, FEW, FEW, "histogram matching (PSNR 1.00 dB better)."),
        (FEW, WON, WON, f"{FEWER}PSNR 1.00 dB better){OF_FEW}"),
        (
            WON,
            LOST,
            WON,
            "histogram matching (PSNR 1.00 dB better). By SSIM, T1 -> T2 is not better than a simple"
            " intensity map (1.73 dB worse, but better in the foreground).",
        ),
    ],
)
def test_sentences_speak_of_the_foreground_where_it_differs(psnr, ssim, foreground, said):
    verdicts = {"psnr": psnr, "ssim": ssim, "ssim_foreground": foreground}
    found = result({"a_to_b": psnr})
    score = found.metrics["a_to_b"]["psnr"]
    found.metrics["a_to_b"] = dict.fromkeys(verdicts, score)
    for directions in found.baselines.values():
        directions["a_to_b"] = dict.fromkeys(verdicts, directions["a_to_b"]["psnr"])
    judged = {name: Verdict.model_validate(each) for name, each in verdicts.items()}
    found.verdict["a_to_b"] = judged
    (table,) = [line for line in summary_lines(found) if isinstance(line, TextTable)]

    assert result_sentence(found).endswith(said)
    named = ["SSIM in foreground"] if foreground is LOST and ssim is WON else []
    assert [cells[1] for cells in table.rows] == ["PSNR", "SSIM", *named]
    tones = {
        "histogram matching (PSNR 1.00 dB better).": "good",
        f"{FEWER}PSNR 1.00 dB better){OF_FEW}": "near",
    }
    assert result_tone(found) == tones.get(said, "bad")


def test_unseen_patients_are_claimed_only_without_leaks():
    leaky = {"by": "image", "consequences": ["8 patients have slices in both training and test"]}
    for split, marked in ((leaky, " (see the warning)"), ({}, "")):
        sentence = result_sentence(result({"a_to_b": WON}, split=split))
        assert sentence.startswith(f"On 64 test images of 8 patients{marked}, T1 -> T2 is better")
    leaked = result_sentence(result({"a_to_b": WON}), unseen=False)
    assert leaked.startswith("On 64 test images of 8 patients, T1 -> T2 is better")


@pytest.mark.parametrize(
    ("lesion", "said", "tone"),
    [
        ({"psnr_lesion": WON}, "", "good"),
        (
            {"psnr_lesion": WON, "ssim_lesion": with_test(5, 0.01)},
            ". By SSIM in the lesion, T1 -> T2 is ahead of histogram matching (1.00 dB",
            "near",
        ),
        (
            {"psnr_lesion": with_test(5, 0.01), "ssim_lesion": LOST, "mae_foreground": LOST},
            ". By SSIM in the lesion, T1 -> T2 is not better than a simple intensity map (1.73 dB worse)",
            "bad",
        ),
    ],
)
def test_what_fares_worse_in_lesions_is_always_said(lesion, said, tone):
    found = result({"a_to_b": WON})
    verdicts = {"psnr": WON} | lesion
    for scores in (found.metrics, *found.baselines.values()):
        scores["a_to_b"] = dict.fromkeys(verdicts, scores["a_to_b"]["psnr"])
    judged = {name: Verdict.model_validate(each) for name, each in verdicts.items()}
    found.verdict["a_to_b"] = judged
    sentence = result_sentence(found)
    assert (said in sentence) and ("By " in sentence) == bool(said)
    assert result_tone(found) == tone


@pytest.mark.parametrize(("end", "is_said"), [(0.3, True), (1.2, False)])
def test_lesions_that_lose_their_contrast_are_named(end, is_said):
    found = result({"a_to_b": WON})
    kept = Score(value=0.06, ci95=[-0.2, end], n=6, images=6)
    found.metrics["a_to_b"]["lesion_contrast"] = kept

    said = "T1 -> T2 shows lesions too faint: it keeps 0.0600 [-0.2000, 0.3000] of their contrast"
    assert (said in result_sentence(found)) == is_said
    (row,) = (row for row in score_rows(found) if row.metric == "lesion_contrast")
    assert row.verdict == ("too faint" if is_said else "")


def test_inverted_lesions_are_not_called_faint():
    found = result({"a_to_b": WON})
    found.metrics["a_to_b"]["lesion_contrast"] = Score(value=-0.118, n=1, images=1)
    assert "T1 -> T2 inverts lesions: dark ones are bright" in result_sentence(found)
    assert "faint" not in result_sentence(found)


def test_patients_who_disagree_are_counted_in_the_table():
    verdicts = [
        AHEAD | {"test": {"n": 2, "gain": 1.0, "p": 1.0, "wins": wins}} for wins in (1, 2, None)
    ]
    said = [short_verdict(Verdict.model_validate(each)) for each in verdicts]
    assert said == ["better in 1 of 2", "too few patients", "too few patients"]


def test_the_table_says_where_no_test_could_tell():
    cases = {
        "may be chance": with_test(6, 0.06),
        "too few patients": AHEAD | {"patients": 1},
        "patients unknown": AHEAD | {"patients": 0},
    }
    assert [short_verdict(Verdict.model_validate(each)) for each in cases.values()] == [*cases]


@pytest.mark.parametrize(("corrected", "is_said"), [(24.0, False), (23.0, True), (None, False)])
def test_a_lead_by_brightness_alone_is_said(corrected, is_said):
    found = result({"a_to_b": with_test(2, 0.5)})
    found.metrics["a_to_b"]["psnr"].corrected = corrected
    found.metrics["a_to_b"]["psnr"].higher_is_better = True
    found.baselines["histogram"]["a_to_b"]["psnr"].higher_is_better = True
    found.baselines["histogram"]["a_to_b"]["psnr"].corrected = 23.5
    said = "but worse after brightness and contrast are corrected"
    assert (said in result_sentence(found)) == is_said


@pytest.mark.parametrize(
    ("mae", "said"),
    [
        (
            {"mae": (0.3, "of range 2")},
            "The mean error is 15 % for T1 -> T2, where 100 % is the range from black to white.",
        ),
        (
            {"mae": (0.1, "of range 2"), "mae_foreground": (0.44, "of range 2")},
            "5 % for T1 -> T2 (22 % in the foreground), where 100 % is the range from black to white.",
        ),
        ({"mae": (80.0, "HU")}, ""),
        ({"mae": (None, "of range 2")}, ""),
    ],
)
def test_the_mean_error_is_a_share_of_the_range(mae, said):
    found = result({"a_to_b": WON})
    for name, (value, unit) in mae.items():
        found.metrics["a_to_b"][name] = Score(value=value, unit=unit, n=8)
    found.metrics["a_to_b_post"] = found.metrics["a_to_b"]
    sentence = result_sentence(found)
    assert sentence.count("% is the range") == bool(said)
    assert said in sentence
    assert ("mean error" in sentence) == bool(said)
