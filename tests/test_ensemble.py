"""Several models as one, mirrored images, and k-fold cross-validation by one command."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from tiny import PATCHGAN, UNET, small_run

import gantk as toolkit
from gantk.errors import UserError
from gantk.inference.pipeline import Frame, Look, Pipeline
from gantk_ct.intensity import Window

PIX2PIX = {"name": "pix2pix", "generator": UNET, "discriminator": PATCHGAN}
SMALL = {"source": {"name": "phantom", "subjects": 6, "slices": 2}, "domains": ["T1", "T2"], "size": [32, 32]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs from T1 to T2, the second with other intensities and larger images; one from T1 to FLAIR."""
    other = {"size": [48, 48], "intensity": "zscore", "source": {"seed": 3}}
    data = {"first": {}, "second": other, "flair": {"domains": ["T1", "FLAIR"]}}
    return {name: small_run(tmp_path_factory.mktemp(name), PIX2PIX, **table) for name, table in data.items()}


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    pixels = np.random.default_rng(0).uniform(0, 900, (40, 36, 5)).astype(np.float32)
    nib.save(nib.Nifti1Image(pixels, np.diag([2.0, 2, 3, 1])), path)
    return path


def test_several_runs_give_the_mean_of_their_native_results_and_how_far_they_differ(runs, scan, tmp_path, gantk):
    paths = [runs["first"], runs["second"], runs["first"]]
    single = np.stack([toolkit.load(path, device="cpu").translate(nib.load(scan)).get_fdata() for path in paths])
    options = ["--uncertainty", "members", "--device", "cpu"]
    assert gantk("translate", ",".join(map(str, paths)), scan, tmp_path / "out.nii.gz", *options).code == 0
    for tail, wanted in (("", single.mean(0)), ("_uncertainty", single.std(0, ddof=1))):
        np.testing.assert_allclose(nib.load(tmp_path / f"out{tail}.nii.gz").get_fdata(), wanted, rtol=1e-3, atol=0.05)
    together, array = toolkit.load(paths, device="cpu"), nib.load(scan).get_fdata().T.astype(np.float32)
    expected = np.stack([toolkit.load(path, device="cpu").translate(array) for path in paths])
    mean, deviation = together.translate(array, look=Look(uncertainty="auto"))
    np.testing.assert_allclose(mean, expected.mean(0), rtol=1e-4, atol=0.01)
    np.testing.assert_allclose(deviation, expected.std(0, ddof=1), rtol=1e-3, atol=0.02)
    tensor = torch.tensor(array, requires_grad=True)
    together.translate([tensor], grad=True)[0].sum().backward()
    assert deviation.max() > 1 and tensor.grad.abs().max() > 0


CANNOT = [
    ("first,flair", "", "translates T1 to T2, and '"), ("first,nowhere", "", "nowhere"), (",", "", "no model is named"),
    ("first,second", "--variants 2", "Name one run"), ("first,second", "--uncertainty flips", "members, auto"),
    ("first", "--uncertainty members", "several runs"),
]  # fmt: skip


@pytest.mark.parametrize(("names", "options", "says"), CANNOT)
def test_what_several_runs_cannot_do_is_one_error(runs, scan, tmp_path, gantk, names, options, says):
    text = ",".join(str(runs.get(name, name)) for name in names.split(","))
    done = gantk("translate", text, scan, tmp_path / "out.nii.gz", *options.split(), "--device", "cpu")
    assert done.code == 2 and says in " ".join(done.err.split()) and not (tmp_path / "out.nii.gz").exists()


def test_a_mirrored_image_gives_the_mirrored_result_with_tta_alone(runs):
    scale, ramp = Window(low=0.0, high=100.0), np.linspace(0.5, 1.0, 32, dtype=np.float32)
    pixels = np.random.default_rng(0).uniform(5, 95, (3, 1, 32, 32)).astype(np.float32)
    frame = Frame("T1", "T2", 2, (32, 32), 1, (-1.0, 1.0))
    made = Pipeline(frame, scale, scale, lambda batch: batch * ramp, tta=True).stack(pixels, scale)[0]
    np.testing.assert_allclose(scale.forward(made), scale.forward(pixels) * (ramp + ramp[::-1]) / 2, atol=1e-5)
    model, sides = toolkit.load(runs["first"], device="cpu"), (pixels[0, 0], pixels[0, 0, :, ::-1].copy())
    for tta in (True, False):
        one, other = (model.translate(each, look=Look(tta=tta)) for each in sides)
        assert np.allclose(one, other[:, ::-1], atol=1e-3) is tta


def test_each_patient_is_scored_by_the_fold_that_did_not_see_him_and_the_folds_are_a_model(scan, tmp_path):
    out, said, options = tmp_path / "cv", [], {"device": "cpu", "say": lambda line: None}
    recipe = {"method": PIX2PIX, "data": SMALL, "train": {"steps": 2, "batch": 2}, "evaluate": {"samples": 1}}
    toolkit.run(recipe, set={"data.split.folds": 3, "data.split.fold": 1}, out=out / "fold-1", **options)
    with pytest.raises(UserError, match="holds 1 of 3 folds"):  # as a kill had left it
        toolkit.load(out)
    before = (out / "fold-1" / "report.html").stat().st_mtime_ns
    toolkit.cross_validate(recipe, 3, out=out, device="cpu", say=said.append)
    found = json.loads((out / "folds.json").read_text())["scores"]["a_to_b"]["psnr"]
    splits = [json.loads((out / f"fold-{k}/split.json").read_text())["splits"] for k in range(3)]
    assert [(each["folds"], each["fold"]) for each in splits] == [(3, 0), (3, 1), (3, 2)]
    rows = [json.loads((out / f"fold-{k}/patients.json").read_text())["a_to_b"]["patients"] for k in range(3)]
    patients = {row["patient"]: row["scores"]["psnr"] for each in rows for row in each}
    assert len(patients) == found["n"] == 6 and found["value"] == pytest.approx(np.mean([*patients.values()]))
    assert (out / "fold-1" / "report.html").stat().st_mtime_ns == before and any("6 patients" in line for line in said)
    models = [out, str(out / "fold-*"), [out / f"fold-{k}" for k in range(3)]]
    made = [toolkit.translate(each, scan, tmp_path / f"{k}.nii.gz", **options)[0] for k, each in enumerate(models)]
    assert len({nib.load(path).get_fdata().tobytes() for path in made}) == 1
    with pytest.raises(UserError, match="another recipe"):
        toolkit.cross_validate(recipe, 3, set={"train.steps": 3}, out=out, **options)


@pytest.mark.parametrize("asked", ["--folds 1", "--folds 7", "--folds 3 --set data.split.by='block'"])
def test_folds_that_cannot_be_are_one_error_before_anything_is_written(tmp_path, gantk, asked):
    options = ["--set", "data.source.subjects=6", "--out", tmp_path / "cv", "--device", "cpu"]
    done = gantk("run", "regression_t1t2", *options, *asked.split())
    assert done.code == 2 and "fold" in done.err and not (tmp_path / "cv").exists()
