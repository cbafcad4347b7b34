"""The report: one file that opens offline, says what is missing, and executes nothing that the run
folder holds.
"""

import base64
import hashlib
import html
import json
import math
import os
import platform
import re
import shutil
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from pages import Page, draw_samples
from PIL import Image
from tiny import read_json, write_json

import gantk
from gantk import Run, RunRecord, registry
from gantk.data.test_size import needed_words
from gantk.errors import UserError
from gantk.metrics.summary import summary_lines
from gantk.plugin.registry import Entry
from gantk.report import pictures
from gantk.report.build import write_report

RECIPE = """\
format = 1
summary = "Brain MR, T1 <-> T2, unpaired."  # a comment
[method]
name = "dualgan"
[data]
domains = ["T1", "T2"]
[train]
steps = 40
"""
TRANSLATION = {
    "a_to_b": {"from": "T1", "to": "T2", "count": 2},
    "b_to_a": {"from": "T2", "to": "T1", "count": 2},
}
STEPS = (0, 20, 40)


def score(value: float, **more) -> dict:
    return {
        "value": value,
        "ci95": [value - 0.5, value + 0.5],
        "n": 10,
        "images": 40,
        "unit": "dB",
        "definition": "psnr/fixed-range",
        "higher_is_better": True,
        "corrected": value + 1,
    } | more


def scored(**verdict) -> dict:
    """metrics.json of a run that beats identity but for what `verdict` says of T2 -> T1."""
    won = {"better": True, "best_baseline": "identity", "patients": 10, "holm": 0.01}
    return {
        "metrics": {"a_to_b": {"psnr": score(24.31)}, "b_to_a": {"psnr": score(21.02)}},
        "baselines": {
            "identity": {"a_to_b": {"psnr": score(18.5)}, "b_to_a": {"psnr": score(21.6)}}
        },
        "verdict": {"a_to_b": {"psnr": won}, "b_to_a": {"psnr": won | verdict}},
        "speed": {"images_per_s": 31.0, "seconds": 240.3, "steps": 40},
        "domains": ["T1", "T2"],
    }


def full() -> dict:
    """metrics.json with every kind of score."""
    metrics = scored()
    row = metrics["metrics"]["a_to_b"]
    row |= {name: score(20.0) for name in ("psnr_foreground", "ms_ssim_lesion", "kid_random")}
    for name, value in {"precision": 0.8, "recall": 0.7, "density": 0.9, "coverage": 0.6}.items():
        row[f"{name}_random"] = score(value, unit="", ci95=None)
        metrics["baselines"]["identity"]["a_to_b"][f"{name}_random"] = score(
            0.1, unit="", ci95=None
        )

    metrics["speed"] |= {
        "step_seconds": [0.02, 0.025, 0.04],
        "first_step_s": 6.4,
        "peak_memory_gib": 1.31,
    }
    return metrics


def log_lines(steps: int = 40) -> list[dict]:
    lines: list[dict] = []
    for step in range(1, steps + 1):
        losses = {
            "generators/cycle_a": 5 / step,
            "generators/adversarial_a": 0.4,
            "discriminators/d_a": 0.2,
        }
        lines.append(
            {
                "step": step,
                "stage": "main",
                "seconds": step / 10,
                "images_per_s": 31.0,
                "losses": losses,
            }
        )
        if step % 20 == 0:
            lines.append(
                {
                    "step": step,
                    "validation": {"a_to_b": {"psnr": 20 + step / 10}, "b_to_a": {"psnr": 19.0}},
                }
            )

    return [*lines, {"step": steps, "alarm": "no-change", "message": "the output is the input"}]


SAVES = [{"step": step, "score": 0.1} for step in (10, 20, 40)]
BEST = {"step": 20, "rule": "nearest to ideal", "higher_is_better": False, "table": SAVES}


def image(domain: str, subject: str) -> dict:
    return {
        "domain": domain,
        "key": f"{subject}/{domain}",
        "subject": subject,
        "pair": None,
        "path": None,
    }


SETS = {"by": "patient", "train": [], "validation": [], "test": []}


def make_run(
    folder: Path,
    *,
    recipe: str = RECIPE,
    directions: dict = TRANSLATION,
    truth: bool = True,
    steps: tuple[int, ...] = STEPS,
    log: list[dict] | None = None,
    side: int = 16,
    **files,
) -> Path:
    """A run folder with random pictures and made-up numbers; `files` are more JSON files by their
    name.
    """
    draw_samples(folder, directions, steps, truth, side)
    records = [image(d, s) for d in "ab" for s in ("anna", "ben")]
    files = {
        "environment": {
            "gantk": "0.1.0",
            "device": "cpu",
            "packages": {"numpy": "2.0"},
            "git": None,
        },
        "split": {
            "how": "by patient",
            "splits": SETS | {"train": records, "test": [image("b", "carla")]},
        },
    } | files
    for name, content in files.items():
        write_json(folder / f"{name}.json", content)

    (folder / "recipe.toml").write_text(recipe, encoding="utf-8")
    lines = log_lines() if log is None else log
    (folder / "log.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8"
    )
    return folder


def report(run: Path) -> Page:
    return Page(write_report(run))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Page:
    """The page of a run with everything in its folder."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return report(make_run(folder, metrics=full(), log=log_lines(), best=BEST))


def test_the_page_is_self_contained_and_blocks_scripts(whole):
    references = [
        v
        for name in ("src", "href", "srcset", "poster", "action", "data")
        for v in whole.having(name)
    ]

    assert len(references) >= 19
    assert all(value.startswith(("data:", "#")) for value in references)

    (policy,) = [
        a["content"] for _, a in whole.tags if a.get("http-equiv") == "Content-Security-Policy"
    ]
    digest = base64.b64encode(hashlib.sha256(whole.texts["script"][1].encode()).digest()).decode()

    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}'" in policy


def test_nothing_in_the_run_can_execute(tmp_path):
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    log = [
        {"step": 1, "losses": {f"{evil}/{evil}": 1.0}},
        {"step": 1, "alarm": evil, "message": evil},
    ]
    run = make_run(
        tmp_path / "run",
        recipe=f"summary = {json.dumps(evil)}\n[method]\nname = {json.dumps(evil)}\n",
        directions={"a_to_b": {"from": evil, "to": f'"{evil}', "count": 1}},
        log=log,
        metrics=scored() | {"baselines": {evil: {"a_to_b": {"psnr": score(1, definition=evil)}}}},
        environment={evil: evil, "packages": {evil: evil}},
    )
    page = report(run)

    assert page.can_execute_nothing_of_its_own()
    assert evil in page.words
    assert page.data["charts"][0]["names"] == ["script><img src=x onerror=alert(1)>"]


WORDS = [
    "On 40 test images of 10 patients, T1 → T2 and T2 → T1 are better than the unchanged input (PSNR",
    "PSNR 5.81 dB better",
    "T1 → T2 n = 10 (40 images)",
    "Peak signal-to-noise ratio (PSNR) higher is better 24.31 dB [23.81, 24.81]",
    "18.50 dB the unchanged input 5.81 dB better better",
    "Whole image scored PSNR, dB ↑ model 24.31 [23.81, 24.81] n = 10 (40 images) corrected 25.31",
    "the unchanged input 18.50 [18.00, 19.00] n = 10 (40 images) corrected 19.50",
    "PSNR: psnr/fixed-range",
    '"May be chance" means that it is not significant; "better in 1 of 2" counts the patients; ',
    f"{needed_words()}.",
    "Precision random ↑ Recall random ↑ Density random ↑ Coverage random ↑ model",
    "0.800 n = 10 (40 images) corrected 1.800 0.700",
    "the unchanged input – 0.100 n = 10 (40 images)",
    "Sets of images scored KID random",
    "Step time 25 ms (20 ms to 40 ms) First step after 6.4 s Peak memory 1.31 GiB",
    "step 40 , the last one; step 20 was the best in validation (0.1 against 0.1: nearest to ideal)",
    "train 2 2 2",
]


def test_the_page_shows_scores_choice_and_split(whole):
    assert [words for words in WORDS if words not in whole.words] == []


def test_regions_follow_the_whole_image_with_notes(whole):
    assert re.search(
        "Whole image scored PSNR.* Foreground scored PSNR in the .* Lesion scored MS-SSIM in the",
        whole.words,
    )
    assert "psnr/fixed-range" in whole.having("title")
    assert whole.having("title").count("best checkpoint, step 20") >= 3  # in every chart
    assert RECIPE in unescape(whole.source)


def test_every_saved_step_of_every_direction_can_be_scrubbed_to(whole, tmp_path):
    assert whole.data["steps"] == list(STEPS)

    for key in TRANSLATION:
        for kind in ("output", "error"):  # the last are in the page itself
            assert [frame and len(frame) for frame in whole.data["frames"][key][kind]] == [
                2,
                2,
                None,
            ]

    first = (make_run(tmp_path / "run") / "samples/step-000040/a_to_b-0.png").read_bytes()

    assert f"data:image/png;base64,{base64.b64encode(first).decode()}" in whole.having("src")
    assert all(attributes.get("alt") for tag, attributes in whole.tags if tag == "img")


@pytest.mark.parametrize(
    ("verdict", "tone", "words"),
    [
        (
            {"better": False},
            "bad",
            ["T2 → T1 is not better than the unchanged input (PSNR 0.58 dB worse)"],
        ),
        (
            {"holm": 0.71},
            "near",
            [
                "ahead of the unchanged input (PSNR ",
                "), but this can be chance (p = 0.71)",
            ],
        ),
        (
            {"test": {"n": 2, "gain": 1.2, "p": 0.5, "holm": 1.0, "of": 1}},
            "near",
            [
                "ahead of the unchanged input (PSNR ",
                "), but this can be chance: 2 patients are too few, 6 are needed",
            ],
        ),
        (
            {
                "better": False,
                "best_baseline": "regression",
                "without_pairs": {"better": True, "best_baseline": "identity", "holm": 0.01},
            },
            "bad",
            [
                "is not better than a small U-Net trained for 316 steps (PSNR 2.88 dB worse)",
                "23.90 dB a small U-Net trained for 316 steps 2.88 dB worse",
                "The model is better than every baseline that needs none.",
            ],
        ),
    ],
    ids=["lost", "within-chance", "two-patients", "lost-to-one-fitted-on-pairs"],
)
def test_a_verdict_says_how_sure_it_is_and_against_what(tmp_path, verdict, tone, words):
    metrics = scored(**verdict)
    metrics["baselines"]["regression"] = {"b_to_a": {"psnr": score(23.9)}}
    metrics["baseline_steps"] = 316
    page = report(make_run(tmp_path / "run", metrics=metrics))

    assert f"headline {tone}" in page.having("class")
    assert [each for each in words if each not in page.words] == []


class Kappa:
    """Agreement of tissues; 1 means equal tissues.

    Not shown.
    """


def test_parts_without_words_are_explained_by_their_docstring(tmp_path, monkeypatch):
    entries = registry().entries
    monkeypatch.setitem(entries, ("metric", "kappa"), Entry("metric", "kappa", Kappa, "theirs"))
    ours = Entry("baseline", "my_rule", f"{__name__}:Kappa", "theirs")
    monkeypatch.setitem(entries, ("baseline", "my_rule"), ours)
    metrics = scored()
    metrics["metrics"]["a_to_b"]["kappa_tissue"] = score(0.81, unit="")
    metrics["baselines"]["my_rule"] = {"a_to_b": {"psnr": score(18.0)}}
    words = report(make_run(tmp_path / "run", metrics=metrics)).words

    assert "Kappa tissue higher is better 0.810" in words
    for name in ("Kappa tissue", "My rule"):
        assert f"{name} Agreement of tissues; 1 means equal tissues." in words
    assert "Not shown" not in words


def test_no_praise_for_leaks(tmp_path):
    split = {
        "leakage_allowed": "anna is on both sides",
        "splits": SETS | {"train": [image("a", "anna")]},
    }
    words = report(make_run(tmp_path / "run", split=split)).words

    assert "anna is on both sides" in words


def test_an_interrupted_run_without_truth_says_what_it_lacks(tmp_path):
    page = report(make_run(tmp_path / "run", log=log_lines(20), steps=(0, 20), truth=False))
    assert "No scores: the run stopped at step 20 of 40." in page.words
    assert (
        "No differences are shown: these images have no registered real counterpart" in page.words
    )
    assert "metrics" not in page.having("id")
    assert "error" not in page.having("data-kind")

    write_json(tmp_path / "run" / ".lock", {"pid": os.getppid(), "host": platform.node()})
    running = "the run goes on, at step 20 "
    assert running in Page(write_report(tmp_path / "run")).words


def test_young_runs_are_shown_and_other_folders_refused(tmp_path):
    with pytest.raises(UserError, match="is not a run folder"):
        write_report(tmp_path)
    (tmp_path / "recipe.toml").write_text(RECIPE)

    assert "training has not reached its first log" in report(tmp_path).words


def test_what_cannot_be_read_is_named_and_the_rest_is_shown(tmp_path):
    # of a resumed run the last counts
    values = ((1, 1.0), (2, 9.0), (3, 2.0), (2, math.nan), (3, 2.0))
    log = [{"step": step, "losses": {"g/x": value}} for step, value in values]
    run = make_run(tmp_path / "run", log=log, best=[1, 2])
    (run / "metrics.json").write_text("{ half")
    (run / "samples/step-000000/a_to_b-0.png").unlink()
    with open(run / "log.jsonl", "a") as file:
        file.write('{"step": 4, "los')

    page = report(run)

    assert "'metrics.json' cannot be read" in page.words
    assert "'best.json' cannot be read" in page.words
    assert "is the best of" not in page.words
    assert page.data["frames"]["a_to_b"]["output"][0][0] == ""
    assert page.data["charts"][0]["values"] == [[1.0, None, 2.0]]


def test_pictures_outside_of_the_run_are_left_out(tmp_path):
    Image.fromarray(np.full((16, 16), 77, np.uint8)).save(secret := tmp_path / "secret.png")
    run = make_run(tmp_path / "run")
    for place, other in (
        ("step-000000/a_to_b-0.png", secret),
        ("truth", tmp_path / "run2/samples/truth"),
    ):
        path = run / "samples" / place
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        path.symlink_to(other)

    make_run(tmp_path / "run2")
    (run / "samples/input/a_to_b-0.png").write_bytes(b"root:x:0:0")
    page = report(run)

    assert page.data["frames"]["a_to_b"]["output"][0][0] == ""
    assert base64.b64encode(secret.read_bytes()).decode() not in page.source
    assert "cm9vdDp4" not in page.source
    assert page.words.count("it is no file of this run") > 1
    assert "/a_to_b-0.png is left out: it is no PNG" in page.words


def test_a_large_run_is_thinned_and_the_page_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_SHOWN_STEPS", 8)
    page = report(make_run(tmp_path / "run", steps=tuple(range(0, 400, 20)), side=24))
    kept = page.data["steps"]

    assert len(kept) == 8
    assert kept[0] == 0
    assert kept[-1] == 380
    assert f"{len(kept)} of 20 saved steps are shown" in page.words
    assert page.data["frames"]["a_to_b"]["output"][0][0].startswith("data:image/webp")
    # what opens first is lossless
    assert all(uri.startswith("data:image/png") for uri in page.having("src"))


def test_alarms_of_the_last_check_follow_the_sentence(whole):
    assert "the output is the input (at the last check of the training" in whole.words


def test_the_page_begins_with_a_sentence_and_images(whole):
    first = whole.source.partition("<h2>Scores on the test images</h2>")[0]

    order = [first.index(f'class="{name}') for name in ("headline", "typical")]
    assert order == sorted(order)
    assert (
        first.count('class="typical"') - first.partition('class="others"')[2].count("typical") == 1
    )
    assert "What was run" not in first
    assert [
        name for name in whole.having("alt") if name in ("Input: T1", "Generated T2", "Real T2")
    ]
    assert "A held-out image at step 40" in whole.words


OWN_SUMMARY = "Brain MR, T1 <-> T2, unpaired."
HEADS = "files: /scans/heads"
OTHER_DATA = "Trained on /scans/heads, with the settings of x.toml (bundled with gantk)."


@pytest.mark.parametrize(
    ("changed", "data", "subtitle"),
    [
        ({}, HEADS, OWN_SUMMARY),
        ({"train.steps": ["9", "8"]}, HEADS, OWN_SUMMARY),
        ({"data.source": ["phantom", "files"]}, HEADS, OTHER_DATA),
        ({"data.source.a": ["not given", "CT"]}, HEADS, OTHER_DATA),
        ({"data.domains": ["T1, T2", "CT, MR"]}, HEADS, OTHER_DATA),
        ({"data.source": ["files", "phantom"]}, "phantom: /scans/heads.", OTHER_DATA),
    ],
)
def test_the_subtitle_says_what_was_trained_on(tmp_path, changed, data, subtitle):
    about = {"origin": "x.toml (bundled with gantk)", "data": data}
    page = report(make_run(tmp_path, environment={"recipe": about | {"changed": changed}}))

    assert f'<p class="lede">{html.escape(subtitle)}</p>' in page.source


def test_warnings_about_the_data_stand_below_the_result(tmp_path):
    splits = SETS | {"train": [], "test": []}
    said = "the domains of test seem to be exchanged"
    notes = {"notes": ["a", said], "warnings": [f"warning  {said}", "note     a"]}
    page = report(make_run(tmp_path, split={"splits": splits} | notes))

    assert "1 note on the data and the recipe" in page.words
    assert page.words.count(said) == 1
    assert page.words.index(said) < page.words.index("1 note on the data")


@pytest.mark.parametrize(
    ("notes", "told", "times"),
    [
        ([], "on the data and the recipe", 0),
        (["2 images left out: FLAIR (2)."], "1 note on the data and the recipe", 1),
        (["a", "b"], "2 notes on the data and the recipe", 1),
        (["All images were trained on."], "All images were trained on.", 1),
    ],
)
def test_notes_of_the_start_are_on_the_page_once(tmp_path, notes, told, times):
    splits = SETS | {"train": [], "test": [], "consequences": ["All images were trained on."]}
    page = report(make_run(tmp_path, split={"splits": splits, "notes": notes}))

    assert page.words.count(told) == times
    assert all(note in page.words for note in notes)


def test_two_patients_are_ahead_wherever_they_are_shown(tmp_path):
    """A difference of 5 dB on two patients, of which the smallest p is 0.5."""
    test = {"n": 2, "gain": 5.8, "p": 0.5, "holm": 0.5, "of": 1}
    metrics = scored(test=test)
    metrics["verdict"]["a_to_b"]["psnr"]["test"] = test
    run = make_run(tmp_path / "run", metrics=metrics)
    shown = {
        "page": Page(write_report(run)).words,
        "notebook": Run(run)._repr_html_(),
        "comparison": Page(gantk.write_report(run, out=tmp_path / "two.html")).words,
        "terminal": " ".join("\n".join(summary_lines(RunRecord(run).results)).split()),
    }

    for where, text in shown.items():
        assert "ahead" in text, where
        assert "this can be chance: 2 patients are too few, 6 are needed" in text, where
        assert "better than the unchanged" not in text, where
    assert "headline near" in Page(run / "report.html").having("class")
    assert not any(
        table.styles[0]
        for table in summary_lines(RunRecord(run).results)
        if hasattr(table, "styles")
    )


# kinds of the training images -> whether the pictures have the letters R and L
ORIENTED = {
    "scans that state their orientation": ({"oriented": True}, True),
    "other scans, pictures, and sagittal slices": ({"oriented": False}, False),
}


@pytest.mark.parametrize("case", ORIENTED)
def test_pictures_of_oriented_scans_have_letters(copied_run, tmp_path, case):
    kinds, oriented = ORIENTED[case]
    figures = tmp_path / "figures"
    for path in copied_run.glob("checkpoints/*/meta.json"):
        meta = read_json(path)
        for known in meta["values"].values():
            known.update(kinds)
        write_json(path, meta)

    page = gantk.write_report(copied_run, figures=figures, say=lambda line: None).read_text()
    assert ("<main class=oriented>" in page) == oriented
    caption = (figures / "T1_to_T2.txt").read_text("utf-8")
    assert ("The patient's right is on the left." in caption) == oriented
