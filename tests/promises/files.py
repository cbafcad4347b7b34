"""What the promises are tested with: files made from seeds, tiny recipes, and the command line,
here or as a process.

Nothing of gantk is imported here but its public names, so that these tests outlive any change
inside.
"""

import contextlib
import io
import json
import os
import runpy
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import dicom_files
import nibabel as nib
import numpy as np
import tiny
from packages import put_distribution
from PIL import Image
from tiny import Outcome

HERE = Path(__file__).parent
QUIET = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "COLUMNS": "400",
    "PYTHONDONTWRITEBYTECODE": "1",
}
TINY: dict[str, Any] = {
    "format": 1,
    "method": {key: tiny.TINY["method"][key] for key in ("name", "generator", "discriminator")},
    "data": tiny.TINY["data"],
    "train": {
        "steps": 1,
        "batch": 2,
        "precision": "fp32",
        "log_every": 1,
        "sample_every": 4,
        "save_every": 2,
    },
    "evaluate": {"metrics": ["psnr"], "samples": 1},
}
NOISE: dict[str, Any] = {
    "method": {
        "name": "dcgan",
        "latent": 8,
        "width": 4,
        "discriminator": {"name": "dcgan", "width": 4, "depth": 3},
    },
    "data": TINY["data"] | {"domains": ["T1"]},
    "evaluate": {"metrics": [{"name": "kid", "features": "random"}], "samples": 1, "images": 8},
}

PLUGIN = '''
import torch
from gantk import Method, Phase, hookimpl


class Nothing(Method):
    """Gives back what it is given."""

    def __init__(self, geometry, *, unused: float = 0.0):
        super().__init__(geometry)
        self.weight = torch.nn.Linear(1, 1)

    def phases(self):
        return [Phase("weight", (self.weight,), lambda batch: {"weight": self.weight.weight.square().sum()})]

    def translate(self, image, to):
        return image


@hookimpl
def gantk_register(add):
    add.method("promised-nothing", Nothing)
'''


def gantk(*args: object, cwd: Path | None = None) -> Outcome:
    """`python -m gantk ...` in this process; anything but an exit is raised, as a user would see a
    traceback.
    """
    out = io.StringIO()
    err = io.StringIO()
    code = 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        stack.enter_context(contextlib.chdir(cwd or Path.cwd()))
        stack.enter_context(mock.patch.object(sys, "argv", ["gantk", *map(str, args)]))
        stack.enter_context(mock.patch.dict(os.environ, COLUMNS=QUIET["COLUMNS"]))
        try:
            runpy.run_module("gantk", run_name="__main__")
        except SystemExit as end:
            code = end.code or 0

    return Outcome(code, out.getvalue(), err.getvalue())


def process(
    *words: object, cwd: Path, before: Sequence[str] = ("-m", "gantk"), **more: str
) -> subprocess.Popen:
    """`python -m gantk WORDS` as a process of its own, in a group of its own, on one thread."""
    return subprocess.Popen(
        [sys.executable, *before, *map(str, words)],
        cwd=cwd,
        env=os.environ | QUIET | more,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(started: subprocess.Popen, timeout: float = 600) -> Outcome:
    """What a process left, once it has ended."""
    try:
        out, err = started.communicate(timeout=timeout)
    finally:
        started.kill()
    return Outcome(started.returncode, out, err)


def wait_until(true: Callable[[], bool], started: subprocess.Popen) -> None:
    """Look again and again; a process that ends before is an error."""
    while not true():
        if started.poll() is not None:
            raise AssertionError(f"it ended too early: {ended(started)}")
        time.sleep(0.002)


def log_of(run: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's log."""
    path = run / "log.jsonl"
    lines = path.read_text("utf-8").split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def saved(run: Path) -> list[str]:
    """The names of a run's whole checkpoints, the newest last."""
    return sorted(path.name for path in (run / "checkpoints").glob("step-*"))


def several(*commands: Sequence[object], cwd: Path, installed: Path) -> list[Outcome]:
    """What `gantk` commands left, one after the other in a process that sees what is installed."""
    given = json.dumps([[str(word) for word in command] for command in commands])
    code = (
        "import files, json, sys; print(json.dumps([vars(files.gantk(*c)) for c in"
        " json.loads(sys.argv[1])]))"
    )
    path = os.pathsep.join(
        [str(installed), str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    )
    done = ended(process(given, cwd=cwd, before=("-c", code), PYTHONPATH=path)).ok()
    return [Outcome(**each) for each in json.loads(done.out)]


def python(*args: object, installed: Path | None = None, cwd: Path = HERE) -> Outcome:
    """Python as a process of its own, with these tests' modules and what is installed in a folder
    on its path.
    """
    paths = [installed, HERE.parent, os.environ.get("PYTHONPATH")]
    return ended(
        process(
            *args,
            cwd=cwd,
            before=(),
            PYTHONPATH=os.pathsep.join(str(path) for path in paths if path),
        )
    )


def install_plugin(folder: Path, name: str = "promised_plugin", source: str = PLUGIN) -> Path:
    """A distribution of one module, as pip would have installed it into the folder; ours changes
    nothing.
    """
    return put_distribution(
        folder, name.replace("_", "-"), name, source, name.removeprefix("gantk_")
    )


def recipe(path: Path, tables: dict = TINY, **changes: dict) -> Path:
    """A recipe file; `changes` are merged into its tables."""
    merged = {
        name: table | changes[name] if name in changes else table for name, table in tables.items()
    }
    return tiny.write_toml(path, merged)


def numbers(
    seed: int, shape: Sequence[int], low: float = 0, high: float = 255, kind: type = np.uint8
) -> np.ndarray:
    """Random values that are smooth enough to be an image: blobs on a slope, with noise; no two
    seeds alike.
    """
    rng = np.random.default_rng([seed, *shape])
    grid = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij")
    image = 0.1 * rng.random(shape) + 0.1 * grid[-1]
    for _ in range(6):
        centre = rng.uniform(-0.7, 0.7, len(shape))
        width = rng.uniform(0.1, 0.4)
        away = sum((axis - c) ** 2 for axis, c in zip(grid, centre, strict=True))
        image += rng.random() * np.exp(-away / width**2 / 2)

    image = low + (high - low) * (image - image.min()) / np.ptp(image)
    return (image.round() if np.issubdtype(kind, np.integer) else image).astype(kind)


def picture(path: Path, values: np.ndarray) -> Path:
    """A PNG or TIFF file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def pictures(
    folder: Path, count: int, *, seed: int = 0, size: Sequence[int] = (32, 32), name: str = "slice"
) -> Path:
    """A folder of PNG pictures."""
    for number in range(count):
        picture(folder / f"{name}-{number:02d}.png", numbers(1000 * seed + number, size))
    return folder


def two_domains(folder: Path, a: int = 16, b: int = 16) -> Path:
    """trainA and trainB with pictures of unknown people."""
    pictures(folder / "trainA", a, seed=1)
    pictures(folder / "trainB", b, seed=2)
    return folder


def patients(folder: Path, count: int, size: Sequence[int] = (24, 24, 3)) -> Path:
    """A folder for each patient with a T1 and a T2 volume."""
    for number in range(count):
        for k, domain in enumerate(("T1", "T2")):
            values = numbers(10 * number + k, size, 0, 800 + 300 * k, np.int16)
            nifti(folder / f"p{number:02d}" / f"p{number:02d}_{domain}.nii.gz", values)
    return folder


OBLIQUE = np.array([[0.1, -0.8, 0.3, 90], [0.9, 0.1, 0, -120], [0.05, -0.2, -3, -70], [0, 0, 0, 1]])


def nifti(
    path: Path, values: np.ndarray, affine: np.ndarray | None = None, scale: tuple | None = None
) -> Path:
    """A NIfTI file; `scale` is the header's slope and intercept, and `values` are then what is
    stored.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(values, np.diag([1.0, 1.0, 2.0, 1.0]) if affine is None else affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    if scale:  # into the header of a .nii itself: nibabel would choose other stored numbers
        with path.open("r+b") as file:
            file.seek(112)
            file.write(struct.pack("<ff", *scale))

    return path


def series(
    folder: Path, values: np.ndarray, modality: str = "MR", skip: Sequence[int] = ()
) -> Path:
    """A DICOM series of int16 slices, sagittal and leaning, with names that say nothing of the
    order.
    """
    axes = (0.0, 1.0, 0.0), (0.6, 0.0, -0.8)
    dicom_files.series(folder, values, modality=modality, axes=axes, skip=skip, prefix="")
    return folder


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder: the bytes of each file, None for a folder."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    return {name: path.read_bytes() if path.is_file() else None for name, path in found.items()}


def every_kind(folder: Path) -> Path:
    """One file or series of every kind that gantk reads and writes."""
    import SimpleITK as sitk

    nifti(folder / "oblique.nii.gz", numbers(1, (40, 50, 6), -50, 3000, np.int16), OBLIQUE)
    nifti(
        folder / "scaled.nii",
        numbers(2, (30, 34, 5), 0, 400, np.int16),
        np.diag([-1, -1, 2.5, 1]),
        (2.0, -1024.0),
    )
    nifti(folder / "floats.nii.gz", numbers(3, (32, 33, 4), -2, 900, np.float32), OBLIQUE)
    nifti(folder / "bytes.nii.gz", numbers(4, (32, 32, 4)), OBLIQUE)
    kinds = (
        ("lps.nrrd", np.int16, 2000),
        ("header.mha", np.float32, 700),
        ("bytes.mha", np.uint8, 99),
    )
    for name, kind, high in kinds:
        image = sitk.GetImageFromArray(numbers(5, (4, 30, 36), 0, high, kind))
        image.SetSpacing((0.7, 0.9, 3.0))
        image.SetOrigin((11.0, -22.0, 33.0))
        image.SetDirection((0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0))
        sitk.WriteImage(image, str(folder / name))

    picture(folder / "deep" / "eight.png", numbers(6, (97, 71)))
    picture(folder / "deep" / "sixteen.png", numbers(7, (33, 47), 0, 4000, np.uint16))
    picture(folder / "deep" / "floats.tif", numbers(8, (32, 32), -1.5, 990, np.float32))
    picture(folder / "deep" / "sixteen.tif", numbers(9, (40, 32), 0, 60000, np.uint16))
    series(folder / "mr", numbers(10, (5, 24, 20), 0, 900, np.int16))
    series(folder / "ct", numbers(11, (4, 24, 20), 0, 3000, np.int16), "CT")
    return folder
