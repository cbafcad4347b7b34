"""Many files, large volumes, and two processes at once: what a translation costs and who may write."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tomli_w
from one_pipeline import model_of
from PIL import Image
from tiny import python

from gantk.errors import GantkError, UserError
from gantk.files import lock_folder
from gantk.inference.frame import TranslateOptions
from gantk.inference.translation import Translation
from gantk.progress import progress_to

FILES = 2000
PART = 400
VOLUME = 192  # planes of 512 x 512: 201 MB as float32
MEASURE = """
import json, resource, sys
import gantk
peaks = []
model = gantk.load(sys.argv[1], device="cpu")
for name in (*["small.nii"] * 6, "large.nii"):
    gantk.translate(model, name, "out.nii", say=lambda line: None)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
print(json.dumps(peaks))
"""


def translate(source: Path, target: Path) -> list[str]:
    said = []
    same = model_of(lambda seen: seen)
    Translation(same, None, TranslateOptions(), None, said.append).path(source, target)
    return said


def pictures(folder: Path, count: int) -> Path:
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 250, (64, 32, 32), np.uint8)
    for number in range(count):
        Image.fromarray(np.roll(noise[number % 64], number // 64, 0)).save(
            folder / f"slice-{number:05d}.png"
        )
    return folder


@pytest.mark.slow
def test_each_of_thousands_of_files_costs_as_much_as_the_first(tmp_path):
    source = pictures(tmp_path / "in", FILES)
    marks = []

    def written() -> int:
        if sys.platform == "linux":
            return int(Path("/proc/self/io").read_text().split("wchar: ")[1].split()[0])
        return 0

    before = written()
    with progress_to(lambda share, line: marks.append((line, time.process_time(), written()))):
        translate(source, tmp_path / "out")
    begun = [
        next(mark for mark in marks if f"slice-{n:05d}.png" in mark[0])
        for n in (20, 20 + PART, -PART + FILES - 1)
    ]
    begun.append(marks[-1])
    first, last = (end[1] - start[1] for start, end in (begun[:2], begun[2:]))

    assert last < 1.6 * first, (
        f"{1000 * first / PART:.2f} ms a file at first, {1000 * last / PART:.2f} ms at last"
    )
    results = sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert written() - before < results + 500 * FILES
    assert not list(tmp_path.glob(".*"))
    assert len(list((tmp_path / "out").iterdir())) == FILES


def test_a_damaged_ledger_is_none(tmp_path):
    source = pictures(tmp_path / "in", 6)
    (source / "slice-00004.png").write_bytes(b"no picture")

    with pytest.raises(GantkError, match="1 of 6 images"):
        translate(source, tmp_path / "out")

    ledger = tmp_path / ".out.translation.json"
    text = ledger.read_text()
    (source / "slice-00004.png").write_bytes((source / "slice-00003.png").read_bytes())

    assert "5 of 6 inputs were already translated" in translate(source, tmp_path / "out")[-1]
    for damaged in (text[:-4], "[]", "\0" * 50, ""):
        ledger.write_text(damaged)
        assert "already translated" not in translate(source, tmp_path / "out")[-1]
        assert not ledger.exists()


def test_no_translation_into_the_folder_of_a_training(tmp_path):
    source = pictures(tmp_path / "in", 2)
    busy = threading.Event()
    free = threading.Event()
    (tmp_path / "run").mkdir()

    def train() -> None:
        with lock_folder(tmp_path / "run"):
            busy.set()
            free.wait(60)

    training = threading.Thread(target=train)
    training.start()

    assert busy.wait(60)

    try:
        with pytest.raises(UserError, match=f"in use: process {os.getpid()} on "):
            translate(source, tmp_path / "run")
    finally:
        free.set()
        training.join()

    assert translate(source, tmp_path / "run")[-1].startswith("written  2 files")
    assert len(list((tmp_path / "run").iterdir())) == 2


@pytest.mark.slow
def test_two_translations_into_one_folder_do_not_mix(tiny_run, tmp_path):
    source = pictures(tmp_path / "in", 300)
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "gantk",
        "translate",
        str(tiny_run),
        str(source),
        str(out),
        "--device",
        "cpu",
    ]

    def start() -> subprocess.Popen:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "400"}
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    one = start()
    while one.poll() is None and not (out.is_dir() and len(list(out.glob("*.png"))) > 5):
        threading.Event().wait(0.02)

    one.send_signal(signal.SIGSTOP)  # so that it is not over too soon
    other = start()
    _, said = other.communicate(timeout=300)

    assert other.returncode == 2
    assert f"process {one.pid} on " in said
    assert "Traceback" not in said

    one.kill()
    one.communicate()
    done = len(list(out.glob("*.png")))
    again = start()
    told, said = again.communicate(timeout=300)

    assert again.returncode == 0, said
    earlier = int(told.split(" of 300 inputs were already translated")[0].split()[-1])
    assert done - 1 <= earlier <= done
    assert len(list(out.iterdir())) == 300
    assert not list(tmp_path.glob(".*"))
    assert all(np.asarray(Image.open(path)).shape == (32, 32) for path in out.iterdir())


def peak_of_a_volume(run, folder: Path, kind: type, small: tuple, large: tuple) -> float:
    """How much more memory the larger of two volumes (i, j, k) takes, in its own float32 sizes.

    The smaller one is translated until the model's own memory, kept between batches, has its full
    size: after two batches it still grows by one such volume, whatever their sizes.
    """
    noise = np.random.default_rng(0).uniform(50, 200, large[:2]).astype(kind)
    noise[[0, -1]] = 0  # a mask
    for name, shape in (("small.nii", small), ("large.nii", large)):
        plane = noise[:: large[0] // shape[0], :, None]
        voxels = np.broadcast_to(plane, shape)
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / name)

    peaks = json.loads(python("-c", MEASURE, run, cwd=folder).ok().out)
    return (peaks[-1] - peaks[-2]) / (4 * np.prod(large))


@pytest.mark.slow
@pytest.mark.parametrize(("dims", "kind"), [(2, np.float32), (2, np.int16), (3, np.float32)])
def test_a_volume_takes_little_more_memory_than_its_own(dims, kind, tmp_path):
    from tiny import PATCHGAN, UNET, small_run

    run = small_run(
        tmp_path,
        {"name": "dualgan", "generator": UNET, "discriminator": PATCHGAN},
        size=[32] * dims,
        dims=dims,
    )
    sizes = peak_of_a_volume(run, tmp_path, kind, (64, 512, 32), (512, 512, VOLUME))
    assert sizes <= 2.2


@pytest.mark.slow
@pytest.mark.parametrize("kind", [np.float32, np.int16])
def test_a_volume_at_full_resolution_takes_little_more_memory(kind, tmp_path):
    sizes = peak_of_a_volume("t1t2", tmp_path, kind, (256, 256, 32), (256, 256, 180))
    assert sizes <= 2.2


@pytest.mark.slow
@pytest.mark.parametrize("plane", ["coronal", "sagittal"])
def test_a_volume_off_its_grid_takes_little_more_memory(plane, tmp_path):
    from tiny import PATCHGAN, UNET, small_run

    method = {"name": "dualgan", "generator": UNET, "discriminator": PATCHGAN}
    run = small_run(tmp_path, method)
    recipe = run / "recipe.toml"
    tables = tomllib.loads(recipe.read_text())
    tables["data"] |= {"plane": plane, "spacing": [0.8, 0.8]}  # as of a run on scans of 0.8 mm
    recipe.write_text(tomli_w.dumps(tables))
    sizes = peak_of_a_volume(run, tmp_path, np.float32, (64, 512, 32), (512, 512, VOLUME))
    assert sizes <= 2.2
