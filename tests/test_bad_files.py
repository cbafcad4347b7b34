"""Broken files: each gets one message that names it, in bounded time and memory, and its neighbours are still read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import broken_files
import numpy as np
import pytest

from gantk.errors import UserError
from gantk.formats import files as io

SEED = 0
MEMORY = 128 * 2**20  # bytes that reading them may add to what reading small whole files takes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and measures the memory of a process on Linux")


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    return broken_files.make(tmp_path_factory.mktemp("bad") / "files", SEED)


@pytest.fixture(scope="module")
def reading(broken):
    """What `broken_files.read_all` found, in a process of its own that may not hang and may not take much memory."""
    command = [sys.executable, broken_files.__file__, str(broken[0].path.parent)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout) | {"stderr": done.stderr}


def test_there_are_two_hundred_of_all_kinds(broken):
    assert len(broken) == len({each.path for each in broken}) == broken_files.COUNT
    assert len({each.kind for each in broken}) >= 20


def test_the_same_seed_makes_the_same_files(broken, tmp_path):
    again = broken_files.make(tmp_path / "files", SEED)
    assert [(each.path.name, each.kind) for each in again] == [(each.path.name, each.kind) for each in broken]
    for one, other in zip(broken, again, strict=True):
        if one.path.is_file() and not one.path.is_symlink():
            assert one.path.read_bytes() == other.path.read_bytes(), one.path.name


def test_none_crashes_the_reader(broken, reading):
    outcomes = reading["each"] | reading["scans"]
    assert len(reading["each"]) >= broken_files.COUNT
    assert not [(name, outcome) for name, outcome in outcomes.items() if "crash" in outcome]


def test_each_gets_one_message_that_names_it(broken, reading):
    for each in broken:
        message = reading["each"][each.path.name].get("message")
        if message is not None:
            assert each.path.name in message and "\n" not in message and len(message) < 1200, message
    assert reading["stderr"] == ""  # nor have the libraries anything to say


def test_what_is_broken_for_certain_is_refused(broken, reading):
    assert not [each for each in broken if each.refused and "message" not in reading["each"][each.path.name]]


def test_what_can_still_be_read_is_finite(reading):
    outcomes = [*reading["each"].values(), *reading["scans"].values()]
    assert all(outcome["read"] for outcome in outcomes if "read" in outcome)


def test_memory_is_bounded(reading):
    assert reading["grown"] < MEMORY


def test_good_neighbours_are_listed_and_read(broken, reading):
    folder = broken[0].path.parent
    good = [path.name for path in folder.iterdir() if path.name.startswith("good")]
    assert len(good) > 20
    for name in good:
        assert reading["each"][name].get("read"), name
        assert reading["scans"][name].get("read"), name
    assert {name for name in good if name != "good series"} <= set(reading["listed"])


def test_links_to_folders_pipes_and_folders_are_not_listed(broken, reading):
    apart = ("link to a folder", "link to itself", "broken link", "named pipe", "folder named like an image")
    for each in broken:
        if each.kind in apart or each.kind == "socket":
            assert each.path.name not in reading["listed"] and each.path.name not in reading["scans"]
    assert not [name for name in (*reading["listed"], *reading["scans"]) if name.count("/") and "up" in name]


def test_a_folder_that_may_not_be_opened_is_a_scan_that_says_so(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    np.save(tmp_path / "notes.npy", np.zeros(3))
    broken_files.PIL.Image.new("L", (9, 9)).save(tmp_path / "x.png")
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert [scan.name for scan in io.scans(tmp_path)] == ["closed", "x.png"]
    with pytest.raises(UserError, match="closed.*cannot be listed"):
        io.read(io.scans(tmp_path)[0])
    with pytest.raises(UserError, match="closed.*Permission denied"):
        io.list_images(tmp_path, recursive=True)


def test_the_limit_of_memory_is_the_users(tmp_path, monkeypatch):
    broken_files.nib.save(broken_files.nib.Nifti1Image(np.zeros((64, 64, 64), np.uint8), np.eye(4)), tmp_path / "x.nii")
    monkeypatch.setenv("GANTK_MAX_GIB", "0.0005")
    with pytest.raises(UserError, match="x.nii.*262144 values.*GANTK_MAX_GIB"):
        io.read(tmp_path / "x.nii")
    monkeypatch.setenv("GANTK_MAX_GIB", "much")
    with pytest.raises(UserError, match="GANTK_MAX_GIB is 'much'"):
        io.read(tmp_path / "x.nii")
    monkeypatch.setenv("GANTK_MAX_GIB", "0.001")
    assert io.read(tmp_path / "x.nii").pixels.shape == (1, 64, 64, 64)
