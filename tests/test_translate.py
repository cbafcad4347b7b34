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

import gantk as toolkit
from gantk.data.intensity import Window
from gantk.errors import GantkError, UserError
from gantk.formats.image import Image
from gantk.inference.pipeline import Frame, Look, Pipeline

IDENTITY = """
import torch
from gantk import Method, Phase, hookimpl


class Nothing(Method):
    \"\"\"Gives back what it is given.\"\"\"

    def __init__(self, geometry, *, unused: float = 0.0):
        super().__init__(geometry)
        self.weight = torch.nn.Linear(1, 1)

    def phases(self):
        return [Phase("weight", (self.weight,), lambda batch: {"weight": self.weight.weight.square().sum()})]

    def translate(self, image, to):
        return image


@hookimpl
def gantk_register(add):
    add.method("nothing", Nothing)
"""
LINE = {"name": "window", "low": 0.0, "high": 1000.0}


@pytest.fixture
def identity(add_plugin, tmp_path) -> Path:
    """A run whose network gives back what it is given; both domains have one line of intensities."""
    add_plugin("nothing-plugin", "nothing_plugin", IDENTITY)
    source = {"name": "phantom", "subjects": 6, "slices": 2}
    tables = {
        "method": {"name": "nothing"},
        "data": {"source": source, "domains": ["T1", "T2"], "size": [32, 32], "intensity": LINE},
        "train": {"steps": 1, "batch": 2, "log_every": 1},
        "evaluate": {"samples": 1, "metrics": ["psnr"]},
    }
    return toolkit.run(tables, out=tmp_path / "identity", device="cpu", say=lambda line: None).path


def whole_numbers(path: Path, shape=(40, 50, 6), dtype=np.int16, seed: int = 0) -> Path:
    """A NIfTI file of random whole numbers, oblique."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(-50, 3000, shape).astype(dtype)
    affine = np.array([[-0.8, 0.1, 0, 90], [0.1, 0.9, 0, -120], [0, 0, 3, -70], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


@pytest.mark.parametrize("planes", [(), ("--planes", "coronal"), ("--planes", "all")])
def test_a_network_that_changes_nothing_gives_the_file_back_to_the_bit(identity, tmp_path, gantk, planes):
    scan, target = whole_numbers(tmp_path / "scan.nii.gz"), tmp_path / "out.nii.gz"
    outcome = gantk("translate", identity, scan, target, *planes, "--device", "cpu")
    assert outcome.code == 0, outcome.err
    one, other = nib.load(scan), nib.load(target)
    assert other.get_data_dtype() == np.int16
    assert np.array_equal(np.asarray(one.dataobj), np.asarray(other.dataobj))
    assert np.array_equal(one.affine, other.affine)


def test_a_folder_goes_on_where_it_was_stopped(identity, tmp_path):
    scans = [whole_numbers(tmp_path / "in" / f"{k}.nii.gz", seed=k) for k in range(3)]
    out, said = tmp_path / "out", []

    def translate(**options):
        return toolkit.translate(identity, tmp_path / "in", out, device="cpu", say=said.append, **options)

    class Stop(Exception):
        pass

    def stop(share: float, name: str) -> None:
        if name == "2.nii.gz":
            raise Stop

    with pytest.raises(Stop):
        translate(progress=stop)
    assert sorted(path.name for path in out.glob("*.nii.gz")) == ["0.nii.gz", "1.nii.gz"]
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("*.nii.gz")}
    ledger = tmp_path / ".out.translation.json"
    before = ledger.read_bytes()
    whole_numbers(scans[1], seed=9)  # an input that changed is done anew
    assert len(translate()) == 3
    again = {path.name: path.stat().st_mtime_ns for path in out.glob("*.nii.gz")}
    assert again["0.nii.gz"] == times["0.nii.gz"]
    assert again["1.nii.gz"] != times["1.nii.gz"]
    assert "1 of 3 inputs done before" in said[-1]
    assert not ledger.exists()  # all is done
    ledger.write_bytes(before)
    translate(to="T1")  # another question: all is done anew
    assert (out / "0.nii.gz").stat().st_mtime_ns != times["0.nii.gz"]


def test_one_volume_of_several_is_chosen_by_its_number(identity, tmp_path, gantk):
    scan = whole_numbers(tmp_path / "4d.nii.gz", shape=(40, 40, 5, 3))
    outcome = gantk("translate", identity, scan, tmp_path / "out.nii.gz", "--device", "cpu")
    assert outcome.code == 2
    assert "--volume" in outcome.err
    outcome = gantk("translate", identity, scan, tmp_path / "out.nii.gz", "--volume", "2", "--device", "cpu")
    assert outcome.code == 0, outcome.err
    assert np.array_equal(nib.load(tmp_path / "out.nii.gz").get_fdata(), nib.load(scan).get_fdata()[..., 2])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--planes", "oblique"), "axial, coronal, sagittal, all"),
        (("--uncertainty", "guesses"), "auto, flips, dropout, checkpoints, cycle"),
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
        toolkit.translate(tiny_run, tmp_path / "in", tmp_path / "one", device="cpu", say=lambda line: None)
    recipe = shutil.copytree(tiny_run, tmp_path / "run") / "recipe.toml"
    text = recipe.read_text("utf-8")
    assert "pipelined = true" in text
    recipe.write_text(text.replace("pipelined = true", "pipelined = false"), "utf-8")
    with pytest.raises(GantkError, match="bad.nii.gz"):
        toolkit.translate(recipe.parent, tmp_path / "in", tmp_path / "other", device="cpu", say=lambda line: None)
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
    assert outcome.code == 1 and "munit" in outcome.err
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


def test_a_missing_contrast_is_refused_by_name_unless_the_run_learnt_to_do_without(contrasts, tmp_path):
    scan = volume(tmp_path / "p" / "t1.nii.gz")
    with pytest.raises(GantkError, match="FLAIR missing in .*p"):
        toolkit.translate(contrasts, scan.parent, tmp_path / "out", device="cpu", say=lambda line: None)
    run = trained(tmp_path, PIX2PIX, domains=["T1+FLAIR", "T2"], missing="mask")
    (written,) = toolkit.translate(run, scan.parent, tmp_path / "out", device="cpu", say=lambda line: None)
    assert np.isfinite(nib.load(written).get_fdata()).all()


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


def test_sampling_refuses_what_it_cannot_do(sampler, multimodal, tmp_path, gantk):
    outcome = gantk("sample", multimodal, "-n", "2", "--out", tmp_path / "a", "--device", "cpu")
    assert outcome.code != 0 and "noise-to-image" in outcome.err and "Traceback" not in outcome.err
    assert gantk("sample", sampler, "-n", "0", "--out", tmp_path / "a", "--device", "cpu").code == 2
    gantk("sample", sampler, "-n", "1", "--out", tmp_path / "b", "--device", "cpu")
    outcome = gantk("sample", sampler, "-n", "1", "--out", tmp_path / "b", "--device", "cpu")
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
    with pytest.raises(UserError, match='step 3, is not there any more.*evaluate.checkpoint = "last"'):
        toolkit.load(copied_run, device="cpu")
