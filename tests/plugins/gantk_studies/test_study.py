"""Reader studies: a page that gives nothing away, scores that hold what they state, feedback to a
next training.
"""

import base64
import csv
import json
from hashlib import sha256

import numpy as np
import pytest
from browser import BROWSER, Browser
from pages import Page
from PIL import Image
from tiny import draw_pictures, train_without_scores

from gantk import Data, new_study
from gantk.data.batches import order
from gantk.errors import UserError
from gantk.recipe.load import load_recipe
from gantk_studies.reader_study.score import _interval_over_both


def key_of(folder) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "key.csv").read_text("utf-8").splitlines()))


@pytest.fixture
def study(gantk, tmp_path):
    """`study(pairs)` makes one of two folders of pictures, dark real ones and bright ones."""

    def make(pairs=12):
        rng = np.random.default_rng(0)
        for side, level, rows in (("real", 60, 40), ("made", 160, 36)):
            (tmp_path / side).mkdir()
            for n in range(pairs):
                pixels = rng.normal(level, 20, (rows, 32)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / side / f"patient-{n:02d}.png")

        words = ["--real", tmp_path / "real", "--fake", tmp_path / "made"]
        gantk("study", "new", *words, "--out", tmp_path / "study").ok()
        return tmp_path / "study"

    return make


def answered(folder, name, right, questions=None, **changed):
    """A file as a page saves it: `right(question)` says which answers are."""
    digest = sha256((folder / "key.csv").read_bytes()).hexdigest()
    path = folder / f"{name}.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["study", "reader", "question", "answer", "seconds"])
        for case in key_of(folder)[:questions]:
            side = int(case["real_side"])
            answer = side if right(int(case["question"])) else 1 - side
            row = {"study": digest, "reader": name, "question": case["question"]}
            rows.writerow((row | {"answer": answer, "seconds": 2.5} | changed).values())
    return path


def images_of(page: Page) -> list[np.ndarray]:
    return [np.frombuffer(base64.b64decode(image), np.uint8) for image in page.data["images"]]


def test_a_page_tells_real_from_made_by_its_pixels_alone(study):
    folder = study()
    page = Page(folder / "page.html")
    digest = sha256((folder / "key.csv").read_bytes()).hexdigest()
    images = images_of(page)
    real = [bool(image.mean() < 110) for image in images]
    sides = [int(case["real_side"]) for case in key_of(folder)]

    assert set(page.data) == {"study", "height", "width", "images"}
    assert page.data["study"] == digest
    assert "patient-" not in page.source
    assert {len(image) for image in images} == {36 * 32}
    assert real == [flag for side in sides for flag in (side == 0, side == 1)]
    assert sum(sides) == len(sides) / 2
    assert sorted(case["made"] for case in key_of(folder)) == [
        f"patient-{n:02d}" for n in range(12)
    ]


def test_a_study_that_cannot_be_is_one_error(study, gantk, tmp_path):
    folder = study(3)
    folders = {"real": tmp_path / "real", "fake": tmp_path / "made"}
    (tmp_path / "none").mkdir()
    for asked, words in (
        (folders | {"out": folder}, "study' exists; a new key"),
        (folders | {"out": tmp_path / "new", "real": tmp_path / "none"}, "no pairs of images"),
        ({"real": tmp_path / "real"}, "does not name the images"),
        ({}, "does not name the images"),
    ):
        with pytest.raises(UserError, match=words):
            new_study(**asked, say=lambda line: None)

    assert not (tmp_path / "new").exists()


def test_accuracy_is_the_share_of_right_answers(study, gantk):
    folder = study()
    files = [
        answered(folder, "one", lambda question: question < 9),
        answered(folder, "two", lambda question: question < 3, questions=6),
    ]
    found = json.loads(gantk("study", "score", folder, *files, "--json", "-").out)

    readers = found["readers"]
    assert readers["one"]["value"] == 0.75
    assert readers["two"]["value"] == 0.5
    assert readers["two"]["n"] == 6
    assert found["all"]["value"] == pytest.approx(0.625)
    low, high = found["all"]["ci95"]
    assert low < 0.625 < high
    of_case = {case["question"]: case["made"] for case in key_of(folder)}
    assert found["fooled"] == [of_case[str(question)] for question in (9, 10, 11)]


@pytest.mark.slow
def test_pooled_interval_covers_readers_and_pairs():
    rng = np.random.default_rng(2)
    inside = []
    # logits vary by 0.5 over readers and by 1 over pairs: right answers are 0.697 of all
    for _ in range(120):
        logits = 1 + rng.normal(0, 0.5, (5, 1)) + rng.normal(0, 1, 60)
        low, high = _interval_over_both(1.0 * (rng.random((5, 60)) < 1 / (1 + np.exp(-logits))))
        inside.append(low <= 0.697 <= high)

    assert 0.90 <= np.mean(inside) <= 0.99


WRONG = {
    "another study": ("another study", {"study": "0" * 64}),
    "no such answer": ("another study", {"answer": 7}),
    "no such question": ("another study", {"question": 999}),
    "words": ("wrong.csv", {"answer": "left"}),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_file_that_is_no_answer_is_refused_by_name(study, gantk, case):
    words, changed = WRONG[case]
    folder = study()
    good = answered(folder, "one", lambda question: True)
    wrong = answered(folder, "wrong", lambda question: True, questions=5, **changed)
    told = gantk("study", "score", folder, good, wrong).refused()

    assert "wrong.csv" in told
    assert words in told


def test_what_is_no_study_is_refused(study, gantk):
    folder = study()
    good = answered(folder, "one", lambda question: True)
    (folder / "cut.csv").write_text("study,reader,question\n")

    assert "cut.csv" in gantk("study", "score", folder, good, folder / "cut.csv").refused()
    assert "key.csv" in gantk("study", "score", folder.parent, good).refused()
    (folder / "key.csv").write_text("question,real_side,real,made\n0,x,a,b\n")
    assert "key.csv" in gantk("study", "score", folder, good).refused()


def test_the_later_answer_of_a_reader_counts(study, gantk):
    folder = study()
    files = [
        answered(folder, "first", lambda question: False, reader="ann"),
        answered(folder, "second", lambda question: True, questions=6, reader="ann"),
    ]
    found = json.loads(gantk("study", "score", folder, *files, "--json", "-").out)
    assert found["readers"]["ann"]["value"] == 0.5


def test_air_is_as_black_in_a_study_as_in_files(gantk, tiny_recipe, tmp_path):
    for side in ("T1", "T2"):
        for path in draw_pictures(tmp_path / "data" / side, 16):
            pixels = np.array(Image.open(path))
            pixels[:4] = 0
            pixels[-4:] = 0
            Image.fromarray(pixels).save(path)

    tiny_recipe["translate"] = {"masked": True}
    run = train_without_scores(tiny_recipe, tmp_path / "run", data=tmp_path / "data")
    gantk("study", "new", run, "--pairs", 1).ok()

    page = Page(run / "study" / "page.html")
    images = np.stack(images_of(page)).reshape(2, page.data["height"], page.data["width"])
    assert images.max(axis=(1, 2)).min() > 0
    assert not images[:, 0].any()


def test_recognised_images_are_trained_on_more_often(gantk, copied_run, tmp_path):
    folder = tmp_path / "study"
    weights = tmp_path / "weights.csv"

    gantk("study", "new", copied_run, "--pairs", 4, "--split", "train", "--out", folder).ok()

    key = key_of(folder)
    files = [answered(folder, name, lambda question: question < 2) for name in "ab"]

    gantk("study", "score", folder, *files, "--weights", weights).ok()
    rows = {
        row["key"]: float(row["weight"]) for row in csv.DictReader(weights.read_text().splitlines())
    }
    assert [rows[case["real"]] for case in key] == [3, 3, 1, 1]

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
    folder = study(4)
    saved = tmp_path / "answers-Ann-Lee.csv"
    shade = "document.querySelector('canvas').getContext('2d').getImageData(300, 300, 1, 1).data[0]"
    count = "document.getElementById('count').textContent"
    with Browser(tmp_path, (folder / "page.html").as_uri()) as page:

        def go(act, thing, place):
            # a key pressed twice is not two answers
            page.js("new Promise((go) => setTimeout(go, 300))")
            act(thing)
            page.until(f"{count} == '{place} of 4' || !document.getElementById('end').hidden")

        page.drag("#begin")  # without a name
        page.js("document.getElementById('reader').value = 'Ann, Lee'")
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
        page.until("document.getElementById('said').textContent.includes('answers-Ann-Lee.csv')")
        assert any(
            page.js("new Promise((go) => setTimeout(go, 20))") or saved.is_file()
            for _ in range(500)
        )
        assert page.errors == []

    found = json.loads(gantk("study", "score", folder, saved, "--json", "-").out)["readers"]
    right = [
        case["real_side"] == answer for case, answer in zip(key_of(folder), "0011", strict=True)
    ]

    assert found["Ann, Lee"]["n"] == 4
    assert found["Ann, Lee"]["value"] == np.mean(right)
