"""NRRD and MetaImage: read where NIfTI would put them, written with the same header, damaged voxels noticed."""

from __future__ import annotations

import math
import re
import sys

import numpy as np
import pytest
import SimpleITK as sitk

from gantk.errors import UserError
from gantk.formats import files as io
from gantk.formats.image import Image

RNG = np.random.default_rng(0)
NAMES = ["x.mha", "x.mhd", "x.nrrd", "x.nhdr"]
COS, SIN = math.cos(0.3), math.sin(0.3)
OBLIQUE = (COS, -SIN, 0, SIN, COS, 0, 0, 0, 1)
ROLLED = (0, 0, 1, -1, 0, 0, 0, -1, 0)  # sagittal slices


def save(path, array, *, packed=False, direction=None, vector=False, spacing=None, origin=None):
    image = sitk.GetImageFromArray(array, isVector=vector)
    if direction:
        image.SetDirection(direction)
    if spacing:
        image.SetSpacing(spacing)
        image.SetOrigin(origin)
    image.SetMetaData("Remark", "two words")
    sitk.WriteImage(image, str(path), packed)
    return image


def change(path, pattern, to):
    path.write_bytes(re.sub(pattern, to, path.read_bytes(), count=1, flags=re.MULTILINE))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("direction", [OBLIQUE, ROLLED])
def test_volumes_lie_where_nifti_says_and_are_written_with_their_header(tmp_path, name, packed, direction):
    array = RNG.integers(-900, 3000, (6, 7, 8), dtype=np.int16)
    place = dict(direction=direction, spacing=(1 / 3, 0.7, 3), origin=(5.123456789012, -6, 7))
    before = save(tmp_path / name, array, packed=packed, **place)
    save(tmp_path / "x.nii", array, **place)
    image, nifti = io.read(tmp_path / name), io.read(tmp_path / "x.nii")
    np.testing.assert_array_equal(image.pixels, nifti.pixels)
    np.testing.assert_allclose(image.affine, nifti.affine, atol=1e-5)
    assert image.dtype == np.int16 and image.file_shape == (8, 7, 6)
    assert image.spacing == pytest.approx(nifti.spacing, abs=1e-6)
    (tmp_path / "out").mkdir()
    io.write(tmp_path / "out" / name, image)
    after = sitk.ReadImage(str(tmp_path / "out" / name))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(after), array)
    assert after.GetPixelID() == before.GetPixelID() and after.GetMetaData("Remark") == "two words"
    for what in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(after, what)() == pytest.approx(getattr(before, what)(), rel=1e-15, abs=1e-15)
    header = (tmp_path / "out" / name).read_bytes()
    assert (b"CompressedData = True" in header or b"encoding: gzip" in header) == packed
    assert len(list((tmp_path / "out").iterdir())) == (2 if name in ("x.mhd", "x.nhdr") else 1)


@pytest.mark.parametrize("name", NAMES)
def test_an_image_changes_its_format_and_keeps_its_grid(tmp_path, name):
    array = RNG.integers(0, 900, (6, 7, 8), dtype=np.int16)
    save(tmp_path / name, array, direction=ROLLED, spacing=(1, 2, 3), origin=(4, 5, 6))
    image = io.read(tmp_path / name)
    io.write(tmp_path / "y.nii.gz", image)
    nifti = io.read(tmp_path / "y.nii.gz")
    np.testing.assert_array_equal(nifti.pixels, image.pixels)
    np.testing.assert_allclose(nifti.affine, image.affine, atol=1e-5)
    io.write(tmp_path / f"z{name}", nifti)
    again = io.read(tmp_path / f"z{name}")
    np.testing.assert_array_equal(again.pixels, image.pixels)
    np.testing.assert_allclose(again.affine, image.affine, atol=1e-5)


def test_nrrd_counted_to_the_right_is_turned_round(tmp_path):
    save(tmp_path / "x.nrrd", RNG.integers(0, 9, (6, 7, 8), dtype=np.int16), spacing=(1, 2, 3), origin=(4, 5, 6))
    left = io.read(tmp_path / "x.nrrd")
    change(tmp_path / "x.nrrd", rb"left-posterior-superior", b"right-anterior-superior")
    right = io.read(tmp_path / "x.nrrd")
    np.testing.assert_allclose(right.affine, np.diag([-1, -1, 1, 1]) @ left.affine)
    np.testing.assert_array_equal(right.pixels, left.pixels[:, :, ::-1, ::-1])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("packed", [False, True])
def test_pictures_gray_and_in_colour(tmp_path, name, packed):
    gray, colour = RNG.random((9, 7), dtype=np.float32), RNG.integers(0, 65535, (9, 7, 3), dtype=np.uint16)
    save(tmp_path / name, gray, packed=packed)
    image = io.read(tmp_path / name)
    np.testing.assert_array_equal(image.pixels[0], gray)
    io.write(tmp_path / f"y{name}", image)
    np.testing.assert_array_equal(io.read(tmp_path / f"y{name}").pixels[0], gray)
    save(tmp_path / name, colour, packed=packed, vector=True)
    image = io.read(tmp_path / name)
    np.testing.assert_array_equal(image.pixels, colour.transpose(2, 0, 1))
    io.write(tmp_path / f"y{name}", image)
    after = sitk.ReadImage(str(tmp_path / f"y{name}"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(after), colour)
    assert "unsigned" in after.GetPixelIDTypeAsString() and "16" in after.GetPixelIDTypeAsString()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("packed", [False, True])
def test_one_of_several_volumes_or_components_is_chosen(tmp_path, name, packed):
    series = RNG.normal(size=(3, 5, 6, 7)).astype(np.float32)
    save(tmp_path / name, series, packed=packed)
    with pytest.raises(UserError, match=f"{name}.*3 volumes.*--volume"):
        io.read(tmp_path / name)
    for volume in range(3):
        np.testing.assert_array_equal(io.read(tmp_path / name, volume).pixels[0], series[volume])
    io.write(tmp_path / f"y{name}", io.read(tmp_path / name, 2))
    np.testing.assert_array_equal(io.read(tmp_path / f"y{name}").pixels[0], series[2])
    save(tmp_path / name, series, packed=packed, vector=True)
    with pytest.raises(UserError, match=f"{name}.*7 values in each voxel.*--volume"):
        io.read(tmp_path / name)
    np.testing.assert_array_equal(io.read(tmp_path / name, 4).pixels[0], series[..., 4])


@pytest.mark.parametrize("place", [0, 1, 3])
def test_values_of_a_voxel_may_follow_along_any_axis_of_nrrd(tmp_path, place):
    array = RNG.normal(size=(5, 6, 7)).astype(np.float32)  # (k, j, i)
    save(tmp_path / "x.nrrd", array)
    four = np.stack([array * (n + 1) for n in range(4)], axis=3 - place)
    words = {b"sizes": b"7 6 5", b"kinds": b"domain domain domain", b"space directions": b"(1,0,0) (0,1,0) (0,0,1)"}
    apart = {b"sizes": b"4", b"kinds": b"list", b"space directions": b"none"}
    for name, value in words.items():
        parts = value.split()
        parts.insert(place, apart[name])
        change(tmp_path / "x.nrrd", rb"^" + name + rb":.*$", name + b": " + b" ".join(parts))
    change(tmp_path / "x.nrrd", rb"^dimension: 3$", b"dimension: 4")
    content = (tmp_path / "x.nrrd").read_bytes()
    (tmp_path / "x.nrrd").write_bytes(content[: -array.nbytes] + four.tobytes())
    for volume in range(4):
        np.testing.assert_allclose(io.read(tmp_path / "x.nrrd", volume).pixels[0], array * (volume + 1), rtol=1e-6)


def test_big_endian_voxels_are_read(tmp_path):
    array = RNG.integers(-900, 900, (6, 7, 8), dtype=np.int16)
    save(tmp_path / "x.mha", array)
    content = (tmp_path / "x.mha").read_bytes().replace(b"MSB = False", b"MSB = True")
    (tmp_path / "x.mha").write_bytes(content[: -array.nbytes] + array.astype(">i2").tobytes())
    np.testing.assert_array_equal(io.read(tmp_path / "x.mha").pixels[0], array)


@pytest.mark.parametrize("name", ["x.mha", "x.mhd", "x.nrrd", "x.nhdr"])
def test_damaged_compressed_voxels_are_noticed(tmp_path, name):
    save(tmp_path / name, RNG.integers(0, 99, (20, 30, 40), dtype=np.int16), packed=True)
    held = {"x.mhd": "x.zraw", "x.nhdr": "x.raw.gz"}.get(name, name)
    content = bytearray((tmp_path / held).read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / held).write_bytes(content)
    with pytest.raises(UserError, match=name):
        io.read(tmp_path / name)


def test_values_off_the_integers_are_floats(tmp_path):
    save(tmp_path / "x.mha", RNG.integers(0, 99, (6, 7, 8), dtype=np.uint8))
    image = io.read(tmp_path / "x.mha")
    for change_by, kind in ((1e-5, np.uint8), (0.5, np.float32), (300, np.float32)):
        pixels = image.pixels + np.float32(change_by)
        io.write(tmp_path / "y.mha", Image(pixels, image.affine, image.path, image.dtype, image.header))
        after = io.read(tmp_path / "y.mha")
        assert after.dtype == kind
        np.testing.assert_allclose(after.pixels, pixels, atol=2e-5)


def test_remarks_in_latin_1_survive(tmp_path):
    for name in ("x.mha", "x.nrrd"):
        save(tmp_path / name, RNG.integers(0, 99, (6, 7, 8), dtype=np.uint8))
        change(tmp_path / name, rb"two words", b"K\xf6ln")
        io.write(tmp_path / f"y{name}", io.read(tmp_path / name))
        assert "Köln".encode() in (tmp_path / f"y{name}").read_bytes()


def test_what_does_not_fit_is_refused(tmp_path):
    save(tmp_path / "x.mha", RNG.integers(0, 99, (6, 7, 8), dtype=np.uint8))
    image = io.read(tmp_path / "x.mha")
    with pytest.raises(UserError, match="do not fit the grid"):
        io.write(tmp_path / "y.mha", Image(image.pixels[:, :3], image.affine, image.path, image.dtype, image.header))
    with pytest.raises(UserError, match="3 channels does not fit"):
        io.write(tmp_path / "y.mha", Image(np.repeat(image.pixels, 3, 0), image.affine, header=image.header))
    assert not (tmp_path / "y.mha").exists()


def test_no_library_is_needed(tmp_path, monkeypatch):
    array = RNG.integers(0, 99, (6, 7, 8), dtype=np.uint8)
    save(tmp_path / "x.nrrd", array)
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    io.write(tmp_path / "y.mha", io.read(tmp_path / "x.nrrd"))
    np.testing.assert_array_equal(io.read(tmp_path / "y.mha").pixels[0], array)
