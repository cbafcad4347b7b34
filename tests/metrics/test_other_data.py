"""`gantk eval RUN --data OTHER` scores a run on other images and leaves the run as it is."""

import re
import shutil

import numpy as np
import pandas
import PIL.Image
import pytest
from scipy.ndimage import gaussian_filter
from tiny import read_json, write_toml
from volumes import LPS, far_apart, volume

import gantk
from gantk.data.recipe_data import with_test_data
from gantk.formats.files import read
from gantk.metrics.compare_models import INPUT, MAP, makes_single_images
from gantk.metrics.rows import result_sentence
from gantk.runs.folder import RunFolder
from gantk.runs.results import Results


def scans(folder, patients, affine=LPS, kinds=("T1", "T2")):
    for n in patients:
        for k, kind in enumerate(kinds):
            noise = np.random.default_rng(10 * n + k).random((12, 14, 16))
            smooth = gaussian_filter(noise, 1.5).astype(np.float32)
            smooth = np.pad(smooth[3:-3, 3:-3, 3:-3], 3)
            if kind == "CT":
                smooth = 4000 * smooth - 1000
            volume(folder / f"p{n}" / f"{kind}.nii", affine=affine, values=smooth)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from tiny import TINY

    folder = tmp_path_factory.mktemp("other")
    intensity = {"name": "percentile", "low": 5.0, "high": 99.9}
    data = TINY["data"] | {"source": "nifti", "size": [16, 16], "intensity": intensity}
    train = TINY["train"] | {"steps": 1}
    recipe = TINY | {"data": data, "train": train}
    write_toml(folder / "recipe.toml", recipe)
    own = scans(folder / "own", range(4))
    return gantk.run(
        folder / "recipe.toml", data=own, out=folder / "run", device="cpu", say=lambda line: None
    ).path


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix in (".json", ".html", ".png", ".safetensors")
    }


def test_the_runs_own_test_images_score_as_before(run, tmp_path):
    split = read_json(run / "split.json")
    tested = {entry["subject"] for entry in split["splits"]["test"]}
    other = tmp_path / "other"
    for patient in tested:
        shutil.copytree(run.parent / "own" / patient, other / patient)
    said: list[str] = []
    scores = gantk.evaluate(run, data=other, device="cpu", say=said.append)
    own = read_json(run / "metrics.json")
    for metric in ("psnr", "mae"):
        value = scores["metrics"]["a_to_b"][metric]["value"]
        assert value == pytest.approx(own["metrics"]["a_to_b"][metric]["value"], rel=1e-6)
    assert not any("too good" in line for line in said)


def test_whole_files_score_as_in_the_run_at_its_size(tmp_path):
    """Scanners whose scales differ by up to a factor of 5: each image has its own black and white."""
    from tiny import TINY

    for n in range(8):
        rng = np.random.default_rng(n)
        for kind in ("T1", "T2"):
            pixels = np.pad(gaussian_filter(rng.random((12, 12, 12)), 1.5), 2)
            scaled = (100 + 60 * n) * pixels.astype(np.float32)
            volume(tmp_path / "scans" / f"p{n}" / f"{kind}.nii", values=scaled)
    own_scale = {"name": "percentile", "low": 5.0, "high": 99.9, "per": "volume"}
    data = TINY["data"] | {
        "source": "nifti",
        "dims": 3,
        "size": [16, 16, 16],
        "intensity": own_scale,
        "split": {"test": 0.4, "validation": 0.0},
    }
    recipe = TINY | {"data": data, "train": TINY["train"] | {"steps": 1}}
    recipe["evaluate"] = {"metrics": ["psnr", "mae"], "regression": 3}
    options = {"device": "cpu", "say": lambda line: None}
    run = gantk.run(
        recipe, data=tmp_path / "scans", out=tmp_path / "run", allow_leakage=True, **options
    ).path
    own = read_json(run / "metrics.json")
    found = gantk.compare_models([run], tmp_path / "scans", metrics=["psnr", "mae"], **options)
    (whole,) = found.results.values()
    for title, key in (("T1 -> T2", "a_to_b"), ("T2 -> T1", "b_to_a")):
        for metric, score in own["metrics"][key].items():
            assert whole.metrics[title][metric].value == pytest.approx(score["value"], rel=1e-3)
            assert whole.metrics[title][metric].unit == score["unit"]
            for baseline in (INPUT, "regression"):
                known = own["baselines"][baseline][key][metric]["value"]
                again = whole.baselines[baseline][title][metric].value
                assert again == pytest.approx(known, rel=1e-3), baseline


@pytest.mark.parametrize(("size", "is_said"), [([8, 8], True), ([16, 16], False)])
def test_a_run_says_what_whole_files_reach(size, is_said, run, tmp_path):
    """Where networks see images smaller than their files, of 14 x 16 pixels."""
    data = scans(tmp_path / "data", range(6))
    said: list[str] = []
    found = gantk.run(
        run.parent / "recipe.toml",
        data=data,
        set={"data.size": size},
        out=tmp_path / "run",
        device="cpu",
        say=said.append,
    )
    results = Results.model_validate(read_json(found.path / "metrics.json"))
    assert (results.whole_files is not None) == is_said
    assert any("gantk eval" in line for line in said) != is_said
    if is_said:
        compared = gantk.compare_models([found.path], data, device="cpu", say=list)
        (whole,) = compared.results.values()
        assert {*results.whole_files.metrics} == {*whole.metrics} == {"T1 -> T2", "T2 -> T1"}
        for title, scores in whole.metrics.items():
            for metric, score in results.whole_files.metrics[title].items():
                assert scores[metric].value == pytest.approx(score.value)
        assert result_sentence(results) == result_sentence(whole).replace(
            "On", "On whole files of", 1
        )
        assert "of whole files" in " ".join(said)


@pytest.mark.parametrize(("scale", "fits"), [(1.0, True), (9.0, False)])
def test_images_unlike_those_of_the_training_are_named(scale, fits, run, packed, tmp_path):
    """Voxels of 9 mm where those of the training have 1 mm."""
    scans(tmp_path, [9], LPS @ np.diag([scale, scale, scale, 1.0]))
    said: list[str] = []
    for model in (run, packed):
        gantk.evaluate(model, data=tmp_path, device="cpu", say=said.append)
    gantk.compare_models([run, packed], tmp_path, device="cpu", say=said.append)
    named = [line for line in said if "do not fit the training data" in " ".join(line.split())]
    assert [line.count("p9/T1.nii") for line in named] == ([] if fits else [1, 1, 1, 1])


# who of the run's patients are scored again -> the warnings, in words
SEEN = {
    "those of the training": (
        "train",
        "run",
        ("the model was trained on", "the name of a training"),
    ),
    "those of the test": ("test", "run", ()),
    "those of a packed model's training": ("train", "packed", ("the model was trained on",)),
    "those of a packed model's test": ("test", "packed", ()),
}


@pytest.fixture(scope="module")
def packed(run, tmp_path_factory):
    return gantk.pack(run, tmp_path_factory.mktemp("packed") / "model", say=lambda line: None)


@pytest.mark.parametrize("case", SEEN)
def test_images_of_the_training_are_told(case, run, packed, tmp_path):
    part, kind, warnings = SEEN[case]
    split = read_json(run / "split.json")["splits"]
    for patient in {entry["subject"] for entry in split[part]}:
        shutil.copytree(run.parent / "own" / patient, tmp_path / "other" / patient)
    model = {"run": run, "packed": packed}[kind]
    before = contents(model)
    said: list[str] = []
    scores = gantk.evaluate(model, data=tmp_path / "other", device="cpu", say=said.append)

    text = " ".join(" ".join(said).split())
    told = [line for line in said if line.startswith("warning ")]
    told = [line for line in told if not re.match("warning +On ", line)]
    assert len(told) == len(warnings)
    assert all(words in text for words in warnings)
    assert ("fitted on these test images" in text) == (kind == "packed")
    assert scores["baselines"].keys() == {"identity", "histogram", "intensity_map"}
    assert contents(model) == before


@pytest.mark.parametrize("kind", ["run", "packed"])
def test_other_pairs_are_resampled_by_their_headers(kind, run, packed, tmp_path, gantk):
    far_apart(tmp_path / "other")
    for patient in [*(tmp_path / "other").iterdir()]:  # nobody of the training
        patient.rename(patient.with_name(f"q{patient.name}"))
    out = tmp_path / "scores.json"
    model = {"run": run, "packed": packed}[kind]
    words = ("eval", model, "--data", tmp_path / "other", "--json", out, "--device", "cpu")
    gantk(*words).ok()

    (results,) = read_json(out)["results"].values()
    assert results["metrics"]["T1 -> T2"]["psnr"]["n"] == 2


@pytest.mark.parametrize(("model", "is_single"), [("t1t2", True), ("missing", False)])
def test_whole_files_are_scored_of_single_contrasts(model, is_single):
    assert makes_single_images(gantk.load(model)) is is_single


def test_an_error_of_scoring_says_what_was_done(run, tmp_path, monkeypatch):
    from gantk.metrics.evaluate import Scorer

    def fail(scorer):
        raise RuntimeError("no score")

    monkeypatch.setattr(Scorer, "test", fail)
    copy = shutil.copytree(run, tmp_path / "run")
    with pytest.raises(RuntimeError) as raised:
        gantk.evaluate(copy, device="cpu", say=lambda line: None)
    assert "while scoring the test images" in raised.value.__notes__


def test_scores_that_an_evaluation_drops_are_said(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    said: list[str] = []
    gantk.evaluate(copy, metrics=["psnr"], device="cpu", say=said.append)
    assert any("no longer in metrics.json: mae" in line for line in said)
    kept = contents(copy)
    with pytest.raises(gantk.UserError, match="no metric 'snr'.*'psnr'"):
        gantk.evaluate(copy, metrics=["snr"], device="cpu")
    assert contents(copy) == kept

    (copy / "metrics.json").write_text("{")  # damaged: it is written again
    said.clear()
    gantk.evaluate(copy, device="cpu", say=said.append)
    assert not any("no longer" in line for line in said)


def test_a_proposed_layout_is_the_answer(run, tmp_path, gantk):
    other = scans(tmp_path / "other", range(20, 22))
    for kind in ("T1", "T2"):  # deeper than the others
        volume(other / "raw" / "p24" / f"study1_{kind}W.nii", 999)
    words = ("eval", run, "--data", other, "--device", "cpu")
    asked = gantk(*words).refused()
    line = "[{site}/]{patient}/[{visit}/]*{contrast}*"
    assert f"--layout '{line}'" in asked

    done = gantk(*words, "--layout", line).ok()
    (told,) = [said for said in done.out.splitlines() if said.startswith("layout ")]
    assert line in told


def test_the_folder_of_the_training_is_read_by_its_own_layout(run, tmp_path):
    recipe = RunFolder.open(run).recipe()
    layouts = {
        data: with_test_data(recipe, run.parent / data).source.options["layout"]
        for data in ("own", "own/p1/..", ".")
    }
    assert layouts == {"own": "patients", "own/p1/..": "patients", ".": ""}


@pytest.mark.parametrize("part", ["train", "test"])
def test_predictions_of_training_images_are_told(part, run, tmp_path):
    (entry, *_) = read_json(run / "split.json")["splits"][part]
    patient = run.parent / "own" / entry["subject"]
    gantk.translate(run, patient / "T1.nii", tmp_path / "made.nii", say=lambda line: None)
    said: list[str] = []
    gantk.compare(tmp_path / "made.nii", patient / "T2.nii", say=said.append)
    told = "1 prediction of images that the model was trained on" in " ".join(
        " ".join(said).split()
    )
    assert told is (part == "train")


@pytest.mark.parametrize("kind", ["run", "packed"])
def test_no_ceiling_is_measured_on_the_scored_images_themselves(kind, run, packed, tmp_path):
    model = {"run": run, "packed": packed}[kind]
    other = scans(tmp_path / "other", range(10, 14))
    scores = gantk.evaluate(model, metrics=["kid"], data=other, device="cpu", say=lambda line: None)

    (kid,) = scores["metrics"]["a_to_b"].values()
    assert kid["value"] is not None
    assert ("real_split" in scores["baselines"]) == (kind == "run")


def test_slices_next_to_trained_ones_are_left_out(tmp_path, gantk):
    """Of a run on slices of one head; their patients are not known."""
    from tiny import TINY

    from gantk import run as run_recipe

    rows = ["path,domain,pair"]
    for domain in ("T1", "T2"):
        (tmp_path / "data" / domain).mkdir(parents=True)
        for n in range(30):
            blocks = np.random.default_rng(n).integers(0, 250, (8, 8))
            file = f"data/{domain}/{n:02}.png"
            PIL.Image.fromarray(np.kron(blocks, np.ones((4, 4))).astype(np.uint8)).save(
                tmp_path / file
            )
            rows.append(f"{file},{domain},z{n}")
    (tmp_path / "pairs.csv").write_text("\n".join(rows).replace("data/", "moved/"))
    settings = ["train.steps=1", "data.split.by='block'", "data.split.gap=2"]
    out = tmp_path / "run"
    run_recipe(TINY, data=tmp_path / "data", out=out, set=settings, device="cpu", say=print)
    split = read_json(out / "split.json")["splits"]
    assert split["left_out"]
    tested = [int(x["key"][-6:-4]) for x in split["test"]]
    both = sorted({n for n in tested if tested.count(n) == 2})
    (tmp_path / "data").rename(tmp_path / "moved")

    figures = tmp_path / "figures"
    words = ("eval", out, "--data", tmp_path / "pairs.csv", "--figures", figures, "--device", "cpu")
    said = " ".join(gantk(*words).ok().out.split())
    names = pandas.read_csv(figures / "names.csv").set_index("in figures").name
    assert [int(name[-6:-4]) for name in names] == both
    assert names.index[0] == "test image 1"
    assert "test image 1 (" in (figures / "T1_to_T2.txt").read_text()
    assert "or left out there" in said


def errors_of_file(made, true, model, letter="b"):
    """The errors of a file, from black at 0 to white at 1: of the truth, and of the model's training."""
    meta = read_json(next(model.glob("checkpoints/*/meta.json")))
    ends = meta["intensity"][letter]["fitted"][:2], np.percentile(read(true).pixels, (5, 99.9))
    shown = [
        (read(path).pixels - black) / (white - black)
        for path, (black, white) in zip((made, true), ends, strict=True)
    ]
    return shown[0] - shown[1]


def mean_of_files(folder, data, models):
    """The mean PSNR of the translation of each patient by its model."""
    values = []
    for patient, model in models.items():
        made, true = folder / f"made-{patient}.nii", data / patient / "T2.nii"
        gantk.translate(model, data / patient / "T1.nii", made)
        values.append(-10 * np.log10(np.square(errors_of_file(made, true, model)).mean()))
    return np.mean(values)


def psnr_of(scores, system):
    place = (system, "T1 -> T2", "psnr")
    return [x["value"] for x in scores if (x["system"], x["direction"], x["metric"]) == place]


def test_folds_of_one_recipe_are_compared_as_one_model(run, tmp_path, capsys):
    data = scans(tmp_path / "data", range(4))
    tested = {}
    for k in (0, 1):
        gantk.run(
            run.parent / "recipe.toml",
            data=data,
            set={"data.split.folds": 2, "data.split.fold": k},
            out=tmp_path / f"fold{k}",
            device="cpu",
        )
        for each in read_json(tmp_path / f"fold{k}/split.json")["splits"]["test"]:
            tested[each["subject"]] = tmp_path / f"fold{k}"
    packed = gantk.pack(run, tmp_path / "packed")
    models = [tmp_path / "fold0", tmp_path / "fold1", packed]
    capsys.readouterr()
    found = gantk.compare_models(models, scans(data, (5, 6)), metrics=["psnr"], device="cpu")
    said = " ".join(capsys.readouterr().out.split())

    folds, other = found.left_out
    assert folds == "fold"
    assert f"fold: {models[0]} and {models[1]}" in said
    assert not found.left_out[folds]
    ours = [patient for patient in tested if patient not in found.left_out[other]]
    own = found.scores[found.scores.system == folds]
    own = own[(own.direction == "T1 -> T2") & (own.metric == "psnr")]
    assert sorted(own.patient) == sorted([*ours, "p5", "p6"])
    assert "2 runs of one recipe" in said
    of_tested = gantk.compare_models(
        [f"{tmp_path}/fold*", packed],  # a pattern, as `translate` takes
        scans_of(data, ours, tmp_path / "ours"),
        metrics=["psnr"],
        device="cpu",
        say=lambda line: None,
    )
    expected = mean_of_files(tmp_path, data, {patient: tested[patient] for patient in ours})
    assert np.mean(psnr_of(of_tested.scores.to_dict("records"), folds)) == pytest.approx(
        expected, abs=0.01
    )
    alone = gantk.compare_models(models[:2], data, metrics=["psnr"], say=lambda line: None)
    assert [*alone.results] == ["fold"], "folds alone are beside the baselines"
    assert not alone.tests


def scans_of(data, patients, folder):
    for patient in patients:
        shutil.copytree(data / patient, folder / patient)
    return folder


def test_models_are_compared_on_one_scale(run, packed, tmp_path, gantk):
    """By what `translate` writes, on a scale of each true image; who was seen in training is left out."""
    new = [f"p{n}" for n in range(10, 16)]
    data = scans(tmp_path / "data", range(10, 16))
    sets = read_json(run / "split.json")["splits"]
    seen, validated = (
        sorted({each["subject"] for each in sets[name]}) for name in ("train", "validation")
    )
    for patient in (*seen, *validated):
        shutil.copytree(run.parent / "own" / patient, data / patient)
    shutil.copytree(run.parent / "own" / validated[0], data / "p99")  # renamed
    options = ("--data", data, "--json", tmp_path / "found.json", "--device", "cpu")
    figures = tmp_path / "figures"
    done = gantk("eval", run, packed, *options, "--figures", figures).ok()
    said = " ".join(done.out.split())
    found = read_json(tmp_path / "found.json")
    expected = mean_of_files(tmp_path, data, dict.fromkeys(new, run))
    own = psnr_of(found["scores"], run.name)

    assert found["left_out"] == {run.name: sorted([*seen, *validated, "p99"]), packed.name: seen}
    assert {(each["metric"], each["region"]) for each in found["scores"]} >= {
        ("psnr", "whole"),
        ("psnr_foreground", "foreground"),
    }
    assert f"used in training or validation of {run.name}" in said
    assert "(gantk report scores images at the network's size)" in said
    assert re.search(r"MAE, % of range +[\d.]+", said)
    scale = "T2 and T1: white is the 99.9th percentile of each true scan."
    assert scale in said
    about = found["results"][run.name]["metrics"]["T1 -> T2"]["psnr_foreground"]["definition"]
    assert "/foreground-above-5%-of-range-" in about
    assert re.search(rf"T1 -> T2 +PSNR +{run.name} +{packed.name} +-?0.00 dB", said)
    assert np.mean(own) == pytest.approx(expected, abs=0.01)
    assert [test["n"] for test in found["tests"]] == 12 * [6]  # whole and foreground
    assert [test["gain"] for test in found["tests"]] == pytest.approx(12 * [0.0], abs=1e-3)
    of_sets = gantk("eval", run, packed, "--data", data, "--metrics", "kid").refused()
    assert "not of sets" in of_sets
    assert "need --data" in gantk("eval", run, packed).refused()
    assert "needs --data" in gantk("eval", run, "--figures", figures).refused()
    assert "needs --data" in gantk("eval", run, "--to", "T2").refused()
    gains = pandas.read_csv(figures / "differences.csv")
    assert len(gains) == len(found["tests"]) + 2 * 12, "and each model with the baselines"
    gain = (
        gains[gains.direction == "T1 -> T2"].set_index(["other", "metric"]).loc[packed.name, "mae"]
    )
    (test,) = [test for test in found["tests"] if test["place"] == ["T1 -> T2", "mae"]]
    assert (gain["better_by"], gain["p"]) == (test["gain"], test["p"])
    assert gain["p_corrected"] == test["holm"] and gain["comparisons"] == 12
    assert "a simple intensity map" in (figures / "differences.tex").read_text()
    for direction in ("T1_to_T2", "T2_to_T1"):
        with PIL.Image.open(figures / f"{direction}.png") as figure:
            assert figure.width == round(180 / 25.4 * 300)
        caption = (figures / f"{direction}.txt").read_text()
        assert "test patient 4" in caption and scale in caption
    assert "p10,test patient 1" in (figures / "names.csv").read_text()
    table = pandas.read_csv(figures / "scores.csv")
    means = table[(table.direction == "T1 -> T2") & (table.metric == "psnr")].set_index("system")
    assert means.value[run.name] == pytest.approx(np.mean(own))
    assert "the unchanged input" in means.index
    only_seen = shutil.copytree(run.parent / "own" / seen[0], tmp_path / "seen" / seen[0]).parent
    assert "none of the models" in gantk("eval", run, packed, "--data", only_seen).refused()
    for n, patient in enumerate(new):
        (data / patient / f"T{n % 2 + 1}.nii").unlink()
    for patient in (*seen, *validated, "p99"):
        shutil.rmtree(data / patient)
    assert "has no registered pairs" in gantk("eval", run, packed, "--data", data).refused()


# lesions -> whether the masks are said to be maps of tissue
MASKS = {"of a lesion": (slice(5, 8), False), "of the whole head": (slice(None), True)}


@pytest.mark.parametrize("masks", MASKS)
def test_comparison_scores_lesions_and_the_input(masks, run, tmp_path):
    inside, is_told = MASKS[masks]
    lesion = np.zeros((12, 14, 16), np.uint8)
    lesion[inside, inside, inside] = 1
    data = scans(tmp_path / "data", range(10, 13))
    for patient in (*data.iterdir(), *scans(tmp_path / "own", range(4)).iterdir()):
        volume(patient / "seg.nii", values=lesion)
    other = gantk.run(
        run.parent / "recipe.toml",
        data=tmp_path / "own",
        set={"data.source.mask": "seg"},
        out=tmp_path / "b",
        device="cpu",
        say=lambda line: None,
    ).path
    said: list[str] = []
    models = [other, run]
    found = gantk.compare_models(models, data, metrics=["mae"], device="cpu", say=said.append)
    alone: list[str] = []
    named = gantk.compare_models(
        [run],
        data,
        metrics=["mae"],
        set={"data.source.mask": "seg", "data.leave_out": ["p10"]},
        device="cpu",
        say=alone.append,
    )
    assert "left out p10: data.leave_out of the recipe" in " ".join(" ".join(alone).split())
    assert "p10" in named.left_out[run.name] and "p10" not in {*named.scores.patient}
    (sentences,) = named.dump()["sentences"]
    shown = " ".join(" ".join(alone).split())
    assert all(f"{each.removesuffix('.')}." in shown for each in sentences.split(". "))
    assert "better by" not in "".join(alone) and "p, corrected" not in "".join(alone)
    assert (named.scores.region == "lesion").any()
    assert "1 is kept, 0 is lost" in " ".join(" ".join(alone).split())
    with pytest.raises(gantk.UserError, match="'train.steps' does not say how images are read"):
        gantk.evaluate(run, data=data, set=["train.steps=3"], device="cpu")
    table = found.scores[found.scores.direction == "T1 -> T2"]

    values = table.groupby(["system", "metric"])["value"].mean()
    in_lesions, whole = [], []
    for patient in data.iterdir():
        made = tmp_path / f"made-{patient.name}.nii"
        gantk.translate(other, patient / "T1.nii", made)
        errors = 2 * np.abs(errors_of_file(made, patient / "T2.nii", other))
        in_lesions.append(errors[read(patient / "seg.nii").pixels > 0].mean())
        whole.append(errors.mean())
    assert values[other.name, "mae_lesion"] == pytest.approx(np.mean(in_lesions), rel=1e-3)
    assert values[other.name, "mae"] == pytest.approx(np.mean(whole), rel=1e-3)
    text = " ".join(" ".join(said).split())
    for name in (other.name, run.name):
        own = found.results[name]
        lost = {
            direction
            for direction, scores in own.metrics.items()
            for metric, score in scores.items()
            for baseline in (INPUT, MAP)
            if own.baselines[baseline][direction][metric].is_better_than(score)
        }
        told = "".join(re.findall(rf"warning +{name}: On (?:(?! warning).)* not better than", text))
        assert all(direction in told for direction in lost)
    assert ("cover most of the foreground" in text) == is_told


def test_comparison_on_one_patient_prints_its_scores(run, packed, tmp_path):
    said: list[str] = []
    models = [run, packed]
    data = scans(tmp_path, range(20, 21))
    found = gantk.compare_models(
        models, data, metrics=["psnr"], to="t2", device="cpu", say=said.append
    )
    (table,) = [line for line in said if "PSNR, dB" in line]
    baselines = found.results[run.name].baselines
    value = baselines[INPUT]["T1 -> T2"]["psnr"].value
    assert f"{value:.2f}" in table
    assert "cannot be said" in " ".join(said)
    assert MAP not in baselines
    assert [*found.results[run.name].metrics] == ["T1 -> T2"], "the other direction was not asked"
    with pytest.raises(gantk.UserError, match="cannot generate 'CT'"):
        gantk.compare_models(models, data, to="CT", say=said.append)


def test_comparison_fits_a_map_to_other_patients(run, packed, tmp_path):
    data = scans(tmp_path, range(20, 23))
    for patient in data.iterdir():  # T2 follows from T1
        values = read(patient / "T1.nii").pixels[0].T
        volume(patient / "T2.nii", values=np.float32(np.exp(-4 * values)))
    said: list[str] = []
    models = [run, packed]
    found = gantk.compare_models(models, data, metrics=["psnr"], device="cpu", say=said.append)
    of_run = found.results[run.name]
    systems = {**of_run.baselines, "model": of_run.metrics}
    values = {name: scores["T1 -> T2"]["psnr"].value for name, scores in systems.items()}
    assert values[MAP] > 30 > max(values[INPUT], values["model"])
    text = " ".join(" ".join(said).split())
    assert f"{run.name}: On 3 unseen patients, T1 -> T2" in text
    assert "not better than a simple intensity map" in text

    for patient in ("p21", "p22"):
        shutil.rmtree(data / patient)
    seen = read_json(run / "split.json")["splits"]["train"][0]["subject"]
    shutil.copytree(run.parent / "own" / seen, data / seen)
    values = read(data / seen / "T1.nii").pixels[0].T
    volume(data / seen / "T2.nii", values=np.float32(np.exp(-4 * values)))
    alone = gantk.compare_models([run], data, metrics=["psnr"], to="T2", device="cpu")
    mapped = alone.results[run.name].baselines[MAP]["T1 -> T2"]["psnr"]
    assert mapped.n == 1 and mapped.value > 30, "fitted to whom the model was trained on"


def test_hounsfield_units_are_compared_as_they_are(run, tmp_path):
    kinds = ("T1", "CT")
    own = scans(tmp_path / "own", range(4), kinds=kinds)
    other = scans(tmp_path / "other", range(10, 12), kinds=kinds)
    models = [
        gantk.run(
            run.parent / "recipe.toml",
            data=own,
            set={"data.domains": [*kinds], "train.seed": seed},
            out=tmp_path / f"run{seed}",
            device="cpu",
            say=lambda line: None,
        ).path
        for seed in (0, 1)
    ]
    found = gantk.compare_models(models, other, device="cpu", say=lambda line: None)
    own_scores = found.scores[found.scores.system == found.scores.system[0]]
    values = own_scores.groupby(["direction", "metric"])["value"].mean()
    for source, kind in (("T1", "CT"), ("CT", "T1")):
        errors = []
        for patient in other.iterdir():
            made = tmp_path / f"made-{kind}-{patient.name}.nii"
            gantk.translate(models[0], patient / f"{source}.nii", made, to=kind)
            true = patient / f"{kind}.nii"
            if kind == "CT":
                errors.append(np.abs(read(made).pixels - read(true).pixels).mean())
            else:
                errors.append(2 * np.abs(errors_of_file(made, true, models[0], "a")).mean())
        assert values[f"{source} -> {kind}", "mae"] == pytest.approx(np.mean(errors), rel=1e-3)


RECORDS = """
from functools import partial
from pathlib import Path
import gantk, numpy
@gantk.hookimpl
def gantk_register(add): add.source("lab", Lab)
class Lab(gantk.ImageSource):
    def __init__(self, domains, dims, size, *, path: str = ""):
        self.domains, self.path = domains, path
    @classmethod
    def accepts(cls, path):
        return {"path": str(path)} if list(path.glob("*.npz")) else None
    def records(self):
        return [gantk.Record(domain=x, subject=file.stem, key=f"{file.stem}/{x}", pair=file.stem,
                             read=lambda file=file, name=name: numpy.load(file)[name][None])
                for file in sorted(Path(self.path).glob("*.npz"))
                for x, name in zip("ab", self.domains)]
"""


@pytest.mark.parametrize("dims", [2, 3])
def test_models_are_compared_on_the_records_of_a_source(dims, tmp_path, add_plugin):
    from tiny import TINY

    add_plugin("lab-package", "lab", RECORDS)
    rng = np.random.default_rng(0)
    for n in range(10):
        folder = tmp_path / ("lab" if n < 6 else "other")
        folder.mkdir(exist_ok=True)
        image = np.pad(rng.random([6] * dims).repeat(2, -1), 2).astype(np.float32)
        np.savez(folder / f"p{n}.npz", T1=image, T2=image.max() - image)
    data = TINY["data"] | {"dims": dims, "size": [16] * dims, "intensity": "minmax"}
    recipe = TINY | {"data": data, "train": TINY["train"] | {"steps": 1}}
    options = {"data": tmp_path / "lab", "device": "cpu", "say": lambda line: None}
    models = [
        gantk.run(recipe, set={"train.seed": seed}, out=tmp_path / f"run{seed}", **options).path
        for seed in (0, 1)
    ]
    found = gantk.compare_models(models, tmp_path / "other", device="cpu", say=lambda line: None)

    assert {test.n for test in found.tests} == {4}
    translate = gantk.load(models[0]).translate
    meta = read_json(next(models[0].glob("checkpoints/*/meta.json")))
    values = []
    for path in (tmp_path / "other").glob("*.npz"):
        images = np.load(path)
        true = images["T2"]
        low, high, *_ = meta["intensity"]["b"]["fitted"]
        made = (translate(images["T1"], to="T2") - low) / (high - low) * np.ptp(true) + true.min()
        black, white = np.percentile(true, (5, 99.9))
        error = (made - true) / (white - black)
        values.append(-10 * np.log10(np.square(error).mean()))
    own = psnr_of(found.scores.to_dict("records"), found.scores.system[0])
    assert np.mean(own) == pytest.approx(np.mean(values), abs=0.01)


def test_images_given_in_python_are_scored_like_files(run, tmp_path):
    rng = np.random.default_rng(0)
    images = {name: gaussian_filter(rng.random((6, 16, 16)), (0, 2, 2)) for name in ("T1", "T2")}
    before = contents(run)
    scores = gantk.evaluate(
        run, data=images | {"patient": [*"abcdef"]}, device="cpu", say=lambda line: None
    )
    assert scores["metrics"]["a_to_b"]["psnr"]["n"] == 6
    assert contents(run) == before
    assert repr(gantk.load(run)) == "<Model run: T1 -> T2, T2 -> T1>"
