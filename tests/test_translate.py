"""Files and folders through a trained run: nothing lost, nothing done twice, whatever the network sees of them."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Picture
from tiny import PATCHGAN, UNET, small_run

import gantk as toolkit
from gantk.data.intensity import Window
from gantk.errors import GantkError, UserError
from gantk.formats.image import Image
from gantk.inference.pipeline import Frame, Look, Pipeline


def whole_numbers(path: Path, shape=(40, 50, 6), dtype=np.int16, seed: int = 0) -> Path:
    """A NIfTI file of random whole numbers, oblique."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(-50, 3000, shape).astype(dtype)
    affine = np.array([[-0.8, 0.1, 0, 90], [0.1, 0.9, 0, -120], [0, 0, 3, -70], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


def silent(line: str) -> None:
    """Says nothing."""


def test_what_a_folder_became_counts_for_the_same_inputs_and_question_alone(tiny_run, tmp_path):
    for k in range(3):
        whole_numbers(tmp_path / "in" / f"{k}.nii.gz", seed=k)
    out, said = tmp_path / "out", []

    def translate(**options):
        toolkit.translate(tiny_run, tmp_path / "in", out, device="cpu", say=said.append, **options)
        return [path.stat().st_mtime_ns for path in sorted(out.glob("*.nii.gz"))]

    class Stop(Exception):
        pass

    def stop(share: float, name: str) -> None:
        if name == "2.nii.gz":
            raise Stop

    with pytest.raises(Stop):
        translate(progress=stop)
    times = [path.stat().st_mtime_ns for path in sorted(out.glob("*.nii.gz"))]
    ledger = tmp_path / ".out.translation.json"
    before = ledger.read_bytes()
    whole_numbers(tmp_path / "in" / "1.nii.gz", seed=9)  # an input that changed is done anew
    again = translate()
    assert (again[0] == times[0], again[1] == times[1]) == (True, False) and "1 of 3 inputs done before" in said[-1]
    assert not ledger.exists()  # all is done
    ledger.write_bytes(before)
    assert translate(to="T1")[0] != times[0]  # another question: all is done anew


def test_one_volume_of_several_is_chosen_by_its_number(tiny_run, tmp_path, gantk):
    scan, one = whole_numbers(tmp_path / "4d.nii.gz", shape=(40, 40, 5, 3)), tmp_path / "one.nii.gz"
    nib.save(nib.Nifti1Image(np.asarray(nib.load(scan).dataobj)[..., 2], nib.load(scan).affine), one)
    outcome = gantk("translate", tiny_run, scan, tmp_path / "out.nii.gz", "--device", "cpu")
    assert outcome.code == 2 and "--volume" in outcome.err
    for file, options in ((scan, {"volume": 2}), (one, {})):
        toolkit.translate(tiny_run, file, tmp_path / f"of-{file.name}", device="cpu", say=silent, **options)
    chosen, alone = (nib.load(tmp_path / f"of-{file.name}").get_fdata() for file in (scan, one))
    assert np.array_equal(chosen, alone)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--planes", "oblique"), "axial, coronal, sagittal, all"),
        (("--uncertainty", "guesses"), "auto, checkpoints, cycle, dropout, flips"),
        (("--uncertainty", "dropout"), "dropout above 0"),
        (("--uncertainty", "flips", "--variants", "2"), "the method's own translation"),
        (("--variants", "2", "--style", "scan.nii.gz"), "variants are drawn at random"),
    ],
)
def test_a_wrong_option_is_told_with_what_is_allowed(tiny_run, tmp_path, gantk, options, says):
    scan = whole_numbers(tmp_path / "scan.nii.gz")
    outcome = gantk("translate", tiny_run, scan, tmp_path / "out.nii.gz", *options, "--device", "cpu")
    assert outcome.code == 2
    assert says in outcome.err
    assert not (tmp_path / "out.nii.gz").exists()


def test_files_side_by_side_give_what_they_give_one_after_the_other(tiny_run, tmp_path):
    for k in range(3):
        whole_numbers(tmp_path / "in" / f"{k}.nii.gz", shape=(40, 40, 40), seed=k)
    (tmp_path / "in" / "bad.nii.gz").write_bytes(b"no image at all")
    with pytest.raises(GantkError, match="bad.nii.gz"):
        toolkit.translate(tiny_run, tmp_path / "in", tmp_path / "one", device="cpu", say=silent)
    recipe = shutil.copytree(tiny_run, tmp_path / "run") / "recipe.toml"
    text = recipe.read_text("utf-8")
    assert "pipelined = true" in text
    recipe.write_text(text.replace("pipelined = true", "pipelined = false"), "utf-8")
    with pytest.raises(GantkError, match="bad.nii.gz"):
        toolkit.translate(recipe.parent, tmp_path / "in", tmp_path / "other", device="cpu", say=silent)
    for k in range(3):
        one, other = (nib.load(tmp_path / folder / f"{k}.nii.gz").get_fdata() for folder in ("one", "other"))
        assert np.array_equal(one, other)


# ---- the pipeline around a network


def frame(**changes) -> Frame:
    known = {"source": "T1", "target": "T2", "dims": 2, "size": (32, 32), "channels": 1, "range": (-1.0, 1.0)}
    return Frame(**known | changes)


def window() -> Window:
    return Window(low=0.0, high=100.0)


def test_only_a_few_slices_are_in_work_at_a_time():
    seen = []

    def count(batch: np.ndarray) -> np.ndarray:
        seen.append(batch.shape)
        return batch

    pixels = np.random.default_rng(0).uniform(0, 100, (1, 50, 40, 40)).astype(np.float32)
    pixels[:, 10:20] = 0.0  # slices without content are not shown to the network at all
    line, calls = Pipeline(frame(batch=8), window(), window(), count), []
    done = line.images(Image(pixels=pixels), progress=lambda done, total: calls.append(done / total))[0].pixels
    assert calls == sorted(calls) and calls[-1] == 1.0
    assert [shape[0] for shape in seen] == [8] * 5
    assert not done[:, 10:20].any()  # they become the target's black
    np.testing.assert_allclose(done[:, 20:], pixels[:, 20:], atol=1e-3)


@pytest.mark.parametrize("planes", [None, "coronal", "all"])
def test_a_network_that_changes_nothing_gives_a_volume_back_along_any_plane(planes):
    pixels = np.random.default_rng(0).uniform(0, 100, (1, 6, 50, 40)).astype(np.float32)
    line = Pipeline(frame(size=(64, 64)), window(), window(), lambda batch: batch)
    done = line.images(Image(pixels=pixels), planes)[0].pixels
    np.testing.assert_allclose(done, pixels, atol=1e-3)


def test_a_picture_is_no_volume_and_has_no_planes():
    picture = Image(pixels=np.zeros((1, 32, 32)))
    for made, planes in ((frame(dims=3, size=(8, 8, 8)), None), (frame(), "all")):
        with pytest.raises(UserError, match="is a picture"):
            Pipeline(made, window(), window(), None).images(picture, planes)


def test_what_is_masked_out_stays_masked_out():
    pixels = np.random.default_rng(0).uniform(20, 90, (1, 6, 40, 40)).astype(np.float32)
    pixels[:, :, :8] = pixels[:, :, :, :8] = pixels[:, :, -4:] = pixels[:, :, :, -4:] = 5.0
    made = {}
    for masked in (False, True):
        line = Pipeline(frame(masked=masked), window(), window(), lambda batch: batch + 0.2)
        made[masked] = line.images(Image(pixels=pixels))[0].pixels
    outside = pixels == 5.0
    np.testing.assert_allclose(made[True][outside], 5.0, atol=1e-4)
    assert made[False][outside].mean() > 10
    assert np.array_equal(made[True][~outside], made[False][~outside])


# ---- several answers, several contrasts, neighbours, patches, samples


PIX2PIX = {"name": "pix2pix", "generator": UNET, "discriminator": PATCHGAN}
DUALGAN = {"name": "dualgan", "generator": UNET, "discriminator": PATCHGAN}
MUNIT = {"name": "munit", "width": 4, "blocks": 1, "mlp_dim": 8, "scales": 1}
DCGAN = {"name": "dcgan", "width": 4, "latent": 8, "discriminator": {"name": "dcgan", "width": 4, "depth": 3}}


def volume(path: Path, seed: int = 0, shape: tuple[int, ...] = (40, 36, 5), affine: np.ndarray | None = None) -> Path:
    """A NIfTI file of numbers on the phantom's scale."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).uniform(0, 600, shape).astype(np.float32)
    nib.save(nib.Nifti1Image(values, np.diag([2.0, 2, 3, 1]) if affine is None else affine), path)
    return path


@pytest.fixture(scope="module")
def multimodal(tmp_path_factory) -> Path:
    return small_run(tmp_path_factory.mktemp("munit"), MUNIT)


@pytest.fixture(scope="module")
def contrasts(tmp_path_factory) -> Path:
    return small_run(tmp_path_factory.mktemp("contrasts"), PIX2PIX, domains=["T1+FLAIR", "T2"])


@pytest.fixture(scope="module")
def sampler(tmp_path_factory) -> Path:
    source = {"lesions": 1, "healthy": 0.5}
    return small_run(
        tmp_path_factory.mktemp("dcgan"), DCGAN | {"conditional": True}, domains=["FLAIR"], labels=True, source=source
    )


def test_variants_are_numbered_files_that_differ_and_come_again(multimodal, tmp_path):
    scan, made = volume(tmp_path / "scan.nii.gz"), {}
    for folder, seed in (("one", 1), ("again", 1), ("other", 2)):
        target = tmp_path / folder / "t2.nii.gz"
        paths = toolkit.translate(multimodal, scan, target, variants=3, seed=seed, device="cpu", say=silent)
        assert [path.name for path in paths] == ["t2-1.nii.gz", "t2-2.nii.gz", "t2-3.nii.gz"]
        made[folder] = [nib.load(path).get_fdata() for path in paths]
    first = made["one"]
    assert first[0].shape == (40, 36, 5) and np.array_equal(first, made["again"])
    assert not np.array_equal(first, made["other"]) and not np.array_equal(first[0], first[1])


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
        toolkit.translate(multimodal, scan, target, style=style, device="cpu", say=silent)
        done.append(nib.load(target).get_fdata())
    assert np.array_equal(done[0], done[2])
    assert not np.array_equal(done[0], done[1])


@pytest.mark.parametrize("option", [["--variants", "2"], ["--style", "scan.nii.gz"]])
def test_a_method_of_one_answer_says_which_can_give_several(tiny_run, tmp_path, monkeypatch, gantk, option):
    monkeypatch.chdir(tmp_path)
    volume(tmp_path / "scan.nii.gz")
    outcome = gantk("translate", tiny_run, "scan.nii.gz", "out.nii.gz", *option, "--device", "cpu")
    assert outcome.code != 0 and "munit" in outcome.err
    assert not (tmp_path / "out.nii.gz").exists()


def test_a_patients_contrasts_go_in_together_and_one_file_comes_out(contrasts, tmp_path):
    for patient in ("p1", "p2"):
        volume(tmp_path / "in" / patient / "t1.nii.gz", seed=1)
        volume(tmp_path / "in" / patient / "flair.nii.gz", seed=2)
    written = toolkit.translate(contrasts, tmp_path / "in", tmp_path / "out", device="cpu", say=silent)
    assert [path.relative_to(tmp_path / "out").as_posix() for path in written] == ["p1_T2.nii.gz", "p2_T2.nii.gz"]
    assert nib.load(written[0]).shape == (40, 36, 5)
    np.testing.assert_array_equal(nib.load(written[0]).affine, np.diag([2.0, 2, 3, 1]))
    model = toolkit.load(contrasts, device="cpu")
    pixels = np.random.default_rng(0).uniform(0, 600, (2, 2, 32, 32)).astype(np.float32)
    swapped = model.translate(pixels[:, ::-1])
    assert not np.allclose(model.translate(pixels), swapped)


def test_a_missing_contrast_is_refused_by_name_unless_the_run_learnt_to_do_without(contrasts, tmp_path):
    scan = volume(tmp_path / "p" / "t1.nii.gz")
    with pytest.raises(GantkError, match="FLAIR missing in .*p"):
        toolkit.translate(contrasts, scan.parent, tmp_path / "out", device="cpu", say=silent)
    run = small_run(tmp_path, PIX2PIX, domains=["T1+FLAIR", "T2"], missing="mask")
    (written,) = toolkit.translate(run, scan.parent, tmp_path / "out", device="cpu", say=silent)
    assert np.isfinite(nib.load(written).get_fdata()).all()


def test_neighbouring_slices_come_along_and_the_middle_one_comes_out(tmp_path):
    run = small_run(tmp_path, DUALGAN, neighbours=1, source={"subjects": 6, "slices": 5})
    model = toolkit.load(run, device="cpu")
    assert model.method.geometry.channels == {"a": 3, "b": 3}
    scan = volume(tmp_path / "scan.nii.gz")
    (written,) = toolkit.translate(run, scan, tmp_path / "t2.nii.gz", device="cpu", say=silent)
    whole = nib.load(written).get_fdata()
    assert whole.shape == (40, 36, 5)
    changed = np.asarray(nib.load(scan).get_fdata())
    changed[:, :, 4] = 300.0  # two slices away from slice 2, next to slice 3
    nib.save(nib.Nifti1Image(changed.astype(np.float32), nib.load(scan).affine), scan)
    (written,) = toolkit.translate(run, scan, tmp_path / "u2.nii.gz", device="cpu", say=silent)
    after = nib.load(written).get_fdata()
    assert np.array_equal(whole[:, :, 2], after[:, :, 2])
    assert not np.array_equal(whole[:, :, 3], after[:, :, 3])


def test_samples_say_their_class_and_sampling_refuses_what_it_cannot_do(sampler, multimodal, tmp_path, gantk):
    paths = toolkit.sample(sampler, n=3, out=tmp_path / "one", seed=1, device="cpu", say=silent)
    assert all(np.asarray(Picture.open(path)).shape == (32, 32) for path in paths)
    rows = list(csv.reader((tmp_path / "one" / "labels.csv").open()))
    assert rows == [["file", "label"], ["sample-0000.png", "healthy"], ["sample-0001.png", "tumour"],
                    ["sample-0002.png", "healthy"]]  # fmt: skip
    outcome = gantk("sample", multimodal, "-n", "2", "--out", tmp_path / "a", "--device", "cpu")
    assert outcome.code != 0 and "noise-to-image" in outcome.err and "Traceback" not in outcome.err
    assert gantk("sample", sampler, "-n", "0", "--out", tmp_path / "a", "--device", "cpu").code == 2
    outcome = gantk("sample", sampler, "-n", "1", "--out", tmp_path / "one", "--device", "cpu")
    assert outcome.code == 2 and "holds samples already" in outcome.err


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
    (copied_run / "best.json").write_text('{"step": 3}')
    with pytest.raises(UserError, match='step 3, which is not there.*evaluate.checkpoint = "last"'):
        toolkit.load(copied_run, device="cpu")
