"""`gantk plan`: what it sees decides the method and the data, every choice says why, and its
recipes train.
"""

import itertools
import re
import tomllib
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from tiny import phantom
from volumes import PAIRED, load, save_slice, volume

from gantk import check, plan, predict
from gantk.data.check.check import warnings_about
from gantk.data.recipe_data import opened_recipe
from gantk.errors import UserError
from gantk.recipe.load import Recipe, load_recipe
from gantk.training import trial

RECORDS = phantom(("T1", "T2"), 2, (64, 64), subjects=8, slices=2).records()
NAMES = {"a": "T1", "b": "T2"}
TWO_MM = np.diag([2.0, 2.0, 2.0, 1.0])


@cache
def images():
    """The image of each record, by its id."""
    return {record.id: record.read()[0] for record in RECORDS}


def pictures(
    folder,
    name=lambda record: f"{record.subject}/{int(record.position)}.png",
    domains="ab",
    records=RECORDS,
):
    for record in (record for record in records if record.domain in domains):
        save_slice(folder / NAMES[record.domain] / name(record), images()[record.id])
    return folder


def volumes(folder, contrasts=("T1", "T2"), change=lambda name, image: image):
    for record in phantom(
        contrasts, 3, (24, 24, 24), subjects=5, skull="CT" in contrasts
    ).records():
        name = dict(zip("ab", contrasts, strict=True))[record.domain]
        values = change(name, record.read()[0]).astype(np.int16)
        volume(folder / record.subject / f"{name}.nii.gz", affine=TWO_MM, values=values)

    return folder


@pytest.mark.parametrize(("make", "timed"), [(pictures, True), (volumes, False)])
def test_registered_pairs_get_a_paired_recipe_that_trains(make, timed, tmp_path, request):
    """Steps are really made where the time is measured, and by the recipe where it is not."""

    if not timed:
        request.getfixturevalue("instant_trials")

    text = plan(make(tmp_path / "data"), hours=1e-4, device="cpu")
    (tmp_path / "planned.toml").write_text(text, "utf-8")
    tables = tomllib.loads(text)

    assert tables["method"]["name"] == "pix2pix"
    assert tables["data"]["split"]["by"] == "patient"
    assert timed or predict(tmp_path / "planned.toml", set=["train.steps=2"], device="cpu").fits

    lines = text[text.index("[method]") :].splitlines()
    for number, line in enumerate(lines):
        if re.match(r"\w+ = ", line):
            assert "# " in line or lines[number - 1].startswith("# "), f"no reason for {line}"


@pytest.mark.parametrize(
    ("patients", "keys", "sets"),
    [
        (2, {"folds": 2, "fold": 0, "validation": 0.0}, "1 train, 0 validation, 1 test ("),
        (3, {"folds": 3, "fold": 0, "validation": 0.0}, "2 train, 0 validation, 1 test ("),
        (5, {"folds": 5, "fold": 0, "validation": 0.0}, "4 train, 0 validation, 1 test ("),
        (6, {"test": 0.2, "validation": 0.1}, "4 train, 1 validation, 1 test ("),
        (8, {"test": 0.2, "validation": 0.1}, "5 train, 1 validation, 2 test ("),
    ],
)
def test_few_patients_are_split_as_the_plan_says(patients, keys, sets, tmp_path, instant_trials):
    first = sorted({record.subject for record in RECORDS})[:patients]
    records = [record for record in RECORDS if record.subject in first]
    text = plan(pictures(tmp_path / "data", records=records))
    (tmp_path / "planned.toml").write_text(text, "utf-8")
    summary = check(tmp_path / "data", recipe=tmp_path / "planned.toml")["summary"]
    found, held_out = summary["split"], summary["held out"]
    said = " ".join(text.split("\n\n")[0].replace("\n#  ", "").split())

    assert tomllib.loads(text)["data"]["split"] == keys | {"by": "patient"}
    assert sets in found
    assert f"split {found}. In {held_out}. {sets.split()[-3]} test patient" in said
    assert "needs at least 6 test patients for one score, 10 for every score" in said
    assert f". {min(5, patients)} folds test each patient once" in said


@pytest.mark.parametrize(
    ("contrasts", "mm", "stripped"),
    [(("T1", "T2"), 2.0, True), (("MR", "CT"), 2.0, True)],
)
def test_a_recipe_of_stripped_heads_warns_of_a_skull(
    contrasts, mm, stripped, tmp_path, instant_trials
):
    x, y, z = np.mgrid[:40, :40, :40] - 19.5
    distance = np.maximum(np.hypot(x, y), abs(z))
    for number, contrast in itertools.product(range(3), contrasts):
        texture = np.random.default_rng(number).normal(0, 10, (20, 20, 20)).repeat(2, 0)
        texture = texture.repeat(2, 1).repeat(2, 2)
        values = 40 + texture if contrast == "CT" else 300 + 5 * texture
        air = -1000 if contrast == "CT" else 0
        voxels = np.where(distance < 15 + number, values, air).astype(np.int16)
        path = tmp_path / "data" / f"p{number}" / f"{contrast}.nii.gz"
        volume(path, affine=np.diag([mm, mm, mm, 1.0]), values=voxels)

    text = plan(tmp_path / "data")
    assert tomllib.loads(text)["translate"].get("stripped") == stripped
    if "CT" in contrasts:  # a value that differs from the shipped recipe's loses its comment
        text = plan(tmp_path / "data", set=["data.source.pairs=none"])
        assert "noise_floor = 0.02 # " in text
        assert "below 6 %" not in text


def test_slices_with_a_header_are_planned_as_volumes_are(tmp_path, instant_trials):
    x, y = np.mgrid[:40, :40] - 19.5
    for number, contrast in itertools.product(range(4), ("T1", "T2")):
        texture = np.random.default_rng(number).normal(300, 50, (20, 20)).repeat(2, 0).repeat(2, 1)
        head = np.where(np.hypot(x, y) < 13 + number, texture, 0).astype(np.int16)
        volume(tmp_path / "scans" / f"p{number}" / f"{contrast}.nii.gz", values=head[..., None])
        save_slice(tmp_path / "pictures" / f"p{number}" / f"{contrast}.png", head / 500)

    of_scans, of_pictures = (tomllib.loads(plan(tmp_path / name)) for name in ("scans", "pictures"))
    assert of_scans["translate"]["masked"] is True
    assert of_scans["data"]["intensity"]["per"] == "volume"
    assert "masked" not in of_pictures.get("translate", {})
    assert "per" not in of_pictures["data"]["intensity"]


def test_pairs_that_do_not_fit_are_not_used(tmp_path, instant_trials):
    subjects = sorted({record.subject for record in RECORDS})
    other = dict(zip(subjects, subjects[3:] + subjects[:3], strict=True))

    def stranger(record):
        return f"{other[record.subject] if record.domain == 'b' else record.subject}/{int(record.position)}.png"

    tables = tomllib.loads(plan(pictures(tmp_path, stranger)))

    assert tables["method"]["name"] == "dualgan"
    assert tables["data"]["source"]["pairs"] == "none"
    assert not tables["data"]["unpair"]
    assert tables["data"]["same_patient"]
    assert tables["method"]["pairs"] == "weak_pairs"
    # which knows no `cycle`
    asked = tomllib.loads(plan(pictures(tmp_path, stranger), set=["method.name=cut"]))
    assert asked["method"]["name"] == "cut"
    assert "cycle" not in asked["method"]
    assert Recipe(asked).check()
    other = tmp_path.with_name(f"{tmp_path.name}-true")
    for path, count in ((tmp_path, 1), (pictures(other), 0)):
        said = warnings_about(load({"name": "folders", "path": str(path)}, PAIRED))
        assert sum("the pairs may show different patients" in line for line in said) == count
    assert "paired. Measured: a shift by" in " ".join(plan(other).split("\n#   "))


def test_time_decides_size_and_steps(tmp_path, instant_trials):
    short, long = (tomllib.loads(plan(pictures(tmp_path), hours=hours)) for hours in (0.01, 10))
    assert short["train"]["steps"] < long["train"]["steps"] == 4_000


@pytest.mark.parametrize(("hours", "told"), [(1e-4, True), (10, False)])
def test_a_time_that_is_too_short_is_told(tmp_path, instant_trials, hours, told):
    assert ("too few to learn from" in plan(pictures(tmp_path), hours=hours)) == told


def test_the_steps_of_the_baseline_are_within_the_time_too(tmp_path, instant_trials):
    tables = tomllib.loads(plan(pictures(tmp_path), hours=0.02))
    step_s = 0.02 * np.prod(tables["data"]["size"]) / 4096  # of `instant_trials`
    steps = tables["train"]["steps"], tables["evaluate"]["regression"]
    assert min(steps) > 0
    assert step_s * sum(steps) <= 0.02 * 3600


@pytest.mark.parametrize(("hours", "said"), [(1e-3, True), (10, False)])
def test_an_asked_method_says_why_it_has_no_weak_pairs(hours, said, tmp_path, instant_trials):
    text = plan(pictures(tmp_path), hours=hours, set=["method.name=cyclegan"])
    assert ("pairs" in tomllib.loads(text)["method"]) != said
    (line,) = (each for each in text.splitlines() if each.startswith("# method"))
    assert ("set by you. Without weak pairs: comparing" in line) == said


def test_recipes_of_several_methods_compare(tmp_path, instant_trials, monkeypatch, gantk):
    tried = trial.predict

    def busy_at_first(recipe, device=None):
        found = tried(recipe, device)
        slower = 3 if recipe.tables["method"]["name"] == "cyclegan" else 1
        return replace(found, hours=slower * found.hours)

    monkeypatch.setattr(trial, "predict", busy_at_first)
    pictures(tmp_path / "data")
    options = ["--methods", "cyclegan,pix2pix", "--out", tmp_path / "mine.toml", "--hours", 0.05]
    said = gantk("plan", tmp_path / "data", *options).ok().out
    paths = [tmp_path / f"mine-{method}.toml" for method in ("cyclegan", "pix2pix")]
    cyclegan, pix2pix = (tomllib.loads(path.read_text("utf-8")) for path in paths)

    assert (cyclegan["method"]["name"], pix2pix["method"]["name"]) == ("cyclegan", "pix2pix")
    assert "pairs" not in cyclegan["method"], "these would be true pairs"
    assert cyclegan["data"] == pix2pix["data"]
    assert (cyclegan["data"]["unpair"], cyclegan["data"]["same_patient"]) == (False, True)
    assert cyclegan["data"]["source"]["path"] == "data"  # beside the recipes
    assert cyclegan["evaluate"] == pix2pix["evaluate"]
    assert cyclegan["train"]["steps"] == pix2pix["train"]["steps"]
    reasons = ["fewest of the methods" in path.read_text("utf-8") for path in paths]
    assert reasons == [False, True], "one has fewer steps than it could"
    assert "next     gantk run" not in said  # the folds are the runs
    assert "train 10 times (30 min 00 s in all):\n" in said
    assert (
        "next     for k in 0 1 2 3 4; do gantk run"
        f" {tmp_path}/mine-cyclegan.toml --set data.split.folds=5 --set data.split.fold=$k"
        " --out runs/mine-cyclegan_fold$k || break; done\n"
    ) in said
    both = "runs/mine-cyclegan_fold* runs/mine-pix2pix_fold*"
    assert f"next     gantk report {both}\n" in said
    assert "no comparison" not in said
    assert "cyclegan, not with the published networks and steps" in paths[0].read_text("utf-8")
    _, model, _ = opened_recipe(paths[0], None, ())
    assert model.data.source.options["path"] == str(tmp_path / "data")


def test_a_paired_method_without_pairs_is_named(tmp_path, instant_trials, gantk):
    numbers = itertools.count()

    def other_names(record):
        return f"{'one' if record.domain == 'a' else 'two'}-{next(numbers):02d}.png"

    said = gantk("plan", pictures(tmp_path, other_names), "--methods", "cyclegan,pix2pix").refused()

    assert "the method 'pix2pix' needs registered pairs" in said


def test_method_and_reasons_are_those_of_the_shipped_recipe(tmp_path, instant_trials):
    text = plan(pictures(tmp_path), hours=10)
    assert tomllib.loads(text)["method"] == load_recipe("pix2pix_t1t2").tables["method"]
    assert "# Convolutions at full resolution before and after the U-Net" in text


def test_hounsfield_units_and_settings_decide(tmp_path, instant_trials):
    folder = volumes(
        tmp_path, ("CT", "MR"), lambda name, image: image * 2 - 1000 if name == "CT" else image
    )
    text = plan(folder, set=["data.source.planes=[0.3,0.6]", "train.seed=4", "data.size=[48,48]"])
    tables = tomllib.loads(text)

    assert tables["data"]["intensity"]["a"]["name"] == "ct"
    assert tables["data"]["size"] == [48, 48]
    assert tables["train"]["seed"] == 4
    assert "seed = 4 # set by you" in text
    assert tables["data"]["source"]["planes"] == [0.3, 0.6]
    assert "slices from 30 to 60 % of each" in " ".join(text.replace("#", "").split())


@pytest.mark.parametrize(("to", "domains"), [("t1w", ["T2", "T1"]), ("T2", ["T1", "T2"])])
def test_one_direction_is_planned_if_asked_for(to, domains, tmp_path, instant_trials):
    tables = tomllib.loads(plan(pictures(tmp_path), to=to))
    assert tables["data"]["domains"] == domains
    assert tables["method"]["both"] is False
    with pytest.raises(UserError, match=r"'FLAIR' beside others.* Allowed: T1, T2"):
        plan(tmp_path, to="FLAIR")


def test_one_direction_never_exchanges_folders(tmp_path, instant_trials, gantk):
    for record in RECORDS:
        name = f"{record.subject}_{int(record.position)}.png"
        save_slice(tmp_path / f"train{record.domain.upper()}" / name, images()[record.id])

    options = ["--layout", "{ab}/{running}", "--out", tmp_path / "mine.toml"]
    assert "(--to)" in gantk("plan", tmp_path, "--to", "A", *options).refused()
    gantk("plan", tmp_path, "--to", "B", *options).ok()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("validation=0.0", "5 train, 0 validation, 1 test"),
        ("test=0.4", "3 train, 1 validation, 2 test"),
    ],
)
def test_a_split_of_the_user_says_so(setting, said, tmp_path, instant_trials):
    first = sorted({record.subject for record in RECORDS})[:6]
    records = [record for record in RECORDS if record.subject in first]
    text = plan(pictures(tmp_path, records=records), set=[f"data.split.{setting}"])
    told = " ".join(text.split("\n\n")[0].replace("\n#  ", "").split())
    assert said in told
    assert "set by you" in told
    assert "so few patients" not in text
    assert "folds" not in text


def test_single_domain_plans_train_from_noise(tmp_path, instant_trials):
    text = plan(pictures(tmp_path / "one", domains="a"))
    tables = tomllib.loads(text)
    assert tables["method"]["name"] == "r3gan"
    assert "conditional" not in tables["method"]
    profile = load_recipe("r3gan_tumour").override([], "cpu").tables
    assert {**profile["method"], **tables["method"], "conditional": True} == profile["method"]
    assert tables["train"]["optimizers"] == profile["train"]["optimizers"]
    again = tomllib.loads(plan(tmp_path / "one", set=["method.name=dcgan"]))
    assert (
        again["train"]["optimizers"] == load_recipe("dcgan_phantom").tables["train"]["optimizers"]
    )

    for place, record in enumerate(record for record in RECORDS if record.domain == "a"):
        label = "yes" if place % 2 else "no"
        save_slice(tmp_path / "two" / label / f"{place}.png", images()[record.id])

    tables = tomllib.loads(plan(tmp_path / "two"))

    assert tables["method"]["conditional"]
    assert tables["data"]["labels"]
    Recipe(tables).check()


@pytest.mark.parametrize(("is_map", "is_whole"), [(True, True), (False, False)])
def test_a_size_that_loses_more_than_a_map_is_not_planned(is_map, is_whole, tmp_path):
    rng = np.random.default_rng(0)
    for number in range(8):
        first, second = np.kron(rng.random((2, 20, 20)), np.ones((1, 8, 8))) * 200
        if is_map:  # of fine detail, the negative of the other
            first = 200 * rng.random((160, 160))
            second = 250 - first
        save_slice(tmp_path / f"p{number}" / "T1.png", first)
        save_slice(tmp_path / f"p{number}" / "T2.png", second)
    planned = tomllib.loads(plan(tmp_path, hours=0.001, to="T2"))
    assert (max(planned["data"]["size"]) >= 160) == is_whole
