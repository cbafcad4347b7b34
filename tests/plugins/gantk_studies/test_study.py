"""Reader studies: pages that give nothing away, scores that hold what they state, feedback to a
next training.
"""

import base64
import csv
import json
from hashlib import sha256

import nibabel
import numpy as np
import pytest
from browser import BROWSER, Browser
from pages import Page
from PIL import Image
from sklearn.metrics import roc_auc_score
from tiny import draw_pictures, read_json, write_json

from gantk import Data, new_study
from gantk.data.batches import order
from gantk.errors import UserError
from gantk.recipe.load import load_recipe
from gantk_studies.reader_study import making
from gantk_studies.reader_study.answers import Answers, Key, rows_of
from gantk_studies.reader_study.making import questions
from gantk_studies.reader_study.scoring import accuracy, over_both

KINDS = pytest.mark.parametrize("kind", ["2afc", "yesno", "rating"])


@pytest.fixture
def study(gantk, tmp_path):
    """`study(kind)` makes one of two folders of pictures, dark real ones and bright ones: its
    folder and its key.
    """

    def make(kind, pairs=12, readers=3):
        rng = np.random.default_rng(0)
        folder = tmp_path / "study"
        for side, level, rows in (("real", 60, 40), ("made", 160, 36)):
            (tmp_path / side).mkdir()
            for n in range(pairs):
                pixels = rng.normal(level, 20, (rows, 32)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / side / f"patient-{n:02d}.png")

        options = [
            "--kind",
            kind,
            "--pairs",
            pairs,
            "--readers",
            readers,
            "--seed",
            10**12 + 5,
            "--out",
            folder,
        ]
        gantk(
            "study", "new", "--real", tmp_path / "real", "--fake", tmp_path / "made", *options
        ).ok()
        return folder, read_json(folder / "key.json")

    return make


@pytest.mark.parametrize(
    ("codes", "told"),
    [
        ((1, 1), "The patient's right (R) is on the left"),
        ((1, 0), "The pictures have no letters"),  # one header leaves it open
    ],
)
def test_pages_have_letters_where_all_headers_state_the_sides(tmp_path, codes, told):
    rng = np.random.default_rng(0)
    for side, code in zip(("real", "made"), codes, strict=True):
        (tmp_path / side).mkdir()
        for n in range(3):
            image = nibabel.Nifti1Image(rng.normal(100, 20, (16, 16, 8)), np.eye(4))
            image.set_sform(np.eye(4), code)
            image.set_qform(np.eye(4), code)
            nibabel.save(image, tmp_path / side / f"p{n}.nii.gz")

    folders = {"real": tmp_path / "real", "fake": tmp_path / "made", "out": tmp_path / "study"}
    study = new_study(**folders, readers=1, say=lambda line: None)
    page = (study / "pages" / "reader-1.html").read_text()

    assert told in page
    assert f'"oriented": {json.dumps(codes == (1, 1))}' in page


def answered(folder, key, name, give):
    """A file as a page saves it: `give(case, which)` answers each question."""
    asked = enumerate(key["readers"][name])
    given = [
        {"question": n, "answer": int(give(case, which)), "seconds": 2.5}
        for n, (case, which, _) in asked
    ]
    study = sha256((folder / "key.json").read_bytes()).hexdigest()
    path = folder / f"{name}.json"
    write_json(path, {"study": study, "reader": name, "answers": given})
    return path


@pytest.mark.parametrize("asked", [{"kind": "3afc"}, {"pairs": 0}, {"readers": 0}, {"seed": -1}])
def test_a_study_that_cannot_be_is_one_error(tmp_path, asked):
    with pytest.raises(
        UserError, match="is not possible. Allowed: 2afc, yesno, rating; 1 or more pairs"
    ):
        new_study(real=tmp_path, fake=tmp_path, out=tmp_path / "study", **asked)


@KINDS
@pytest.mark.parametrize("pairs", [1, 7, 60])
def test_sides_are_balanced_and_turned_for_the_next_reader(kind, pairs):
    def asked_once(reader):
        every = questions(kind, pairs, reader, 3)
        return [(case, which) for case, which, repeated in every if not repeated]

    first = asked_once(reader=0)
    other = asked_once(reader=1)
    sides = dict(first[:pairs])  # of single images the first of each pair

    assert sorted(sides) == list(range(pairs))
    assert abs(2 * sum(sides.values()) - pairs) <= 1
    assert len(first) == (pairs if kind == "2afc" else 2 * pairs)
    for case, which in other[:pairs] + first[pairs:]:
        assert sides[case] != which


@KINDS
@pytest.mark.parametrize("pairs", [1, 7, 60])
def test_one_question_in_ten_comes_again_later(kind, pairs):
    every = questions(kind, pairs, 0, 3)
    again = [place for place, (_, _, repeated) in enumerate(every) if repeated]

    assert len(again) == round((len(every) - len(again)) / 10)

    for place in again:
        case, which, _ = every[place]
        first_side = 1 - which if kind == "2afc" else which
        long_before = every[: place - len(every) // 8]
        assert [case, first_side, 0] in long_before


PAGE_KEYS = {
    "study",
    "reader",
    "kind",
    "oriented",
    "target",
    "height",
    "width",
    "images",
    "questions",
}


def images_of(page: Page) -> list[np.ndarray]:
    return [np.frombuffer(base64.b64decode(image), np.uint8) for image in page.data["images"]]


@KINDS
def test_a_page_names_neither_patients_nor_the_seed(kind, study):
    folder, key = study(kind)
    digest = sha256((folder / "key.json").read_bytes()).hexdigest()
    for name in key["readers"]:
        page = Page(folder / "pages" / f"{name}.html")
        assert page.data["study"] == digest
        assert set(page.data) == PAGE_KEYS
        assert "patient-" not in page.source
        assert str(key["seed"]) not in page.source

    sizes = [path.stat().st_size for path in (folder / "pages").iterdir()]

    assert np.ptp(sizes) < 40


@KINDS
def test_nothing_in_a_page_but_the_pixels_tells_real_from_made(kind, study):
    folder, key = study(kind)
    places = []
    for name, asked in key["readers"].items():
        page = Page(folder / "pages" / f"{name}.html")
        images = images_of(page)
        assert {len(image) for image in images} == {36 * 32}
        assert page.data["height"] * page.data["width"] == 36 * 32
        real = [bool(image.mean() < 110) for image in images]
        places += [place / len(real) for place in np.flatnonzero(real)]
        for (_, which, _), shown in zip(asked, page.data["questions"], strict=True):
            expected = [not which, bool(which)] if kind == "2afc" else [not which]
            assert [real[image] for image in shown] == expected

    error = 0.29 / len(places) ** 0.5

    assert abs(np.mean(places) - 0.5) < 4 * error, "real ones stand anywhere"


def simulated(kind, skills, rng, hard):
    """60 pairs' answers of readers who are right with these probabilities; over cases their logits
    vary by `hard`.
    """
    readers = {
        f"reader-{n}": questions(kind, 60, n, int(rng.integers(2**31))) for n in range(len(skills))
    }
    found = []
    shift = rng.normal(0, hard, 60)
    for (name, asked), skill in zip(readers.items(), skills, strict=True):
        chance = 1 / (
            1 + np.exp(-np.log(skill / (1 - skill)) - shift[[case for case, *_ in asked]])
        )
        right = rng.random(len(asked)) < chance
        given = [
            which if (kind == "2afc") == ok else 1 - which
            for (_, which, _), ok in zip(asked, right, strict=True)
        ]
        answers = [{"question": n, "answer": one, "seconds": 1.0} for n, one in enumerate(given)]
        found.append(
            rows_of(
                Key(kind=kind, cases=[], readers=readers),
                Answers(study="", reader=name, answers=answers),
            )
        )

    return found


@pytest.mark.slow
def test_pooled_interval_covers_readers_and_cases():
    rng = np.random.default_rng(2)
    inside = []
    # logits vary by 0.5 over readers and by 1 over cases: right answers are 0.697 of all
    for _ in range(120):
        skills = 1 / (1 + np.exp(-rng.normal(1, 0.5, 5)))
        low, high = over_both(accuracy, simulated("2afc", skills, rng, hard=1.0), 60)[0].ci95
        inside.append(low <= 0.697 <= high)

    assert 0.90 <= np.mean(inside) <= 0.99


def test_auc_is_that_of_scikit_learn(gantk, study):
    folder, key = study("rating")
    rng = np.random.default_rng(0)
    said = {name: rng.integers(1, 6, (12, 2)) for name in key["readers"]}
    files = [
        answered(folder, key, name, lambda case, which, own=own: own[case, which])
        for name, own in said.items()
    ]
    done = gantk("study", "score", folder, *files, "--json", "-")
    found = json.loads(done.out)
    for name, own in said.items():
        area = roc_auc_score([1] * 12 + [0] * 12, own.T.ravel())
        assert found["readers"][name]["auc"]["value"] == pytest.approx(area)
        assert found["readers"][name]["same_again"]["value"] == 1


@pytest.fixture
def partly_damaged(study):
    """The folder of a study, two files of readers who take all for real, and files with mistakes."""
    folder, key = study("yesno")
    fooled = [
        answered(folder, key, name, lambda case, which: 1) for name in ("reader-1", "reader-2")
    ]
    text = fooled[0].read_text()
    good = json.loads(text)
    seven = {"question": 0, "answer": 7, "seconds": 1}
    far = {"question": 999, "answer": 1, "seconds": 1}
    damaged = {
        "cut.json": text[:-9],
        "other.json": json.dumps(good | {"study": "0" * 64}),
        "stranger.json": json.dumps(good | {"reader": "reader-9"}),
        "half.json": json.dumps(good | {"answers": good["answers"][:5]}),
        "seven.json": json.dumps(good | {"answers": [seven]}),
        "far.json": json.dumps(good | {"answers": [far]}),
    }
    for name, content in damaged.items():
        (folder / name).write_text(content)

    (folder / "itself.json").symlink_to("itself.json")
    fooled[1].write_text("\ufeff" + fooled[1].read_text(), "utf-8")  # as an editor saves it
    return folder, fooled, [folder / name for name in (*damaged, "itself.json", "gone.json")]


def test_what_cannot_be_scored_is_named(gantk, partly_damaged):
    folder, fooled, damaged = partly_damaged
    done = gantk("study", "score", folder, *fooled, *damaged).ok()

    words = {
        "cut.json": "damaged",
        "other.json": "another study",
        "stranger.json": "'reader-9', who is not",
        "half.json": "also from reader-1",
        "seven.json": "7 is not a valid answer",
        "far.json": "unknown question",
        "itself.json": "damaged",
        "gone.json": "does not exist",
    }
    lines = done.out.splitlines()
    for name, word in words.items():
        assert [line for line in lines if name in line and word in line], (name, done.out)

    report = (folder / "scores.md").read_text()

    assert f"- '{folder / 'cut.json'}' is left out" in report


def test_damaged_answers_alone_are_an_error(gantk, partly_damaged):
    folder, fooled, _ = partly_damaged
    told = gantk("study", "score", folder, folder / "cut.json").refused()

    assert "none of the answers can be scored" in told
    gantk("study", "score", folder / "pages", *fooled).refused()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"readers": {}}, "no questions"),
        ({"readers": {"reader-1": []}}, "no questions"),
        ({"cases": [], "readers": {"reader-1": []}}, "no questions"),
        ({"cases": []}, "about none of its images"),
        ({"readers": {"reader-1": [[0, 1, 0], [10**9, 1, 0]]}}, "about none of its images"),
        ({"readers": {"reader-1": [[0, 7, 0]]}}, "about none of its images"),
        ({"readers": {"reader-1": [[0, 1]]}}, "about none of its images"),
        ({"readers": {"reader-1": [[], []]}}, "about none of its images"),
    ],
)
def test_a_key_without_usable_questions_is_one_error(change, words, gantk, study):
    folder, key = study("2afc", readers=1)
    answers = answered(folder, key, "reader-1", lambda case, which: which)
    write_json(folder / "key.json", key | change)
    said = read_json(answers)
    digest = sha256((folder / "key.json").read_bytes()).hexdigest()
    write_json(answers, said | {"study": digest})
    told = gantk("study", "score", folder, answers).refused()

    assert words in told


def test_of_two_studies_in_one_folder_the_second_is_refused(study, tmp_path, monkeypatch):
    study("2afc")
    draw = making.page
    options = {"real": tmp_path / "real", "fake": tmp_path / "made", "out": tmp_path / "both"}

    def overtaken(*arguments):
        monkeypatch.setattr(making, "page", draw)
        new_study(**options, say=lambda line: None)
        return draw(*arguments)

    monkeypatch.setattr(making, "page", overtaken)
    with pytest.raises(UserError, match="both' exists"):
        new_study(**options, say=lambda line: None)

    pages = (tmp_path / "both" / "pages" / "reader-1.html").read_text("utf-8")
    digest = sha256((tmp_path / "both" / "key.json").read_bytes()).hexdigest()
    assert digest in pages
    assert not list(tmp_path.glob(".*"))


def test_air_is_as_black_in_a_study_as_in_files(gantk, tiny_file, tmp_path):
    run = tmp_path / "run"
    for side in ("T1", "T2"):
        for path in draw_pictures(tmp_path / "data" / side, 16):
            pixels = np.array(Image.open(path))
            pixels[:4] = 0
            pixels[-4:] = 0
            Image.fromarray(pixels).save(path)

    masked = ("--set", "translate.masked=true")
    gantk("run", tiny_file, "--data", tmp_path / "data", "--out", run, *masked).ok()
    gantk("study", "new", run, "--pairs", 1, "--readers", 1).ok()

    page = Page(run / "study" / "2afc" / "pages" / "reader-1.html")
    images = np.stack(images_of(page)).reshape(2, page.data["height"], page.data["width"])
    assert images.max(axis=(1, 2)).min() > 0
    assert not images[:, 0].any()


def test_reader_scores_enter_metrics_and_report(gantk, copied_run):
    gantk("study", "new", copied_run, "--pairs", 99).refused()
    gantk("study", "new", copied_run, "--pairs", 2, "--readers", 1).ok()

    folder = copied_run / "study" / "2afc"
    key = read_json(folder / "key.json")
    file = answered(folder, key, "reader-1", lambda case, which: which)

    gantk("study", "new", copied_run, "--pairs", 2).refused()
    gantk("study", "score", folder, file).ok()
    gantk("eval", copied_run).ok()
    found = read_json(copied_run / "metrics.json")["readers"]["2afc"]
    assert found["readers"]["reader-1"]["accuracy"]["value"] == 1
    assert key["target"] == "T2"
    gantk("report", copied_run)
    assert (
        "1 reader distinguished real and generated T2 images correctly in"
        in Page(copied_run / "report.html").words
    )
    told = gantk("study", "weights", folder, file).refused()
    assert "--split train" in told


def test_recognised_images_are_trained_on_more_often(gantk, copied_run, tmp_path):
    folder = tmp_path / "study"
    weights = tmp_path / "weights.csv"

    assert (
        gantk("study", "new", copied_run, "--pairs", 4, "--split", "train", "--out", folder).code
        == 0
    )

    key = read_json(folder / "key.json")
    told = lambda case, which: which if case < 2 else 1 - which  # noqa: E731
    files = [answered(folder, key, name, told) for name in key["readers"]]

    gantk("study", "weights", folder, *files, "--out", weights).ok()
    rows = {
        row["key"]: float(row["weight"]) for row in csv.DictReader(weights.read_text().splitlines())
    }
    assert [rows[case["real"]] for case in key["cases"]] == [3, 3, 1, 1]

    model = load_recipe(copied_run / "recipe.toml").override([f"data.weights={weights}"]).check()
    own = Data(model.data, model.method.target).training_sets()["a"]
    expected = np.array([rows.get(record.key, 1.0) for record in own.records])
    shown = np.bincount(
        np.concatenate([order(0, 0, epoch, len(own), own.weights) for epoch in range(400)])
    )

    assert shown / 400 == pytest.approx(expected / expected.mean(), abs=0.12)

    weights.write_text("key,weight\nnobody,2\n")
    done = gantk(
        "run",
        copied_run / "recipe.toml",
        "--set",
        f"data.weights={weights}",
        "--out",
        tmp_path / "x",
    ).refused()

    assert "no valid weights of training images" in done


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_browser_reader_answers_reloads_and_saves(gantk, study, tmp_path):
    folder, key = study("2afc", pairs=4, readers=1)
    saved = tmp_path / "answers-reader-1.json"
    shade = "document.querySelector('canvas').getContext('2d').getImageData(300, 300, 1, 1).data[0]"
    count = "document.getElementById('count').textContent"
    with Browser(tmp_path, (folder / "pages" / "reader-1.html").as_uri()) as page:

        def go(act, thing, place):
            # a key pressed twice is not two answers
            page.js("new Promise((go) => setTimeout(go, 300))")
            act(thing)
            page.until(f"{count} == '{place} of 4' || !document.getElementById('end').hidden")

        page.drag("#begin")
        page.until(f"{count} == '1 of 4'")
        before = page.js(shade)
        page.drag("canvas", dy=150)
        page.until(f"{shade} != {before}")
        page.press("r")
        page.until(f"{shade} == {before}")
        go(page.press, "ArrowLeft", 2)
        go(page.drag, "[data-answer='1']", 3)
        page("Page.reload")
        page.until("document.getElementById('begin').textContent == 'Continue, 2 of 4 answered'")
        page.drag("#begin")
        page.until(f"{count} == '3 of 4'")
        go(page.press, "Backspace", 2)
        go(page.press, "ArrowLeft", 3)
        go(page.press, "ArrowRight", 4)
        go(page.press, "ArrowRight", 5)
        page.drag("#end .save")
        page.until("document.getElementById('said').textContent.includes('answers-reader-1.json')")
        assert any(
            page.js("new Promise((go) => setTimeout(go, 20))") or saved.is_file()
            for _ in range(500)
        )
        assert page.errors == []

    said = read_json(saved)["answers"]

    assert [one["answer"] for one in said] == [0, 0, 1, 1]
    assert all(one["seconds"] > 0.2 for one in said)
    gantk("study", "score", folder, saved).ok()

    found = read_json(folder / "scores.json")["readers"]["reader-1"]["accuracy"]
    right = [
        which == one["answer"]
        for (_, which, _), one in zip(key["readers"]["reader-1"], said, strict=True)
    ]

    assert found["n"] == 4
    assert found["value"] == np.mean(right)
