"""What the promises are tested with: files made from seeds, tiny recipes, and the command line as a user calls it.

Nothing of gantk is imported here but its public names, so that these tests outlive any change inside.
"""

from __future__ import annotations

import contextlib
import io
import os
import runpy
import shutil
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import tomli_w
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

TINY = {
    "format": 1,
    "method": {
        "name": "dualgan",
        "generator": {"name": "unet", "width": 4, "depth": 3},
        "discriminator": {"name": "patchgan", "width": 4, "receptive_field": 16},
    },
    "data": {
        "source": {"name": "phantom", "subjects": 6, "slices": 2},
        "domains": ["T1", "T2"],
        "size": [32, 32],
        "split": {"test": 0.2, "validation": 0.2},
    },
    "train": {"steps": 1, "batch": 2, "precision": "fp32", "log_every": 1, "sample_every": 4, "save_every": 2},
    "evaluate": {"metrics": ["psnr"], "samples": 1},
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


@dataclass
class Outcome:
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str


def command(*args: object, cwd: Path | None = None) -> Outcome:
    """`python -m gantk ...` in this process; anything but an exit is raised, as a user would see a traceback."""
    out, err, argv, code = io.StringIO(), io.StringIO(), sys.argv, 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        stack.enter_context(contextlib.chdir(cwd or Path.cwd()))
        try:
            sys.argv = ["gantk", *map(str, args)]
            runpy.run_module("gantk", run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
        finally:
            sys.argv = argv
    return Outcome(code, out.getvalue(), err.getvalue())


def python(*args: object, installed: Path | None = None) -> Outcome:
    """Python as a process of its own, with what is installed in a folder on its path."""
    paths = [str(installed)] if installed else []
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run([sys.executable, *map(str, args)], env=environment, capture_output=True, text=True)
    return Outcome(done.returncode, done.stdout, done.stderr)


def install_plugin(folder: Path) -> Path:
    """A distribution with a method that changes nothing, as pip would have installed it into the folder."""
    info = folder / "promised_plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "promised_plugin.py").write_text(PLUGIN, "utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: promised-plugin\nVersion: 1.0\n", "utf-8")
    (info / "entry_points.txt").write_text("[gantk]\npromised = promised_plugin\n", "utf-8")
    return folder


def recipe(path: Path, tables: dict = TINY, **changes: dict) -> Path:
    """A recipe file; `changes` are merged into its tables."""
    merged = {name: table | changes[name] if name in changes else table for name, table in tables.items()}
    path.write_text(tomli_w.dumps(merged), "utf-8")
    return path


def numbers(seed: int, shape: Sequence[int], low: float = 0, high: float = 255, kind: type = np.uint8) -> np.ndarray:
    """Random values that are smooth enough to be an image: blobs on a slope, with noise; no two seeds alike."""
    rng = np.random.default_rng([seed, *shape])
    grid = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij")
    image = 0.1 * rng.random(shape) + 0.1 * grid[-1]
    for _ in range(6):
        centre, width = rng.uniform(-0.7, 0.7, len(shape)), rng.uniform(0.1, 0.4)
        image += rng.random() * np.exp(
            -sum((axis - c) ** 2 for axis, c in zip(grid, centre, strict=True)) / width**2 / 2
        )
    image = low + (high - low) * (image - image.min()) / np.ptp(image)
    return (image.round() if np.issubdtype(kind, np.integer) else image).astype(kind)


def picture(path: Path, values: np.ndarray) -> Path:
    """A PNG or TIFF file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def pictures(folder: Path, count: int, *, seed: int = 0, size: Sequence[int] = (32, 32), name: str = "slice") -> Path:
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


def nifti(path: Path, values: np.ndarray, affine: np.ndarray | None = None, scale: tuple | None = None) -> Path:
    """A NIfTI file; `scale` is the header's slope and intercept, and `values` are then what is stored."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(values, np.diag([1.0, 1.0, 2.0, 1.0]) if affine is None else affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    if scale:  # into the header of a .nii itself: nibabel would choose other stored numbers
        with path.open("r+b") as file:
            file.seek(112)
            file.write(struct.pack("<ff", *scale))
    return path


def series(folder: Path, values: np.ndarray, modality: str = "MR", skip: Sequence[int] = (), **elements) -> Path:
    """A DICOM series of int16 slices, sagittal and leaning, with names that say nothing of the order."""
    row, column = np.array([0.0, 1.0, 0.0]), np.array([0.6, 0.0, -0.8])
    folder.mkdir(parents=True, exist_ok=True)
    for k, plane in enumerate(values):
        if k in skip:
            continue
        made = FileDataset(None, {}, preamble=b"\0" * 128)
        made.file_meta = FileMetaDataset()
        made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        made.SOPClassUID, made.SOPInstanceUID = {"MR": MRImageStorage, "CT": CTImageStorage}[modality], generate_uid()
        made.Modality, made.ImageType = modality, ["ORIGINAL", "PRIMARY", "OTHER"]
        made.PatientName, made.PatientID, made.PatientBirthDate, made.PatientSex = "Doe^Jane", "P1", "19700101", "F"
        made.StudyInstanceUID, made.StudyDate, made.StudyID = "1.2.826.0.1.3680043.8.498.1", "20200102", "S1"
        made.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.2" + ("1" if modality == "CT" else "")
        made.FrameOfReferenceUID, made.SeriesNumber, made.InstanceNumber = "1.2.826.0.1.3680043.8.498.3", 3, k + 1
        made.PixelSpacing, made.SliceThickness = [1.5, 1.25], 3.0
        made.ImageOrientationPatient = [*row, *column]
        made.ImagePositionPatient = [
            round(float(mm), 6) for mm in (-30.0, -40.0, 10.0) + 3.0 * k * np.cross(row, column)
        ]
        made.Rows, made.Columns = plane.shape
        made.SamplesPerPixel, made.PhotometricInterpretation, made.PixelRepresentation = 1, "MONOCHROME2", 1
        made.BitsAllocated = made.BitsStored = 16
        made.HighBit = 15
        made.PixelData = plane.astype("<i2").tobytes()
        made["PixelData"].VR = "OW"
        for keyword, value in elements.items():
            setattr(made, keyword, value)
        made.save_as(folder / f"{(7 * k + 3) % 19:03d}.dcm", enforce_file_format=True)
    return folder


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder: the bytes of each file, None for a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
    }


def copied(run: Path, target: Path) -> Path:
    """A copy of a run, to be changed."""
    return Path(shutil.copytree(run, target))


def every_kind(folder: Path) -> Path:
    """One file or series of every kind that gantk reads and writes."""
    import SimpleITK as sitk

    nifti(folder / "oblique.nii.gz", numbers(1, (40, 50, 6), -50, 3000, np.int16), OBLIQUE)
    nifti(folder / "scaled.nii", numbers(2, (30, 34, 5), 0, 400, np.int16), np.diag([-1, -1, 2.5, 1]), (2.0, -1024.0))
    nifti(folder / "floats.nii.gz", numbers(3, (32, 33, 4), -2, 900, np.float32), OBLIQUE)
    nifti(folder / "bytes.nii.gz", numbers(4, (32, 32, 4)), OBLIQUE)
    kinds = ("lps.nrrd", np.int16, 2000), ("header.mha", np.float32, 700), ("bytes.mha", np.uint8, 99)
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
    series(folder / "ct", numbers(11, (4, 24, 20), 0, 3000, np.int16), "CT", RescaleSlope=1, RescaleIntercept=-1024)
    return folder
