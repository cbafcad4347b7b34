"""What a trained model gives back: several translations, several contrasts, neighbouring slices, windows, samples."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Picture

import gantk as toolkit
from gantk.errors import GantkError, UserError
from gantk.inference.translator import Look

UNET = {"name": "unet", "width": 4, "depth": 2}
PATCHGAN = {"name": "patchgan", "width": 4, "layers": 3}
PIX2PIX = {"name": "pix2pix", "generator": UNET, "discriminator": PATCHGAN}
DUALGAN = {"name": "dualgan", "generator": UNET, "discriminator": PATCHGAN}
MUNIT = {"name": "munit", "width": 4, "blocks": 1, "mlp_dim": 8, "scales": 1}
DCGAN = {"name": "dcgan", "width": 4, "latent": 8, "discriminator": {"name": "dcgan", "width": 4, "depth": 3}}


def trained(folder: Path, method: dict, **data) -> Path:
    """A run of one step on the phantom."""
    source = {"name": "phantom", "subjects": 6, "slices": 2} | data.pop("source", {})
    table = {"source": source, "domains": ["T1", "T2"], "size": [32, 32], "split": {"test": 0.25, "validation": 0.0}}
    tables = {
        "method": method,
        "data": table | data,
        "train": {"steps": 1, "batch": 2, "precision": "fp32", "log_every": 1},
        "evaluate": {"samples": 1, "images": 8},
    }
    return toolkit.run(tables, out=folder / "run", device="cpu", say=lambda line: None).path


def volume(path: Path, seed: int = 0, shape: tuple[int, ...] = (40, 36, 5), affine: np.ndarray | None = None) -> Path:
    """A NIfTI file of numbers on the phantom's scale."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).uniform(0, 600, shape).astype(np.float32)
    nib.save(nib.Nifti1Image(values, np.diag([2.0, 2, 3, 1]) if affine is None else affine), path)
    return path


@pytest.fixture(scope="module")
def multimodal(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("munit"), MUNIT)


@pytest.fixture(scope="module")
def contrasts(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("contrasts"), PIX2PIX, domains=["T1+FLAIR", "T2"])


@pytest.fixture(scope="module")
def sampler(tmp_path_factory) -> Path:
    source = {"lesions": 1, "healthy": 0.5}
    return trained(
        tmp_path_factory.mktemp("dcgan"), DCGAN | {"conditional": True}, domains=["FLAIR"], labels=True, source=source
    )


def test_variants_are_numbered_files_that_differ_and_come_again(multimodal, tmp_path, gantk):
    scan = volume(tmp_path / "scan.nii.gz")
    for folder, seed in (("one", 1), ("again", 1), ("other", 2)):
        target = tmp_path / folder / "t2.nii.gz"
        outcome = gantk("translate", multimodal, scan, target, "--variants", "3", "--seed", seed, "--device", "cpu")
        assert outcome.code == 0, outcome.err
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["t2-1.nii.gz", "t2-2.nii.gz", "t2-3.nii.gz"]
    first = [nib.load(tmp_path / "one" / name).get_fdata() for name in names]
    again, other = (nib.load(tmp_path / folder / names[0]).get_fdata() for folder in ("again", "other"))
    assert first[0].shape == (40, 36, 5)
    assert np.array_equal(first[0], again)
    assert not np.array_equal(first[0], other)
    assert not np.array_equal(first[0], first[1])


def test_all_slices_of_a_volume_get_the_same_style(multimodal):
    model = toolkit.load(multimodal, device="cpu")
    pixels = np.random.default_rng(0).uniform(0, 600, (5, 1, 32, 32)).astype(np.float32)
    whole = model.translate(pixels, look=Look(variants=2, seed=3))
    alone = model.translate(pixels[3:4], look=Look(variants=2, seed=3))
    assert whole.shape == (2, 5, 1, 32, 32)
    np.testing.assert_allclose(whole[:, 3:4], alone, rtol=1e-3, atol=0.5)


def test_the_style_of_an_example_changes_the_translation(multimodal, tmp_path):
    scan = volume(tmp_path / "scan.nii.gz")
    styles = [volume(tmp_path / f"style{k}.nii.gz", seed=k) for k in (1, 2)]
    nib.save(nib.Nifti1Image(nib.load(styles[1]).get_fdata() * 0.3, np.eye(4)), styles[1])
    done = []
    for number, style in enumerate([*styles, styles[0]]):
        target = tmp_path / f"{number}.nii.gz"
        toolkit.translate(multimodal, scan, target, style=style, device="cpu", say=lambda line: None)
        done.append(nib.load(target).get_fdata())
    assert np.array_equal(done[0], done[2])
    assert not np.array_equal(done[0], done[1])


@pytest.mark.parametrize("option", [["--variants", "2"], ["--style", "scan.nii.gz"]])
def test_a_method_of_one_answer_says_which_can_give_several(contrasts, tmp_path, monkeypatch, gantk, option):
    monkeypatch.chdir(tmp_path)
    for name in ("T1", "FLAIR"):
        volume(tmp_path / "patient" / f"{name}.nii.gz")
    volume(tmp_path / "scan.nii.gz")
    outcome = gantk("translate", contrasts, "patient", "out", *option, "--device", "cpu")
    assert outcome.code == (1 if option[0] == "--variants" else 1)
    assert "munit" in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_patients_contrasts_go_in_together_and_one_file_comes_out(contrasts, tmp_path):
    for patient in ("p1", "p2"):
        volume(tmp_path / "in" / patient / "t1.nii.gz", seed=1)
        volume(tmp_path / "in" / patient / "flair.nii.gz", seed=2)
    written = toolkit.translate(contrasts, tmp_path / "in", tmp_path / "out", device="cpu", say=lambda line: None)
    assert [path.relative_to(tmp_path / "out").as_posix() for path in written] == ["p1_T2.nii.gz", "p2_T2.nii.gz"]
    assert nib.load(written[0]).shape == (40, 36, 5)
    np.testing.assert_array_equal(nib.load(written[0]).affine, np.diag([2.0, 2, 3, 1]))
    model = toolkit.load(contrasts, device="cpu")
    pixels = np.random.default_rng(0).uniform(0, 600, (2, 2, 32, 32)).astype(np.float32)
    swapped = model.translate(pixels[:, ::-1])
    assert not np.allclose(model.translate(pixels), swapped)


def test_a_missing_contrast_is_refused_by_name(contrasts, tmp_path):
    volume(tmp_path / "in" / "p1" / "t1.nii.gz")
    with pytest.raises(GantkError, match="FLAIR missing in .*p1"):
        toolkit.translate(contrasts, tmp_path / "in" / "p1", tmp_path / "out", device="cpu", say=lambda line: None)


def test_contrasts_on_two_grids_are_refused(contrasts, tmp_path):
    volume(tmp_path / "p" / "t1.nii.gz")
    volume(tmp_path / "p" / "flair.nii.gz", affine=np.diag([1.0, 1, 1, 1]))
    with pytest.raises(GantkError, match="not on the grid of"):
        toolkit.translate(contrasts, tmp_path / "p", tmp_path / "out", device="cpu", say=lambda line: None)


def test_a_run_that_learnt_to_do_without_takes_a_missing_contrast_as_black(tmp_path):
    run = trained(tmp_path, PIX2PIX, domains=["T1+FLAIR", "T2"], missing="mask")
    volume(tmp_path / "p" / "t1.nii.gz")
    written = toolkit.translate(run, tmp_path / "p", tmp_path / "out", device="cpu", say=lambda line: None)
    assert np.isfinite(nib.load(written[0]).get_fdata()).all()


def test_neighbouring_slices_come_along_and_the_middle_one_comes_out(tmp_path):
    run = trained(tmp_path, DUALGAN, neighbours=1, source={"subjects": 6, "slices": 5})
    model = toolkit.load(run, device="cpu")
    assert model.method.geometry.channels == {"a": 3, "b": 3}
    scan = volume(tmp_path / "scan.nii.gz")
    (written,) = toolkit.translate(run, scan, tmp_path / "t2.nii.gz", device="cpu", say=lambda line: None)
    whole = nib.load(written).get_fdata()
    assert whole.shape == (40, 36, 5)
    changed = np.asarray(nib.load(scan).get_fdata())
    changed[:, :, 4] = 300.0  # two slices away from slice 2, next to slice 3
    nib.save(nib.Nifti1Image(changed.astype(np.float32), nib.load(scan).affine), scan)
    (written,) = toolkit.translate(run, scan, tmp_path / "u2.nii.gz", device="cpu", say=lambda line: None)
    after = nib.load(written).get_fdata()
    assert np.array_equal(whole[:, :, 2], after[:, :, 2])
    assert not np.array_equal(whole[:, :, 3], after[:, :, 3])


def test_a_run_trained_on_patches_translates_whole_images(tmp_path):
    run = trained(tmp_path, DUALGAN, size=[48, 48], patch=[32, 32])
    model = toolkit.load(run, device="cpu")
    assert model.method.geometry.size == (32, 32)
    pixels = np.random.default_rng(0).uniform(0, 600, (2, 1, 60, 50)).astype(np.float32)
    assert model.translate(pixels).shape == pixels.shape


def test_samples_are_files_that_come_again_for_the_same_seed(sampler, tmp_path, gantk):
    for folder, seed in (("one", 1), ("again", 1), ("other", 2)):
        outcome = gantk("sample", sampler, "-n", "3", "--out", tmp_path / folder, "--seed", seed, "--device", "cpu")
        assert outcome.code == 0, outcome.err
    images = {
        folder: [np.asarray(Picture.open(path)) for path in sorted((tmp_path / folder).glob("*.png"))]
        for folder in ("one", "again", "other")
    }
    assert len(images["one"]) == 3 and images["one"][0].shape == (32, 32)
    assert np.array_equal(images["one"], images["again"])
    assert not np.array_equal(images["one"], images["other"])
    rows = list(csv.reader((tmp_path / "one" / "labels.csv").open()))
    assert rows == [["file", "label"], ["sample-0000.png", "healthy"], ["sample-0001.png", "tumour"],
                    ["sample-0002.png", "healthy"]]  # fmt: skip


def test_a_class_can_be_asked_for_by_name(sampler, tmp_path, gantk):
    gantk("sample", sampler, "-n", "2", "--out", tmp_path / "t", "--label", "tumour", "--device", "cpu")
    assert "tumour" in (tmp_path / "t" / "labels.csv").read_text()
    outcome = gantk("sample", sampler, "-n", "2", "--out", tmp_path / "u", "--label", "tumor", "--device", "cpu")
    assert outcome.code == 2 and "healthy, tumour" in outcome.err
    assert not (tmp_path / "u").exists()


def test_sampling_refuses_what_it_cannot_do(sampler, multimodal, tmp_path, gantk):
    outcome = gantk("sample", multimodal, "-n", "2", "--out", tmp_path / "a", "--device", "cpu")
    assert outcome.code != 0 and "noise-to-image" in outcome.err and "Traceback" not in outcome.err
    assert gantk("sample", sampler, "-n", "0", "--out", tmp_path / "a", "--device", "cpu").code == 2
    gantk("sample", sampler, "-n", "1", "--out", tmp_path / "b", "--device", "cpu")
    outcome = gantk("sample", sampler, "-n", "1", "--out", tmp_path / "b", "--device", "cpu")
    assert outcome.code == 2 and "holds samples already" in outcome.err


def test_variants_and_a_style_image_exclude_each_other(multimodal, tmp_path):
    with pytest.raises(UserError, match="variants are drawn at random"):
        toolkit.translate(multimodal, tmp_path, tmp_path / "o", variants=2, style=tmp_path / "x.png")


def test_a_run_is_used_by_the_checkpoint_that_its_recipe_chooses(copied_run):
    from gantk.runs.folder import RunFolder

    run, file = RunFolder(copied_run), copied_run / "recipe.toml"
    best = json.loads((copied_run / "best.json").read_text())
    (copied_run / "best.json").write_text(json.dumps(best | {"step": 2}))
    assert toolkit.load(copied_run, device="cpu").checkpoint == run.chosen() == run.latest()
    text = file.read_text()
    assert 'checkpoint = "last"' in text
    file.write_text(text.replace('checkpoint = "last"', 'checkpoint = "best"'))
    assert toolkit.load(copied_run, device="cpu").checkpoint == run.chosen() == run.best()
    assert run.best().name == "step-000002"
    named = copied_run / "checkpoints" / "step-000004"
    assert toolkit.load(named, device="cpu").checkpoint == named


@pytest.mark.parametrize("damage", ["absent", "half", "no step", "gone"])
def test_a_best_checkpoint_that_is_not_there_is_one_clear_error(copied_run, damage):
    from gantk.runs.folder import RunFolder

    path = copied_run / "best.json"
    path.unlink()
    content = {"half": '{"step', "no step": '{"step": null}', "gone": '{"step": 3}'}
    if damage != "absent":
        path.write_text(content[damage])
    words = "step 3, is not there any more" if damage == "gone" else "names no best checkpoint"
    with pytest.raises(UserError, match=f'{words}.*evaluate.checkpoint = "last"'):
        RunFolder(copied_run).best()
