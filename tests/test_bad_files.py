"""Broken files: each gets one message that names it, and its neighbours are still read."""

from __future__ import annotations

import gzip
import os
import random
import re

import dicom_files
import nibabel as nib
import numpy as np
import PIL.Image
import pytest
import SimpleITK as sitk

from gantk.errors import UserError
from gantk.formats import files as io


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    """One small whole file of each kind, by name."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("whole")
    volume, picture = rng.integers(0, 900, (9, 8, 7), np.int16), rng.integers(0, 256, (40, 30), np.uint8)
    for name in ("x.nii", "x.nii.gz"):
        nib.save(nib.Nifti1Image(volume, np.diag([-1.5, 1.0, 2.0, 1.0])), folder / name)
    nib.save(nib.Nifti2Image(volume.astype(np.float32), np.eye(4)), folder / "two.nii")
    for name in ("x.nrrd", "gz.nrrd", "x.mha", "zlib.mha"):
        sitk.WriteImage(sitk.GetImageFromArray(volume), str(folder / name), name[0] != "x")
    for name in ("x.png", "x.jpg", "x.bmp", "x.tif"):
        PIL.Image.fromarray(picture).save(folder / name)
    dicom_files.series(folder, dicom_files.head(1), prefix="slice")
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def field(content: bytes, **values: object) -> bytes:
    """A NIfTI-1 file with fields of its header changed."""
    changed = bytearray(content)
    for name, value in values.items():
        np.frombuffer(changed, nib.nifti1.header_dtype, count=1)[name] = value
    return bytes(changed)


def line(content: bytes, name: str, value: str) -> bytes:
    """A NRRD or MetaImage file with one line of its header changed."""
    return re.sub(rf"^({name} ?[=:] ?).*$".encode(), rb"\g<1>" + value.encode(), content, count=1, flags=re.MULTILINE)


def broken_files(whole: dict[str, bytes]) -> list[tuple[str, bytes]]:
    """Files that have to be refused, but for "flipped" ones, which may still be read."""
    rng, one, mha, nrrd = random.Random(0), whole["x.nii"], whole["x.mha"], whole["x.nrrd"]
    made: list[tuple[str, bytes]] = []
    for name, content in whole.items():
        made += [(f"cut.{name}", content[: int(len(content) * part)]) for part in (0.03, 0.3, 0.6, 0.9)]
        made += [(f"empty.{name}", b""), (f"noise.{name}", rng.randbytes(900)), (f"text.{name}", b"<html>404" * 90)]
        for bits in (1, 2, 4, 8):
            flipped = bytearray(content)
            for _ in range(bits):
                flipped[rng.randrange(min(len(content), 352))] ^= 1 << rng.randrange(8)
            made.append((f"flipped.{name}", bytes(flipped)))
    for bad in (0.0, np.nan, np.inf):
        made.append(("spacing.nii", field(one, pixdim=[1, 1, bad, 1, 1, 1, 1, 1])))
        made.append(("spacing.mha", line(mha, "ElementSpacing", f"1 {bad} 1")))
    made += [("affine.nii", field(one, **{row: [0, 0, 0, 0]})) for row in ("srow_x", "srow_y", "srow_z")]
    made.append(("affine.mha", line(mha, "TransformMatrix", "1 0 0 1 0 0 0 0 1")))
    for sides in ([3, 30, 30, 30], [0], [9, 9, 8, 7], [3, -9, 8, 7], [3, 32767, 32767, 32767]):
        content = field(one, dim=(sides + [1] * 8)[:8])
        made += [("sides.nii", content), ("sides.nii.gz", gzip.compress(content, mtime=0))]
    for sides in ("30 30 30", "9 8", "9 8 -7", "0 8 7", "9.5 8 7", "100000 100000 100000"):
        made += [("sides.mha", line(mha, "DimSize", sides)), ("sides.nrrd", line(whole["gz.nrrd"], "sizes", sides))]
    header = mha[: mha.index(b"ElementDataFile")]
    for name in ("../x.raw", "missing.raw", "LIST", "x%03d.raw 1 10 1", "pipe.raw"):
        made.append(("second.mhd", header + f"ElementDataFile = {name}\n".encode()))
        made.append(("second.nhdr", re.sub(rb"\n\n.*", f"\ndata file: {name}\n".encode(), nrrd, flags=re.S)))
    made.append(("second.hdr", one[:348].replace(b"n+1", b"ni1")))
    odd = ("mit Ümlaut.nii.gz", "图像.nii.gz", "50%s %(x)d {y}.nii.gz", "'quoted' \"2\".nii.gz", "e\u0301.NII.GZ")
    return made + [(name, whole["x.nii.gz"][:60]) for name in odd]


def test_each_broken_file_gets_one_message_that_names_it(whole, tmp_path):
    os.mkfifo(tmp_path / "pipe.raw")
    for k, (kind, content) in enumerate(broken_files(whole)):
        path = tmp_path / f"{k:03d} {kind}"
        path.write_bytes(content)
        try:
            assert np.isfinite(io.read(path).pixels).all() and kind.startswith("flipped"), kind
        except UserError as error:
            assert path.name in str(error) and "\n" not in str(error) and len(str(error)) < 1200


def test_good_neighbours_are_listed_and_read_and_what_is_no_file_is_not_listed(whole, tmp_path):
    for name, content in whole.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / f"cut.{name}").write_bytes(content[:50])
    dicom_files.series(tmp_path / "gap", dicom_files.head(), skip=(2,))
    for name in ("pipe.nii", "pipe.png"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "up").symlink_to(tmp_path)
    (tmp_path / "link.png").symlink_to(tmp_path / "x.png")
    (tmp_path / "loop.nii").symlink_to(tmp_path / "loop.nii")
    read, refused = set(), set()
    for scan in io.scans(tmp_path):
        try:
            io.read(scan)
            read.add(scan.name)
        except UserError:
            refused.add(scan.name)
    assert read == {*whole, "link.png"} and refused == {f"cut.{name}" for name in whole} | {"gap"}
    images = {name for name in read | refused if name != "gap" and not name.endswith(".dcm")}
    assert {path.name for path in io.list_images(tmp_path)} == images


def test_the_limit_of_memory_is_the_users(tmp_path, monkeypatch):
    nib.save(nib.Nifti1Image(np.zeros((64, 64, 64), np.uint8), np.eye(4)), tmp_path / "x.nii")
    dicom_files.series(tmp_path / "series", np.zeros((64, 64, 64), np.uint8))
    for limit, message in {"0.0005": "262144 values.*GANTK_MAX_GIB", "much": "GANTK_MAX_GIB is 'much'"}.items():
        monkeypatch.setenv("GANTK_MAX_GIB", limit)
        for name in ("x.nii", "series"):
            with pytest.raises(UserError, match=message):
                io.read(tmp_path / name)
    monkeypatch.setenv("GANTK_MAX_GIB", "0.001")
    assert io.read(tmp_path / "x.nii").pixels.shape == (1, 64, 64, 64)
