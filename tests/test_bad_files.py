"""Broken files: each gets one message that names it, in bounded time and memory, and its neighbours are still read."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import dicom_files
import nibabel as nib
import numpy as np
import PIL.Image
import pytest
import SimpleITK as sitk

from gantk.errors import UserError
from gantk.formats import files as io

MEMORY = 128 * 2**20  # bytes that reading them may add to what reading small whole files takes
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and measures the memory of a process on Linux")


def whole_files(folder: Path) -> dict[str, bytes]:
    """One small whole file of each kind, by name, and a series."""
    rng = np.random.default_rng(0)
    volume, picture = rng.integers(0, 900, (9, 8, 7), np.int16), rng.integers(0, 256, (40, 30), np.uint8)
    folder.mkdir()
    for name in ("x.nii", "x.nii.gz"):
        nib.save(nib.Nifti1Image(volume, np.diag([-1.5, 1.0, 2.0, 1.0])), folder / name)
    nib.save(nib.Nifti2Image(volume.astype(np.float32), np.eye(4)), folder / "two.nii")
    for name in ("x.nrrd", "gz.nrrd", "x.mha", "zlib.mha"):
        sitk.WriteImage(sitk.GetImageFromArray(volume), str(folder / name), name[0] != "x")
    for name in ("x.png", "x.jpg", "x.bmp", "x.tif"):
        PIL.Image.fromarray(picture).save(folder / name)
    PIL.Image.fromarray(picture.astype(np.uint16) * 200).save(folder / "deep.png")
    dicom_files.series(folder, dicom_files.head(1), prefix="slice")
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def field(content: bytes, kind: np.dtype, **values: object) -> bytes:
    """A NIfTI file with fields of its header changed."""
    changed = bytearray(content)
    for name, value in values.items():
        np.frombuffer(changed, kind, count=1)[name] = value
    return bytes(changed)


def line(content: bytes, name: str, value: str) -> bytes:
    """A NRRD or MetaImage file with one line of its header changed."""
    return re.sub(rf"^({name} ?[=:] ?).*$".encode(), rb"\g<1>" + value.encode(), content, count=1, flags=re.MULTILINE)


def png(width: int, height: int, rows: bytes) -> bytes:
    """An 8-bit gray PNG that may declare other sides than its rows have."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(rows)),
             (b"IEND", b"")]  # fmt: skip
    chunks = [struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
              for kind, body in parts]  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def broken_files(whole: dict[str, bytes]) -> dict[str, bytes]:
    """Files that have to be refused, by name, but for "flipped" ones, which may still be read."""
    rng, one, two = random.Random(0), nib.nifti1.header_dtype, nib.nifti2.header_dtype
    made: list[tuple[str, bytes]] = []
    for name, content in whole.items():
        made += [(f"cut.{name}", content[: int(len(content) * part)]) for part in (0.03, 0.3, 0.6, 0.9)]
        made += [(f"empty.{name}", b""), (f"noise.{name}", rng.randbytes(900)), (f"text.{name}", b"<html>404" * 90)]
        for _ in range(6):
            flipped = bytearray(content)
            for _ in range(rng.choice((1, 2, 4, 8))):
                flipped[rng.randrange(min(len(content), 352))] ^= 1 << rng.randrange(8)
            made.append((f"flipped.{name}", bytes(flipped)))
    for bad in (0.0, np.nan, np.inf):
        made += [(f"spacing.{name}", field(whole[name], kind, pixdim=[1, 1, bad, 1, 1, 1, 1, 1]))
                 for name, kind in (("x.nii", one), ("two.nii", two))]  # fmt: skip
        made.append(("spacing.mha", line(whole["x.mha"], "ElementSpacing", f"1 {bad} 1")))
        made.append(("spacing.nrrd", line(whole["x.nrrd"], "space directions", f"({bad},0,0) (0,1,0) (0,0,1)")))
    for name, row in (("srow_y", [0, 0, 0, 0]), ("srow_x", [0, 2, 0, 0]), ("srow_z", [np.nan, 0, 1, 0])):
        made.append(("affine.nii", field(whole["x.nii"], one, **{name: row})))
    made += [("affine.mha", line(whole["x.mha"], "TransformMatrix", "1 0 0 1 0 0 0 0 1")),
             ("affine.nrrd", line(whole["x.nrrd"], "space directions", "(1,0,0) (1,0,0) (0,0,1)"))]  # fmt: skip
    for sides in ([3, 30, 30, 30], [2, 900, 800], [0], [9, 9, 8, 7], [3, -9, 8, 7], [3, 32767, 32767, 32767]):
        content = field(whole["x.nii"], one, dim=(sides + [1] * 8)[:8])
        made += [("sides.nii", content), ("sides.nii.gz", gzip.compress(content, mtime=0))]
    made += [("huge.nii", field(whole["two.nii"], two, dim=[3, 2**40, 2**40, 2, 1, 1, 1, 1])),
             ("huge.nii", field(whole["x.nii"], one, vox_offset=2e9))]  # fmt: skip
    for sides in ("30 30 30", "9 8", "9 8 -7", "0 8 7", "9.5 8 7", "100000 100000 100000"):
        made += [(f"sides.{name}", line(whole[name], key, sides))
                 for name, key in (("x.mha", "DimSize"), ("zlib.mha", "DimSize"), ("gz.nrrd", "sizes"))]  # fmt: skip
    made += [("huge.png", png(*sides, b"\0" * 900)) for sides in ((60000, 60000), (2**31 - 1, 2), (13000, 13000))]
    header = whole["x.mha"][: whole["x.mha"].index(b"ElementDataFile")]
    for name in ("../x.raw", "missing.raw", "LIST", "x%03d.raw 1 10 1", "pipe.raw"):
        made.append(("second.mhd", header + f"ElementDataFile = {name}\n".encode()))
        made.append(("second.nhdr", re.sub(rb"\n\n.*", f"\ndata file: {name}\n".encode(), whole["x.nrrd"], flags=re.S)))
    made.append(("second.hdr", whole["x.nii"][:348].replace(b"n+1", b"ni1")))
    for bad in (np.nan, -np.inf):
        voxels = np.where(np.arange(27).reshape(3, 3, 3) == 13, bad, 1.0).astype(np.float32)
        made.append(("value.nii", nib.Nifti1Image(voxels, np.eye(4)).to_bytes()))
    odd = ("mit Ümlaut.nii.gz", "图像.nii.gz", "--volume 3.nii.gz", "50%s %(x)d {y}.nii.gz", "'quoted' \"2\".nii.gz",
           "a" * 200 + ".nii.gz", "e\u0301.NII.GZ")  # fmt: skip
    made += [(name, whole["x.nii.gz"][:60]) for name in odd]
    return {f"{k:03d} {name}": content for k, (name, content) in enumerate(made)}


@pytest.fixture(scope="module")
def reading(tmp_path_factory):
    """What `read_all` found in a process of its own, which may not hang and may not take much memory; the files."""
    root = tmp_path_factory.mktemp("bad")
    whole, folder = whole_files(root / "whole"), root / "files"
    folder.mkdir()
    broken = broken_files(whole)
    for name, content in (broken | {f"good {name}": content for name, content in whole.items()}).items():
        (folder / name).write_bytes(content)
    dicom_files.series(folder / "series", dicom_files.head())
    dicom_files.series(folder / "gap", dicom_files.head(), skip=(2,))
    for name in ("pipe.raw", "pipe.nii", "pipe.png"):
        os.mkfifo(folder / name)
    (folder / "folder.png").mkdir()
    (folder / "up").symlink_to(folder)
    (folder / "loop.nii").symlink_to(folder / "loop.nii")
    command = [sys.executable, __file__, str(folder)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout) | {"stderr": done.stderr, "broken": broken}


def test_each_broken_file_gets_one_message_that_names_it_and_none_crashes_the_reader(reading):
    assert len(reading["broken"]) > 200 and reading["stderr"] == ""
    for name, outcome in reading["each"].items():
        assert "crash" not in outcome, (name, outcome)
        if "message" in outcome:
            assert name in outcome["message"] and "\n" not in outcome["message"] and len(outcome["message"]) < 1200
    read = [name for name in reading["broken"] if "message" not in reading["each"][name] and "flipped" not in name]
    assert read == []
    assert reading["grown"] < MEMORY


def test_good_neighbours_are_listed_and_read_and_what_is_no_file_is_not_listed(reading):
    for name, outcome in reading["each"].items():
        if name.startswith("good") or name == "series":
            assert "shape" in outcome, (name, outcome)
            assert name == "series" or name.endswith(".dcm") or name in reading["listed"]
    assert reading["scans"]["series"] and not reading["scans"]["gap"]
    apart = {"pipe.nii", "pipe.png", "folder.png", "loop.nii", "up"}
    assert not apart & {*reading["listed"], *reading["scans"]} and not [n for n in reading["scans"] if n[:3] == "up/"]


def test_a_folder_that_may_not_be_opened_is_named(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    PIL.Image.new("L", (9, 9)).save(tmp_path / "x.png")

    def refuse(path, scandir=os.scandir):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    for listing in (io.scans, lambda folder: io.list_images(folder, recursive=True)):
        with pytest.raises(UserError, match="closed' cannot be listed: Permission denied"):
            listing(tmp_path)


def test_the_limit_of_memory_is_the_users(tmp_path, monkeypatch):
    nib.save(nib.Nifti1Image(np.zeros((64, 64, 64), np.uint8), np.eye(4)), tmp_path / "x.nii")
    for limit, message in {"0.0005": "x.nii.*262144 values.*GANTK_MAX_GIB", "much": "GANTK_MAX_GIB is 'much'"}.items():
        monkeypatch.setenv("GANTK_MAX_GIB", limit)
        with pytest.raises(UserError, match=message):
            io.read(tmp_path / "x.nii")
    monkeypatch.setenv("GANTK_MAX_GIB", "0.001")
    assert io.read(tmp_path / "x.nii").pixels.shape == (1, 64, 64, 64)


def read_all(folder: Path) -> dict:
    """What became of each thing in a folder, which scans could be read, and how many bytes that took."""

    def outcome(source) -> dict:
        try:
            image = io.read(source)
            assert np.isfinite(image.pixels).all()
            return {"shape": image.pixels.shape}
        except UserError as error:
            return {"message": str(error)}
        except BaseException as error:
            return {"crash": f"{type(error).__name__}: {error}"}

    def peak() -> int:  # `resource` would count its parent's too
        return 1024 * int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1])

    for path in sorted(folder.glob("good*")):
        io.read(path)
    before = peak()
    resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
    each = {path.name: outcome(path) for path in sorted(folder.iterdir())}
    listed = [str(path.relative_to(folder)) for path in io.list_images(folder, recursive=True)]
    scans = {scan.name: "shape" in outcome(scan) for scan in io.scans(folder)}
    return {"each": each, "listed": listed, "scans": scans, "grown": peak() - before}


if __name__ == "__main__":
    print(json.dumps(read_all(Path(sys.argv[1]))))
