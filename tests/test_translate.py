"""Files and folders through a model: nothing lost, nothing done twice, whatever the network sees of them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
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
from gantk.inference.translation import Translation

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


def test_pictures_that_the_network_sees_smaller_come_back_to_the_bit(identity, tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (97, 71)).astype(np.uint8)
    Picture.fromarray(values).save(tmp_path / "in.png")
    toolkit.translate(identity, tmp_path / "in.png", tmp_path / "out.png", device="cpu", say=lambda line: None)
    assert np.array_equal(np.asarray(Picture.open(tmp_path / "out.png")), values)


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
    assert json.loads(before)["asked"]["to"] == "b"
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


def test_a_broken_file_does_not_stop_its_neighbours(identity, tmp_path, gantk):
    whole_numbers(tmp_path / "in" / "good.nii.gz")
    (tmp_path / "in" / "bad.nii.gz").write_bytes(b"no image at all")
    outcome = gantk("translate", identity, tmp_path / "in", tmp_path / "out", "--device", "cpu")
    assert outcome.code == 1
    assert "1 of 2 files could not be translated" in outcome.err
    assert "bad.nii.gz" in outcome.err
    assert (tmp_path / "out" / "good.nii.gz").is_file()


def test_one_volume_of_several_is_chosen_by_its_number(identity, tmp_path, gantk):
    scan = whole_numbers(tmp_path / "4d.nii.gz", shape=(40, 40, 5, 3))
    outcome = gantk("translate", identity, scan, tmp_path / "out.nii.gz", "--device", "cpu")
    assert outcome.code == 2
    assert "--volume" in outcome.err
    outcome = gantk("translate", identity, scan, tmp_path / "out.nii.gz", "--volume", "2", "--device", "cpu")
    assert outcome.code == 0, outcome.err
    assert np.array_equal(nib.load(tmp_path / "out.nii.gz").get_fdata(), nib.load(scan).get_fdata()[..., 2])


def test_an_uncertainty_is_a_second_map_in_the_targets_units(tiny_run, tmp_path, gantk):
    scan = whole_numbers(tmp_path / "scan.nii.gz", shape=(40, 40, 4))
    outcome = gantk("translate", tiny_run, scan, tmp_path / "o.nii.gz", "--uncertainty", "flips", "--device", "cpu")
    assert outcome.code == 0, outcome.err
    plain = toolkit.translate(tiny_run, scan, tmp_path / "p.nii.gz", device="cpu", say=lambda line: None)
    made, spread = (nib.load(tmp_path / f"o{tail}.nii.gz") for tail in ("", "_uncertainty"))
    assert np.array_equal(made.get_fdata(), nib.load(plain[0]).get_fdata())
    assert spread.shape == made.shape and np.array_equal(spread.affine, made.affine)
    assert spread.get_fdata().min() >= 0 < spread.get_fdata().max() < np.ptp(made.get_fdata())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--planes", "oblique"), "axial, coronal, sagittal, all"),
        (("--uncertainty", "guesses"), "auto, flips, dropout, checkpoints, cycle"),
        (("--uncertainty", "dropout"), "no dropout"),
        (("--uncertainty", "flips", "--variants", "2"), "the method's own translation"),
    ],
)
def test_a_wrong_option_is_told_with_what_is_allowed(tiny_run, tmp_path, gantk, options, says):
    scan = whole_numbers(tmp_path / "scan.nii.gz")
    outcome = gantk("translate", tiny_run, scan, tmp_path / "out.nii.gz", *options, "--device", "cpu")
    assert outcome.code == 2
    assert says in outcome.err
    assert not (tmp_path / "out.nii.gz").exists()


def test_planes_are_no_question_for_a_picture(tiny_run, tmp_path, gantk):
    Picture.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40)).save(tmp_path / "in.png")
    outcome = gantk("translate", tiny_run, tmp_path / "in.png", tmp_path / "o.png", "--planes", "all")
    assert outcome.code == 2
    assert "is a picture" in outcome.err


def frame(**changes) -> Frame:
    known = {"source": "T1", "target": "T2", "dims": 2, "size": (32, 32), "channels": 1, "range": (-1.0, 1.0)}
    return Frame(**known | changes)


def window() -> Window:
    return Window(low=0.0, high=100.0)


def test_the_median_of_three_planes_takes_away_flicker_between_slices():
    rng = np.random.default_rng(0)
    volume = Image(pixels=rng.uniform(20, 80, (1, 32, 32, 32)).astype(np.float32))

    def flickers(batch: np.ndarray) -> np.ndarray:
        return batch + rng.choice([0] * 7 + [0.4], (len(batch), 1, 1, 1)).astype(np.float32)  # some too bright

    line = Pipeline(frame(), window(), window(), flickers)
    errors = [np.abs(line.images(volume, planes)[0].pixels - volume.pixels).mean() for planes in (None, "all")]
    assert errors[1] < 0.6 * errors[0]


def test_only_a_few_slices_are_in_work_at_a_time():
    seen = []

    def count(batch: np.ndarray) -> np.ndarray:
        seen.append(batch.shape)
        return batch

    pixels = np.random.default_rng(0).uniform(0, 100, (1, 50, 40, 40)).astype(np.float32)
    pixels[:, 10:20] = 0.0  # slices without content are not shown to the network at all
    done = Pipeline(frame(batch=8), window(), window(), count).images(Image(pixels=pixels))[0].pixels
    assert [shape[0] for shape in seen] == [8] * 5
    assert not done[:, 10:20].any()  # they become the target's black
    np.testing.assert_allclose(done[:, 20:], pixels[:, 20:], atol=1e-3)


def test_progress_ends_with_all_that_there_is():
    calls: list[tuple[int, int]] = []
    pixels = np.random.default_rng(0).uniform(0, 100, (1, 20, 32, 32)).astype(np.float32)
    line = Pipeline(frame(batch=6), window(), window(), lambda batch: batch)
    line.images(Image(pixels=pixels), "all", lambda done, total: calls.append((done, total)))
    shares = [done / total for done, total in calls]
    assert shares == sorted(shares) and shares[-1] == 1.0


def test_a_frame_survives_json():
    one = frame(spacing=(1.0, 1.0, 2.0), neighbours=1, plane="coronal")
    assert Frame.from_state(json.loads(json.dumps(one.state()))) == one


def test_volumes_need_a_volume():
    with pytest.raises(UserError, match="is a picture"):
        Pipeline(frame(dims=3, size=(8, 8, 8)), window(), window(), None).images(Image(pixels=np.zeros((1, 32, 32))))


def test_what_a_folder_of_nothing_says(identity, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(GantkError, match="no images in the folder"):
        toolkit.translate(identity, tmp_path / "empty", tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


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


KILLED = """
import os, signal, sys
import gantk
import gantk.inference.translation as translation

write, stopped = translation.write, sys.argv[4]


def dies(path, image, description=""):
    write(path, image, description)
    if path.name == "1.nii.gz":
        os.kill(os.getpid(), getattr(signal, stopped))


translation.write = dies
gantk.translate(sys.argv[1], sys.argv[2], sys.argv[3], device="cpu", say=lambda line: None)
"""


@pytest.mark.parametrize("stopped", ["SIGINT", "SIGKILL"])
def test_a_stopped_folder_holds_whole_files_and_goes_on(tiny_run, tmp_path, stopped):
    for k in range(5):
        whole_numbers(tmp_path / "in" / f"{k}.nii.gz", seed=k)
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, str(tiny_run), str(tmp_path / "in"), str(out), stopped]
    assert subprocess.run(command, capture_output=True, timeout=600).returncode != 0
    found = {path.name: path.stat().st_mtime_ns for path in out.glob("[0-9]*.nii.gz")}
    assert {"0.nii.gz", "1.nii.gz"} <= found.keys()
    assert all(np.isfinite(nib.load(out / name).get_fdata()).all() for name in found)
    said: list[str] = []
    toolkit.translate(tiny_run, tmp_path / "in", out, device="cpu", say=said.append)
    assert (out / "0.nii.gz").stat().st_mtime_ns == found["0.nii.gz"]  # done before
    assert "inputs done before" in said[-1]
    whole = tmp_path / "whole"
    toolkit.translate(tiny_run, tmp_path / "in", whole, device="cpu", say=lambda line: None)
    for k in range(5):
        one, other = (nib.load(folder / f"{k}.nii.gz").get_fdata() for folder in (out, whole))
        assert np.array_equal(one, other)


def test_a_pipeline_is_made_once_for_all_files(tiny_run, tmp_path, monkeypatch):
    for k in range(3):
        whole_numbers(tmp_path / "in" / f"{k}.nii.gz", seed=k)
    model, made = toolkit.load(tiny_run, device="cpu"), []
    monkeypatch.setattr(type(model), "_pipeline", counted(type(model)._pipeline, made))
    Translation(model, None, Look(), None, lambda line: None, None).path(tmp_path / "in", tmp_path / "out")
    assert len(made) == 1


def counted(function, calls: list):
    def call(*args):
        calls.append(args)
        return function(*args)

    return call


def test_files_side_by_side_give_what_they_give_one_after_the_other(tiny_run, tmp_path, monkeypatch):
    for k in range(3):
        whole_numbers(tmp_path / "in" / f"{k}.nii.gz", shape=(40, 40, 40), seed=k)
    (tmp_path / "in" / "bad.nii.gz").write_bytes(b"no image at all")
    with pytest.raises(GantkError, match="bad.nii.gz"):
        toolkit.translate(tiny_run, tmp_path / "in", tmp_path / "one", device="cpu", say=lambda line: None)
    recipe = shutil.copytree(tiny_run, tmp_path / "run") / "recipe.toml"
    text = recipe.read_text("utf-8")
    recipe.write_text(text.replace("pipelined = true", "pipelined = false"), "utf-8")
    assert recipe.read_text("utf-8") != text
    monkeypatch.setattr("gantk.inference.stages.ThreadPoolExecutor", None)  # the second way has no use for threads
    with pytest.raises(GantkError, match="bad.nii.gz"):
        toolkit.translate(recipe.parent, tmp_path / "in", tmp_path / "other", device="cpu", say=lambda line: None)
    for k in range(3):
        one, other = (nib.load(tmp_path / folder / f"{k}.nii.gz").get_fdata() for folder in ("one", "other"))
        assert np.array_equal(one, other)
