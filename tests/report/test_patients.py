"""Test patients in the report, worst first; the page while a run lives, and after Ctrl-C; runs
compared on one page.
"""

import csv
import importlib
import itertools
import json
import re
import shutil
from xml.etree import ElementTree

import nibabel
import numpy as np
import pytest
from pages import Page
from PIL import Image
from tiny import TINY, read_json, write_json

import gantk
from gantk import write_report
from gantk.data.spread import spread_over_owners
from gantk.errors import UserError
from gantk.formats.files import read as gantk_read
from gantk.training import loop


def refers_to_nothing(page: Page) -> bool:
    references = [
        v for name in ("src", "href", "srcset", "data-picture") for v in page.having(name)
    ]
    return (
        all(value.startswith(("data:", "#")) for value in references)
        and page.can_execute_nothing_of_its_own()
    )


KINDS = ("input", "output", "truth")
WATCH = """
import os, signal
import gantk
pages = []
@gantk.hookimpl
def gantk_step_logged(run, step):
    page = run / "report.html"
    pages.append(page.read_text("utf-8") if page.is_file() else "")
    if step == STOP:
        os.kill(os.getpid(), signal.SIGINT)
"""  # renewed at every log point; looked at before the page of the same step is written


def test_the_page_reloads_until_the_run_ends(add_plugin, tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "REPORT_SHARE", 1e9)
    add_plugin("my-package", "my_pages", WATCH.replace("STOP", "0"))
    gantk.run(tiny_recipe, out=tmp_path / "run", device="cpu", say=lambda line: None)
    first, *later = importlib.import_module("my_pages").pages

    assert first == ""
    assert later
    assert all('id="live"' in page and "samples" in page for page in later)

    (tmp_path / "living.html").write_text(later[-1], "utf-8")
    living = Page(tmp_path / "living.html")

    assert refers_to_nothing(living)
    assert "renews itself" in living.words
    assert "No scores" not in living.words
    assert 0 <= float(living.having("data-after")[0]) < 600
    assert 'id="live"' not in (tmp_path / "run" / "report.html").read_text("utf-8")


def test_test_patients_are_listed_worst_first(tiny_run):
    stored = read_json(tiny_run / "samples/test/index.json")["a_to_b"]
    table = gantk.Run(tiny_run).scores.table
    lines = table[(table.system == "model") & (table.direction == "a_to_b")]
    scores = lines[lines.metric == "psnr"].groupby("patient")["value"].mean()
    whole = read_json(tiny_run / "metrics.json")["metrics"]["a_to_b"]["psnr"]
    assert scores.mean() == pytest.approx(whole["value"])
    assert len(scores) == whole["n"]
    page = Page(tiny_run / "report.html")
    assert refers_to_nothing(page)

    assert len([image for image in stored if image.get("median_of")]) == 1
    assert whole["images"] == 2 and "The worst of 2 test images" in page.words
    places = [page.words.index(f"{name} ") for name in scores.sort_values().index]
    assert places == sorted(places)
    for case in stored:
        assert case["patient"] in page.words
        assert any(case["image"] in text for text in page.having("title"))
        assert not any(case["patient"] in text for text in page.having("alt")), (
            "figures have numbers"
        )

    number = f"test patient {1 + sorted(scores.index).index(stored[0]['patient'])}"
    assert f"{number} {stored[0]['patient']} " in page.words, "a row of the table"
    titles = [text for text in page.having("alt") if text.endswith(f" of {number}")]
    heads = [text.rpartition(" of ")[0] for text in titles]
    assert heads[:4] == ["Input: T1", "Real T2", "Generated T2", "Absolute error"]


def test_the_score_of_a_set_is_no_patient(copied_run):
    with open(copied_run / "scores.csv", "a", encoding="utf-8") as file:
        file.write("a_to_b,model,kid_random,whole,,,3.0,,True\n")
    words = Page(write_report(copied_run)).words

    assert words.count("The only test patient") == 2


@pytest.mark.parametrize("count", [1, 2])
def test_figures_for_a_paper_are_those_of_the_page(copied_run, tmp_path, count):
    runs = [copied_run, shutil.copytree(copied_run, tmp_path / "again~2^")][:count]
    folder = tmp_path / "figures"
    options = {} if count == 1 else {"out": tmp_path / "both.html"}
    said: list[str] = []
    gantk.write_report(*runs, figures=folder, say=said.append, **options)
    assert f"figures  {folder}: PNG and PDF, at most 180 mm wide at 300 dpi; captions" in " ".join(
        said
    )
    caption = (folder / "T1_to_T2.txt").read_text("utf-8")
    for words in (*(run.name for run in runs), "T1 -> T2", "the worst image of", "Gray window"):
        assert words in caption
    with open(folder / "names.csv", newline="", encoding="utf-8") as file:
        in_figures = {row["name"]: row["in figures"] for row in csv.DictReader(file)}
    stored = read_json(copied_run / "samples/test/index.json")["a_to_b"]
    for name in {image["patient"] for image in stored}:
        assert in_figures[name] in caption
        assert f"; {in_figures[name]}, image 2 (" in caption, "fewer patients than rows"
        assert name not in caption

    scores = read_json(copied_run / "metrics.json")["metrics"]["a_to_b"]
    with open(folder / "scores.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["direction"] == "T1 -> T2"]
    first = [row for row in rows if row["metric"] == "psnr"][:count]

    assert {float(row["value"]) for row in first} == {scores["psnr"]["value"]}
    assert {row["metric"] for row in rows} >= scores.keys()
    text = (folder / "scores.tex").read_text("utf-8")
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") > 0
    assert "% T1 -> T2" in text
    assert f"n = {scores['psnr']['n']}" in text
    ends = [first[0][f"{end}_patient"] for end in ("lowest", "highest")]
    assert ends == [str(end) for end in scores["psnr"].get("range") or ("", "")]
    assert (r"again\textasciitilde 2\textasciicircum  &" in text) is (count == 2)
    with Image.open(folder / "T1_to_T2.png") as sheet:
        assert round(sheet.info["dpi"][0]) == 300
        assert round(sheet.width / 300 * 25.4) == 180
    assert (folder / "T1_to_T2.pdf").read_bytes().startswith(b"%PDF")
    drawn = (folder / f"losses_{copied_run.name}.svg").read_text("utf-8")
    texts = [part.text for part in ElementTree.fromstring(drawn).iter() if part.text]
    assert {"Generators", "Discriminators"} <= {*texts}


@pytest.mark.parametrize(
    ("colours", "suffix", "white"), [("pictures", "png", 255), ("arrays", "nii.gz", 1.0)]
)
def test_test_images_in_colour_keep_their_values(colours, suffix, white, tmp_path):
    """Where the images are -> the kind of file that holds them in the run folder, and its range."""
    rng = np.random.default_rng(0)
    images = rng.random((2, 12, 3, 8, 8)).repeat(4, axis=3).repeat(4, axis=4).astype(np.float32)
    data = {"T1": list(images[0]), "T2": list(images[1])}
    if colours == "pictures":
        data = tmp_path / "pictures"
        for domain, own in zip(("T1", "T2"), np.rint(255 * images).astype(np.uint8), strict=True):
            (data / domain).mkdir(parents=True)
            for number, image in enumerate(own):
                Image.fromarray(np.moveaxis(image, 0, -1)).save(data / domain / f"{number:02}.png")

    settings = ["data.split.by='image'", "train.steps=1"]
    settings.append(f"data.intensity={{name='window', low=0, high={white}}}")
    options = {"out": tmp_path / "run", "device": "cpu", "say": lambda line: None}
    run = gantk.run(TINY, data=data, set=settings, **options)
    kept = gantk_read(run.path / f"samples/test/a_to_b-0-truth.{suffix}").pixels
    known = images[1] * white if suffix == "png" else images[1].mean(axis=1, keepdims=True)

    assert np.abs(known - kept).max(axis=(1, 2, 3)).min() < 0.003 * white


@pytest.fixture(scope="module")
def unpaired_runs(tmp_path_factory):
    """Two runs on two folders of pictures without pairs and patients; T2 is at most half as bright."""
    folder = tmp_path_factory.mktemp("unpaired")
    rng = np.random.default_rng(0)
    for domain, white, first in (("T1", 255, 0), ("T2", 127, 50)):
        (folder / "data" / domain).mkdir(parents=True)
        for number in range(first, first + 30):
            image = np.kron(rng.integers(0, white, (8, 8)), np.ones((4, 4))).astype(np.uint8)
            Image.fromarray(image).save(folder / "data" / domain / f"{number:02}.png")
    settings = ["train.steps=1", "data.split.by='image'"]
    options = {"data": folder / "data", "device": "cpu", "say": lambda line: None}
    return [
        gantk.run(TINY, out=folder / name, set=[*settings, f"method.cycle={cycle}"], **options).path
        for name, cycle in (("weak", 5.0), ("strong", 7.0))
    ]


def test_a_run_without_pairs_shows_test_images(unpaired_runs):
    run, _ = unpaired_runs
    tested = {image["key"] for image in read_json(run / "split.json")["splits"]["test"]}
    for direction, white in (("a_to_b", 127), ("b_to_a", 255)):
        stored = read_json(run / "samples/test/index.json")[direction]
        assert len({image["image"] for image in stored} & tested) == 6
        for image in stored:
            kinds = {kind: run / f"samples/test/{image['stem']}-{kind}.nii.gz" for kind in KINDS}
            assert not kinds["truth"].exists() and not image["truth"]
            real = np.squeeze(gantk_read(image["input"]).pixels)
            assert np.abs(np.squeeze(gantk_read(kinds["input"]).pixels) - real).max() < 1
            assert 1 < gantk_read(kinds["output"]).pixels.max() <= white
    page = Page(run / "report.html")
    titles = [text.rpartition(" of test image ")[0] for text in page.having("alt")]
    assert [titles.count(title) for title in ("Input: T1", "Generated T2")] == [6, 6]
    assert not any("Real" in title or "Absolute error" in title for title in titles)
    assert "chosen without looking at scores" in page.words
    assert "Test image 1, chosen without" in page.words and "A held-out image" not in page.words


def test_runs_without_pairs_stand_side_by_side(unpaired_runs, tmp_path):
    runs = [shutil.copytree(run, tmp_path / run.name) for run in unpaired_runs]
    for run in runs:
        gantk.evaluate(run, metrics=["kid", "nmi"], device="cpu", say=lambda line: None)
    kept = [read_json(run / "metrics.json")["metrics"]["a_to_b"]["nmi_input"] for run in runs]
    text, page = compared(runs, tmp_path / "page.html")
    assert text.startswith("result Without registered pairs nothing here says whether an image is")
    assert text.count("Without registered pairs") == 1
    assert [f"{score['value']:.3f}" in page for score in kept] == [True, True]
    assert [score["images"] for score in kept] == [6, 6]
    assert "compare no output with its true image" in page
    alone, _ = compared(runs[:1], None)
    assert "Without registered pairs" in alone and "report" not in alone

    other = runs[1] / "metrics.json"
    results = read_json(other)
    for scores in results["baselines"]["identity"].values():
        scores["kid_random"]["value"] += 1.0
    write_json(other, results)
    text, _ = compared(runs, tmp_path / "page.html")
    assert "on other sizes or gray values" in text
    for scores in results["metrics"].values():
        del scores["nmi_input"]
    write_json(other, json.loads(json.dumps(results).replace("kid_random", "kid_other")))
    text, _ = compared(runs, tmp_path / "page.html")
    assert "no score in common" in text


def compared(runs, page):
    """What is said of runs, and the words of the page."""
    said: list[str] = []
    made = write_report(*runs, out=page, overwrite=True, say=said.append)
    return " ".join(" ".join(said).split()), Page(made).words


def test_people_who_may_be_trained_on_are_not_called_unseen(unpaired_runs, tmp_path):
    run, _ = unpaired_runs
    for n, contrast in itertools.product(range(2), ("T1", "T2")):
        image = np.random.default_rng(n).integers(0, 127, (32, 32)).astype(np.uint8)
        (tmp_path / f"p{n}").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / f"p{n}" / f"{contrast}.png")
    said: list[str] = []
    gantk.compare_models([run], tmp_path, metrics=["mae"], device="cpu", say=said.append)
    gantk.evaluate(run, data=tmp_path, metrics=["mae"], device="cpu", say=said.append)
    text = " ".join(" ".join(said).split())
    assert text.count("the same people may be among these") == 2
    assert "unseen" not in text
    assert "(see the warning)" in text


@pytest.mark.parametrize("count", [1, 2])
def test_figures_of_runs_without_pairs_have_no_truth(unpaired_runs, tmp_path, count):
    runs = unpaired_runs[:count]
    options = {"out": tmp_path / "page.html"} if count > 1 else {}
    page = Page(write_report(*runs, figures=tmp_path / "figures", say=lambda line: None, **options))
    outputs = ["Generated T2"] if count == 1 else ["weak", "strong"]
    alts = page.having("alt")
    for title in ("Input: T1", *outputs):
        assert sum(text.startswith(f"{title} of test image ") for text in alts) >= 6
    assert not any("Real T2 of test image" in text or "Absolute error" in text for text in alts)
    for direction in ("T1_to_T2", "T2_to_T1"):
        with Image.open(tmp_path / "figures" / f"{direction}.png") as sheet:
            assert round(sheet.width / 300 * 25.4) == 45 * (1 + count)
            columns = np.asarray(sheet.convert("HSV"))[..., 1]
            assert not columns.any(), "no errors and no colour bar"
        assert (tmp_path / "figures" / f"{direction}.pdf").read_bytes().startswith(b"%PDF")
        caption = (tmp_path / "figures" / f"{direction}.txt").read_text("utf-8")
        assert "no registered real counterpart" in caption and "spread over" in caption
        assert not any(words in caption for words in ("yellow", "worst", "real and generated"))


def test_runs_without_test_images_say_why_no_figure_is_drawn(gantk, folds, tmp_path):
    for run in folds.values():
        (run / "samples/test/index.json").unlink()
    for runs, said in (
        (("a-0",), "no figure is drawn: a-0 saved no test images. A run that translates"),
        (("a-0", "b-0"), "a-0 and b-0 saved no test images in common, which need one split"),
    ):
        paths = [folds[name] for name in runs]
        options = ["--figures", tmp_path / f"{len(runs)}", "--out", tmp_path / "page.html"]
        done = gantk("report", *paths, *options[: 2 * len(runs)]).ok()
        assert said in " ".join((done.out + done.err).split())
    for name in ("metrics.json", "log.jsonl"):
        (folds["a-0"] / name).unlink()
    nothing = gantk("report", folds["a-0"], "--figures", tmp_path / "nothing")
    assert nothing.code == 2 and "no figure is drawn" in " ".join(nothing.err.split())
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    ("owners", "count", "found"),
    [
        ("aaabbbccc", 3, [1, 4, 7]),
        ("aaabbbccc", 2, [1, 7]),
        ("aaaaaa", 3, [1, 3, 5]),
        ("aaaab", 4, [1, 3, 4]),
        ("dcba", 2, [3, 0]),
    ],
)
def test_shown_images_are_spread_over_patients(owners, count, found):
    assert spread_over_owners(range(len(owners)), [*owners], count) == found


def test_runs_are_compared_on_the_same_test_images(gantk, tiny_run, copied_run, tmp_path):
    recipe = (copied_run / "recipe.toml").read_text("utf-8")
    (copied_run / "recipe.toml").write_text(recipe.replace("cycle = 5.0", "cycle = 7.0"))
    other = copied_run.rename(copied_run.with_name("other"))
    split = read_json(other / "split.json")
    found = "the pairs of 1 of 6 measured patients may be misaligned"
    write_json(other / "split.json", split | {"warnings": [f"warning  {found}", "note     a"]})
    done = gantk("report", tiny_run, other, "--out", tmp_path / "both.html").ok()

    page = Page(tmp_path / "both.html")
    assert refers_to_nothing(page)
    assert "2 systems compared" in page.words
    for said in (page.words, " ".join(done.out.split())):
        assert "with fewer than two common test patients, no test is possible" in said
        assert "not better than" in said
    assert page.words.count(f"other: {found}") == 1
    assert "those of whole files on one scale count" in page.words
    assert "not scored on the same" not in page.words
    assert "method.cycle 5.0 7.0" in page.words
    assert "n = 1 (2 images)" in page.words
    titles = {text.rpartition(" of ")[0] for text in page.having("alt")}
    outputs = {tiny_run.name, "other"}
    errors = {f"Absolute error, {name}" for name in outputs}
    assert titles >= {"Input: T1", "Real T2"} | outputs | errors

    split = read_json(other / "split.json")
    split["splits"]["test"] = split["splits"]["test"][:1]
    split["splits"]["train"] = split["splits"]["train"][:1]
    write_json(other / "split.json", split)
    apart = Page(write_report(tiny_run, other, out=tmp_path / "c.html"))

    assert "not scored on the same test images" in apart.words


def test_equal_files_in_two_folders_are_the_same_test_images(copied_run, tmp_path):
    found = []
    for folder in ("one", "two"):  # as a run on arrays keeps them in its own
        run = shutil.copytree(copied_run, tmp_path / folder)
        split = read_json(run / "split.json")
        for image in split["splits"]["test"]:
            image |= {"path": f"{run}/data/{image['key']}.npy", "sha256": image["key"]}
        write_json(run / "split.json", split)
        found.append(run)
    page = Page(write_report(*found, out=tmp_path / "both.html"))

    assert "not scored on the same" not in page.words


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("cycle = 5.0", "cycle = 7.0"), ""),
        # the intensities of its training images, which no key tells
        (None, "the unchanged input shows (PSNR 9.9000 dB in one, 9.9020 dB in two)"),
    ],
)
def test_scores_on_other_scales_are_not_compared(
    gantk, tiny_run, copied_run, tmp_path, change, reason
):
    runs = [copied_run.rename(tmp_path / "one"), shutil.copytree(tiny_run, tmp_path / "two")]
    recipe = (runs[1] / "recipe.toml").read_text("utf-8")
    (runs[1] / "recipe.toml").write_text(recipe.replace(*(change or ("", ""))))
    for number, run in enumerate(runs):
        results = read_json(run / "metrics.json")
        unchanged = results["baselines"]["identity"]["a_to_b"]["psnr"]
        unchanged["value"] = 9.9 + (0.002 * number if change is None else 0)
        write_json(run / "metrics.json", results)

    figures = tmp_path / "figures"
    done = gantk("report", *runs, "--out", tmp_path / "both.html", "--figures", figures)
    said = " ".join(done.out.split())
    words = Page(tmp_path / "both.html").words

    assert done.code == 0, done.err
    assert ("say nothing about the models" in said) is bool(reason)
    assert ("say nothing about the models" in words) is bool(reason)
    assert reason in said and reason in words
    scores = [(figures / name).read_text("utf-8") for name in ("scores.tex", "scores.csv")]
    assert all(("say nothing about the models" in text) is bool(reason) for text in scores)
    assert ("`gantk eval RUN OTHER --data SCANS`" in said) is bool(reason)
    assert "31.25" not in words  # one number for one thing


def test_equal_images_in_other_folders_are_drawn_side_by_side(tiny_run, copied_run, tmp_path):
    runs = [shutil.copytree(tiny_run, tmp_path / "one"), copied_run]
    for run in runs:
        split = read_json(run / "split.json")
        for image in split["splits"]["test"]:
            image["sha256"] = f"{image['domain']}{image['key']}"
            image["path"] = f"{run}/{image['sha256']}"
        write_json(run / "split.json", split)
        stored = read_json(run / "samples/test/index.json")
        for direction, images in stored.items():
            for image in images:
                image["input"] = f"{run}/{direction[0]}{image['image']}"
                image["truth"] = f"{run}/{direction[-1]}{image['image']}"
        write_json(run / "samples/test/index.json", stored)

    page = Page(gantk.write_report(*runs, out=tmp_path / "both.html"))
    assert any(text.startswith("Real T2 of") for text in page.having("alt"))


def test_images_of_another_size_are_not_drawn_side_by_side(tiny_run, copied_run, tmp_path):
    recipe = (copied_run / "recipe.toml").read_text("utf-8")
    (copied_run / "recipe.toml").write_text(re.sub(r"(?m)^(size = \[\s*)32", r"\g<1>64", recipe))
    for path in (copied_run / "samples" / "test").glob("*.nii.gz"):
        pixels = np.asarray(nibabel.load(path).dataobj)
        nibabel.save(nibabel.Nifti1Image(np.kron(pixels, np.ones((2, 2, 1))), np.eye(4)), path)

    options = {"out": tmp_path / "both.html", "figures": tmp_path / "figures"}
    said: list[str] = []
    page = Page(gantk.write_report(tiny_run, copied_run, say=said.append, **options))

    assert not any("PNG and PDF" in line for line in said)
    assert page.having("alt") == []
    assert not [*(tmp_path / "figures").glob("*.png")]


REFUSED = ("These runs were not scored on the same test images", "Folds of one recipe count as one")
OF_A = ("a-0", "a-1", "a-2")
OF_B = ("b-0", "b-1", "b-2")


@pytest.fixture
def folds(tiny_run, tmp_path):
    """Runs of two recipes, for each of three folds one: A scores 20, 22 ... 30 dB on its patients, B
    1 dB less.
    """
    found = {}
    for name in OF_A + OF_B:
        run = found[name] = shutil.copytree(tiny_run, tmp_path / name)
        fold = int(name[-1])
        patients = {f"p{number}": 20.0 + 2 * number for number in (2 * fold, 2 * fold + 1)}
        recipe = (run / "recipe.toml").read_text("utf-8")
        changed = recipe.replace("folds = 0", "folds = 3").replace("fold = 0", f"fold = {fold}")
        if name in OF_B:
            changed = changed.replace("cycle = 5.0", "cycle = 7.0")
            patients = {patient: value - 1 for patient, value in patients.items()}
        (run / "recipe.toml").write_text(changed)

        split = read_json(run / "split.json")
        image = split["splits"]["test"][0]
        tested = [image | {"key": patient, "subject": patient} for patient in patients]
        split["splits"] |= {"by": "patient", "test": tested}
        write_json(run / "split.json", split)
        lines = [
            f"a_to_b,{system},psnr,whole,{patient},{patient},{score},,True"
            for patient, value in patients.items()
            for system, score in {"model": value, "identity": 10.0 + fold}.items()
        ]
        head = "direction,system,metric,region,image,patient,value,corrected,finite"
        (run / "scores.csv").write_text("\n".join([head, *lines]))
        index = run / "samples/test/index.json"
        stored = read_json(index)["a_to_b"][0]
        shown = [stored | {"patient": image, "image": image} for image in list(patients)[:1]]
        write_json(index, {"a_to_b": shown})
        mean = sum(patients.values()) / 2
        score = {"value": mean, "n": 2, "images": 2, "unit": "dB", "higher_is_better": True}
        unchanged = {"a_to_b": {"psnr": {"value": 10.0 + fold, "unit": "dB"}}}
        results = {"metrics": {"a_to_b": {"psnr": score}}, "domains": ["T1", "T2"]}
        results["split"] = {"by": "patient"}
        results["baselines"] = {"identity": unchanged}
        write_json(run / "metrics.json", results)
    return found


@pytest.mark.parametrize(
    ("runs", "change", "shown", "said"),
    [
        (
            OF_A,
            (),
            3,
            [
                "a (3 runs of one recipe), 0.0",
                " M generator weights: On 6 unseen patients, T1 -> T2 is better than the"
                " unchanged input (PSNR 14.00 dB better",
            ],
        ),
        (
            OF_A,
            ("scores.csv", "11.0,,True", "60.0,,True"),
            3,
            ["T1 -> T2 is not better than the unchanged input (PSNR 2.33 dB worse"],
        ),
        (
            OF_A + OF_B,
            (),
            3,
            [
                "a is better than b (PSNR better by 1.00 dB [1.00, 1.00], 6 patients in common)",
                "The tests are over patients, not over trainings",
                "b (3 runs of one recipe), 0.0",
                "PSNR 13.00 dB better",
            ],
        ),
        (
            ("b-1", "a-0", "b-0", "a-1"),
            (),
            2,
            [
                "4 patients in common",
                "b (2 runs of one recipe)",
                "but this can be chance: 4 patients are too few, 6 are needed",
                "PSNR 11.50 dB better",
            ],
        ),
        (
            OF_A + OF_B,
            ("scores.csv", "11.0,,True", "12.5,,True"),
            3,
            [
                "the unchanged input shows (PSNR 11.5000 dB in a, 11.0000 dB in b)",
                "a: a-0, a-1, a-2",
                "PSNR 13.00 dB better",
            ],
        ),
        (("a-0", "b-0"), (), 1, ["a-0 is ahead of b-0", "2 patients in common"]),
        (("a-0", "a-1", "b-0"), (), 1, REFUSED),
        (("a-0", "b-1"), (), 0, REFUSED),
        (OF_A, ("recipe.toml", "cycle = 5.0", "cycle = 6.0"), 0, REFUSED),
        (
            OF_A,
            (
                "metrics.json",
                '"metrics": {"a_to_b": {',
                '"metrics": {"a_to_b": {"mae": {"value": 1.0}, ',
            ),
            3,
            ["a (3 runs of one recipe)"],
        ),
        (OF_A, ("metrics.json", '"psnr"', '"mae"'), 3, ["no score that all of these runs have"]),
        (OF_A, ("metrics.json", '"dB"', '"HU"'), 3, ["no score that all of these runs have"]),
        (OF_A, ("metrics.json", '"metrics"', '"none"'), 0, REFUSED),
    ],
)
def test_folds_of_one_recipe_count_as_one(gantk, folds, tmp_path, runs, change, shown, said):
    if change:
        name, before, after = change
        path = folds["a-1"] / name
        path.write_text(path.read_text("utf-8").replace(before, after))

    done = gantk("report", *(folds[name] for name in runs), "--out", tmp_path / "page.html")
    page = Page(tmp_path / "page.html")

    assert done.code == 0, done.err
    assert refers_to_nothing(page)
    assert sum(text.startswith("Real T2 of") for text in page.having("alt")) == shown
    for words in said:
        assert words in " ".join(done.out.split())
        assert words.replace(" -> ", " → ") in page.words


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        (OF_A + OF_B, ["(6 runs of one recipe)", "PSNR 13.50 dB better"]),
        (("a-0", "b-0"), ["(2 runs of one recipe)", "2 patients are too few"]),
        (("a-0", "a-1", "b-0"), ["(3 runs of one recipe)", "4 patients are too few"]),
    ],
)
def test_seeds_of_one_recipe_count_as_one(gantk, folds, tmp_path, runs, said):
    for name in OF_B:
        path = folds[name] / "recipe.toml"
        recipe = path.read_text("utf-8").replace("cycle = 7.0", "cycle = 5.0")
        before, table, after = recipe.partition("[train]")
        path.write_text(before + table + after.replace("seed = 0", "seed = 1", 1))

    for run in folds.values():  # the first score is not of patients
        results = read_json(run / "metrics.json")
        of_sets = {"fid": {"value": 3.0, "n": 2, "higher_is_better": False}}
        results["metrics"]["a_to_b"] = of_sets | results["metrics"]["a_to_b"]
        write_json(run / "metrics.json", results)

    done = gantk("report", *(folds[name] for name in runs), "--out", tmp_path / "page.html").ok()

    assert "a-2 is better" not in done.out
    texts = [" ".join(done.out.split()), Page(tmp_path / "page.html").words]
    for words in said:
        assert any(words in text for text in texts)


def test_a_comparison_that_cannot_be_made_is_refused(tiny_run, tmp_path):
    for runs, words in (
        ((tiny_run, tiny_run), "named twice"),
        ((tiny_run, tmp_path), "not a run folder"),
    ):
        with pytest.raises(UserError, match=words):
            gantk.write_report(*runs, out=tmp_path / "x.html")

    with pytest.raises(UserError, match="does not exist"):
        gantk.write_report(tiny_run, out=tmp_path / "no" / "x.html")

    assert not (tmp_path / "x.html").exists()


def test_a_comparison_names_the_images_trained_on(gantk, folds, tmp_path):
    split = read_json(folds["b-0"] / "split.json")
    training = split["splits"]["train"]
    split["splits"]["train"] = [image for image in training if image["domain"] == "a"]
    write_json(folds["b-0"] / "split.json", split)
    gantk("report", folds["a-0"], folds["b-0"], "--out", tmp_path / "page.html").ok()

    number = len(split["splits"]["train"])
    others = len(training) - number
    words = Page(tmp_path / "page.html").words
    assert f"T1 {number}, T2 {others}; " in words
    assert f"T1 {number}; " in words
