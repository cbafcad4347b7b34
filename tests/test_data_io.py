"""Files: every kind of image is read as what it is, written without loss on its own grid, and broken ones are named."""

import os
import pickle
import struct
import sys
import tracemalloc
import zlib
from dataclasses import replace

import dicom_files
import nibabel as nib
import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gantk.errors import UserError
from gantk.formats import files as io
from gantk.formats import voxels
from gantk.formats.image import Image

RNG = np.random.default_rng(0)
GRAY8 = RNG.integers(0, 256, (12, 9), dtype=np.uint8)
GRAY16 = RNG.integers(0, 65536, (12, 9), dtype=np.uint16)
COLOUR = RNG.integers(0, 256, (12, 9, 3), dtype=np.uint8)


def save(path, array, **options):
    PIL.Image.fromarray(array).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_8_bit_gray_comes_back(tmp_path, suffix):
    image = io.read(save(tmp_path / f"x{suffix}", GRAY8))
    np.testing.assert_array_equal(image.pixels, GRAY8[None])
    assert image.pixels.dtype == np.float32 and image.dtype == np.uint8 and image.channels == 1 and image.dims == 2


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_gray_keeps_its_bits_there_and_back(tmp_path, suffix):
    image = io.read(save(tmp_path / f"x{suffix}", GRAY16))
    np.testing.assert_array_equal(image.pixels, GRAY16[None])
    io.write(tmp_path / f"y{suffix}", image)
    assert np.asarray(PIL.Image.open(tmp_path / f"y{suffix}")).astype(np.uint16).max() == GRAY16.max()
    assert io.read(tmp_path / f"y{suffix}").dtype == np.uint16


def test_colour_is_three_channels(tmp_path):
    image = io.read(save(tmp_path / "x.png", COLOUR))
    np.testing.assert_array_equal(image.pixels, COLOUR.transpose(2, 0, 1))
    io.write(tmp_path / "y.png", image)
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(tmp_path / "y.png")), COLOUR)


def test_palettes_become_colour_and_transparency_is_dropped(tmp_path):
    palette = PIL.Image.fromarray(COLOUR).quantize(16)
    palette.save(tmp_path / "p.png")
    expected = np.asarray(palette.convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(io.read(tmp_path / "p.png").pixels, expected)
    transparent = np.dstack([COLOUR, GRAY8])
    np.testing.assert_array_equal(io.read(save(tmp_path / "rgba.png", transparent)).pixels, COLOUR.transpose(2, 0, 1))
    PIL.Image.merge("LA", [PIL.Image.fromarray(GRAY8)] * 2).save(tmp_path / "la.png")
    np.testing.assert_array_equal(io.read(tmp_path / "la.png").pixels, GRAY8[None])


def test_float_tiff_keeps_any_value(tmp_path):
    values = RNG.normal(0, 1000, (12, 9)).astype(np.float32)
    image = io.read(save(tmp_path / "x.tif", values))
    np.testing.assert_array_equal(image.pixels[0], values)
    io.write(tmp_path / "y.tif", image)
    np.testing.assert_array_equal(io.read(tmp_path / "y.tif").pixels[0], values)


def test_exif_orientation_of_a_jpeg_is_honoured(tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    picture = np.zeros((16, 32), np.uint8)
    picture[:, :16] = 255
    image = io.read(save(tmp_path / "x.jpg", picture, exif=exif))
    assert image.pixels.shape == (1, 32, 16) and image.pixels[0, :12].mean() > 240 > 10 > image.pixels[0, 20:].mean()


@given(
    pixels=hnp.arrays(np.float32, (1, 4, 5), elements=st.integers(0, 65535)),
    dtype=st.sampled_from([np.uint8, np.uint16, None]),
    suffix=st.sampled_from([".png", ".tif", ".nii.gz"]),
)
@settings(max_examples=40, deadline=None)
def test_whole_numbers_survive_every_format_that_takes_them(tmp_path_factory, pixels, dtype, suffix):
    path = tmp_path_factory.mktemp("io") / f"x{suffix}"
    io.write(path, Image(pixels, dtype=None if dtype is None else np.dtype(dtype)))
    np.testing.assert_array_equal(io.read(path).pixels, pixels)


@pytest.mark.parametrize(
    "name, pixels, dtype",
    [
        ("x.png", [[-5.0, 3.0]], np.uint8),
        ("x.png", [[0.0, 70000.0]], np.uint16),
        ("x.jpg", [[0.0, 300.0]], np.uint8),
        ("x.bmp", [[0.0, 300.0]], np.uint8),
        ("x.png", [[0.25, 0.5]], None),
        ("x.png", [[0.25, 0.5]], np.float32),
    ],
)
def test_what_a_format_cannot_hold_is_refused_and_leaves_nothing(tmp_path, name, pixels, dtype):
    image = Image(np.array([pixels], np.float32), dtype=None if dtype is None else np.dtype(dtype))
    with pytest.raises(UserError, match="do not fit") as error:
        io.write(tmp_path / name, image)
    assert ".tif" in str(error.value) and ".nii.gz" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_brighter_than_8_bits_becomes_16_bits(tmp_path):
    io.write(tmp_path / "x.png", Image(np.array([[[0.0, 300.0]]], np.float32), dtype=np.dtype(np.uint8)))
    assert io.read(tmp_path / "x.png").pixels.max() == 300


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = save(tmp_path / "x.png", GRAY8)
    before = path.read_bytes()
    with pytest.raises(UserError):
        io.write(path, Image(np.array([[[-1.0, 0.0]]], np.float32), dtype=np.dtype(np.uint8)))
    with pytest.raises(UserError, match="not finite"):
        io.write(path, Image(np.array([[[np.nan, 0.0]]], np.float32)))
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["x.png"]


@pytest.mark.parametrize("name", ["x.png", "x.nii.gz", "x.mhd"])
def test_a_place_that_cannot_be_written_is_named(tmp_path, name):
    image = Image(np.zeros((1, 9, 8), np.float32))
    (tmp_path / name / "inside").mkdir(parents=True)
    (tmp_path / "file").write_text("no folder")
    for path in (tmp_path / name, tmp_path / "file" / name):
        with pytest.raises(UserError, match=f"{name}' cannot be written"):
            io.write(path, image)
    assert sorted(os.listdir(tmp_path)) == sorted([name, "file"])


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.tif", "x.nii.gz", "x.nii"])
@pytest.mark.parametrize("content", ["random", "pickle", "empty", "text"])
def test_what_is_no_image_is_named_whatever_its_suffix(tmp_path, name, content):
    bytes_of = {
        "random": np.random.default_rng(1).bytes(600),
        "pickle": pickle.dumps({"a": np.zeros(50)}),
        "empty": b"",
        "text": b"<html>404</html>" * 30,
    }
    (tmp_path / name).write_bytes(bytes_of[content])
    with pytest.raises(UserError, match=name):
        io.read(tmp_path / name)


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.tif", "x.bmp", "x.nii", "x.nii.gz"])
@pytest.mark.parametrize("part", [0.3, 0.7])
def test_a_file_cut_short_is_named(tmp_path, name, part):
    noise = np.random.default_rng(2).integers(0, 256, (64, 64), dtype=np.uint8)
    if name.startswith("x.nii"):
        nib.save(nib.Nifti1Image(noise, np.eye(4)), tmp_path / name)
    else:
        save(tmp_path / name, noise)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(UserError, match=name):
        io.read(tmp_path / name)


def test_missing_files_folders_and_unknown_suffixes_are_named(tmp_path):
    (tmp_path / "x.png").mkdir()
    for name in ("y.png", "x.png", "z.xyz"):
        with pytest.raises(UserError, match=name):
            io.read(tmp_path / name)
    with pytest.raises(UserError, match="does not exist"):
        io.list_images(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_16_bit_colour_keeps_its_bits_there_and_back(tmp_path, name):
    deep = RNG.integers(0, 65536, (3, 12, 9)).astype(np.float32)
    io.write(tmp_path / name, Image(deep, dtype=np.dtype(np.uint16)))
    image = io.read(tmp_path / name)
    np.testing.assert_array_equal(image.pixels, deep)
    assert image.dtype == np.uint16
    dark = Image(deep // 256, dtype=np.dtype(np.uint16))  # which would fit into 8 bits
    io.write(tmp_path / name, dark)
    assert io.read(tmp_path / name).dtype == np.uint16


@pytest.mark.parametrize("colours, channels", [(2, 3), (6, 3), (4, None)])
def test_depth_that_would_be_lost_is_read_or_refused(tmp_path, monkeypatch, colours, channels):
    values = {2: 3, 4: 2, 6: 4}[colours]
    header = struct.pack(">IIBBBBB", 2, 2, 16, colours, 0, 0, 0)  # 2 x 2, 16 bits, RGB, gray or RGB with transparency
    rows = b"".join(b"\0" + np.arange(2 * values, dtype=">u2").tobytes() for _ in range(2))
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    if channels:
        expected = np.arange(2 * values).reshape(2, values)[:, :3].T
        np.testing.assert_array_equal(io.read(tmp_path / "deep.png").pixels[:, 0], expected)
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(UserError, match="16 bits in each.*gantk\\[dicom\\]"):
        io.read(tmp_path / "deep.png")
    with pytest.raises(UserError, match="do not fit into a colour PNG"):
        io.write(tmp_path / "y.png", Image(np.full((3, 4, 4), 300, np.float32), dtype=np.dtype(np.uint16)))


def test_pages_are_refused(tmp_path):
    first, *others = [PIL.Image.fromarray(GRAY8)] * 3
    first.save(tmp_path / "pages.tif", save_all=True, append_images=others)
    with pytest.raises(UserError, match="3 pages"):
        io.read(tmp_path / "pages.tif")


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def nifti(path, shape=(6, 7, 8), codes="RAS", dtype=np.int16, kind=nib.Nifti1Image, slope=None):
    values = np.arange(np.prod(shape), dtype=dtype).reshape(shape)
    affine = nib.orientations.inv_ornt_aff(
        nib.orientations.ornt_transform(nib.orientations.axcodes2ornt(codes), nib.orientations.axcodes2ornt("RAS")),
        (6, 7, 8),
    )
    affine = np.linalg.inv(np.linalg.inv(affine)) @ np.diag([1.5, 0.8, 3.0, 1])
    affine[:3, 3] = [-20, 11, 5]
    image = kind(values, affine)
    image.set_sform(affine, code=4)
    image.set_qform(affine, code=1)
    if slope:
        image.header.set_slope_inter(*slope)
    nib.save(image, path)
    return values, image


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "PIR", "SAL"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_nifti_is_written_back_on_its_own_grid(tmp_path, codes, kind):
    values, before = nifti(tmp_path / "x.nii.gz", codes=codes, kind=kind)
    image = io.read(tmp_path / "x.nii.gz")
    io.write(tmp_path / "y.nii.gz", image)
    after = nib.load(tmp_path / "y.nii.gz")
    np.testing.assert_array_equal(np.asarray(after.dataobj), values)
    np.testing.assert_array_equal(after.affine, nib.load(tmp_path / "x.nii.gz").affine)
    assert type(after) is kind and after.get_data_dtype() == np.int16
    for field in ("sform_code", "qform_code"):
        assert after.header[field] == before.header[field]
    np.testing.assert_allclose(after.header.get_zooms(), before.header.get_zooms())


@given(flips=st.tuples(*[st.sampled_from([-1, 1])] * 3), order=st.permutations(range(3)))
@settings(max_examples=30, deadline=None)
def test_volumes_stand_upright_whatever_the_order_in_the_file(tmp_path_factory, flips, order):
    path = tmp_path_factory.mktemp("upright") / "x.nii"
    world = np.zeros((6, 6, 6), np.float32)  # x to the right, y to anterior, z to superior
    world[4, 1, 5] = 1  # right, posterior, superior
    stored = np.transpose(world, order)
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for axis, target in enumerate(order):
        affine[target, axis] = flips[target]
        if flips[target] < 0:
            stored = np.flip(stored, axis)
            affine[target, 3] = 5
    nib.save(nib.Nifti1Image(np.ascontiguousarray(stored), affine), path)
    pixels = io.read(path).pixels
    # Planes from inferior up, rows from anterior back, columns from the patient's right.
    assert pixels.shape == (1, 6, 6, 6) and np.argwhere(pixels[0] == 1).tolist() == [[5, 4, 1]]


def test_floats_are_written_as_floats_where_integers_cannot_hold_them(tmp_path):
    nifti(tmp_path / "x.nii")
    image = io.read(tmp_path / "x.nii")
    halves = Image(image.pixels + 0.5, image.affine, image.path, image.dtype, image.header)
    io.write(tmp_path / "y.nii", halves)
    np.testing.assert_array_equal(io.read(tmp_path / "y.nii").pixels, halves.pixels)


def test_the_headers_scale_is_applied(tmp_path):
    scaled = nib.Nifti1Image(np.array([[[0.0, 1.0], [2.0, 3.5]]] * 3) * 100, np.eye(4))
    scaled.set_data_dtype(np.int16)
    nib.save(scaled, tmp_path / "x.nii")
    assert nib.load(tmp_path / "x.nii").dataobj.slope != 1
    assert sorted(np.unique(io.read(tmp_path / "x.nii").pixels.round(1))) == pytest.approx([0, 100, 200, 350], abs=0.1)
    io.write(tmp_path / "y.nii", io.read(tmp_path / "x.nii"))
    np.testing.assert_array_equal(io.read(tmp_path / "y.nii").pixels, io.read(tmp_path / "x.nii").pixels)


@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 1), (1, 9, 7), (9, 1, 7), (9, 7, 1, 1)])
def test_slices_stored_as_nifti_are_two_dimensional_and_keep_their_shape(tmp_path, shape):
    values = np.arange(63, dtype=np.float32).reshape(shape)
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "x.nii.gz")
    image = io.read(tmp_path / "x.nii.gz")
    assert image.pixels.shape == (1, 7, 9)
    io.write(tmp_path / "y.nii.gz", image)
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "y.nii.gz").dataobj), values)


def test_series_and_colour_volumes_are_refused_with_what_to_do(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 3), np.float32), np.eye(4)), tmp_path / "series.nii")
    with pytest.raises(UserError, match=r"3 volumes.*--volume N \(0 to 2\)"):
        io.read(tmp_path / "series.nii")
    colour = np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colour, np.eye(4)), tmp_path / "colour.nii")
    with pytest.raises(UserError, match="colour.nii"):
        io.read(tmp_path / "colour.nii")


def test_values_that_are_not_finite_are_refused(tmp_path):
    values = np.zeros((4, 4, 4), np.float32)
    values[0, 0, 0] = np.nan
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "x.nii")
    with pytest.raises(UserError, match="1 values that are not finite"):
        io.read(tmp_path / "x.nii")


KINDS = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, np.float32, np.float64]


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("name, order", [("x.nii", ">"), ("x.nii.gz", "<"), ("x.hdr", "<")])
def test_nifti_of_every_type_and_byte_order_comes_back(tmp_path, dtype, name, order):
    values = RNG.integers(0, 120, (5, 6, 7)).astype(dtype)
    kind = nib.Nifti1Pair if name == "x.hdr" else nib.Nifti1Image
    header = kind.header_class(endianness=order)
    kind(values, np.diag([2, 2, 3, 1.0]), header, dtype=dtype).to_filename(tmp_path / name)
    image = io.read(tmp_path / name)
    assert image.dtype == np.dtype(dtype) and image.dtype.isnative
    (tmp_path / "out").mkdir()
    io.write(tmp_path / "out" / name, image)
    after = nib.load(tmp_path / "out" / name)
    np.testing.assert_array_equal(np.asarray(after.dataobj), values)
    assert after.get_data_dtype().newbyteorder("=") == (np.float32 if dtype == np.float64 else dtype)
    assert sorted(os.listdir(tmp_path / "out")) == sorted({name, name.replace(".hdr", ".img")})


def test_sform_goes_before_qform_and_both_keep_their_codes(tmp_path):
    oblique = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.2, 0.1, 0.3) * 1.5, [5, -6, 7])
    for codes, affine in {(2, 1): np.diag([1, 2, 3, 1.0]), (0, 1): oblique, (4, 0): np.diag([1, 2, 3, 1.0])}.items():
        image = nib.Nifti1Image(np.arange(210, dtype=np.int16).reshape(5, 6, 7), None)
        image.set_sform(np.diag([1, 2, 3, 1.0]), codes[0])
        image.set_qform(oblique, codes[1])
        nib.save(image, tmp_path / "x.nii")
        before = io.read(tmp_path / "x.nii")
        np.testing.assert_allclose(before.affine, affine, atol=1e-6)
        io.write(tmp_path / "y.nii", before)
        after = nib.load(tmp_path / "y.nii")
        assert (int(after.header["sform_code"]), int(after.header["qform_code"])) == codes
        np.testing.assert_array_equal(after.affine, before.affine)


def test_units_and_remarks_are_kept_and_what_described_other_intensities_is_not(tmp_path):
    image = nib.Nifti1Image(np.arange(210, dtype=np.int16).reshape(5, 6, 7), np.eye(4))
    image.header.set_xyzt_units("micron", "msec")
    image.header["descrip"] = b"scanner one"
    image.header.set_intent("z score", (), name="map")
    image.header["cal_max"] = 90
    nib.save(image, tmp_path / "x.nii")
    io.write(tmp_path / "y.nii", io.read(tmp_path / "x.nii"))
    header = nib.load(tmp_path / "y.nii").header
    assert header.get_xyzt_units() == ("micron", "msec") and bytes(header["descrip"]).startswith(b"scanner one")
    assert header.get_intent()[0] == "none" and header["cal_max"] == 0


@pytest.mark.parametrize("slope, inter", [(0.5, -3.0), (1 / 255, 0.0), (1e-6, 1000.0), (-2.0, 5.0)])
def test_stored_integers_and_their_scale_come_back(tmp_path, slope, inter):
    values, _ = nifti(tmp_path / "x.nii.gz", slope=(slope, inter))
    image = io.read(tmp_path / "x.nii.gz")
    io.write(tmp_path / "y.nii.gz", image)
    before, after = nib.load(tmp_path / "x.nii.gz"), nib.load(tmp_path / "y.nii.gz")
    np.testing.assert_array_equal(io.read(tmp_path / "y.nii.gz").pixels, image.pixels)
    assert after.get_data_dtype() == np.int16 and after.dataobj.slope == before.dataobj.slope
    if slope != 1e-6:  # steps that float32 tells apart
        np.testing.assert_array_equal(after.dataobj.get_unscaled(), before.dataobj.get_unscaled())
    io.write(tmp_path / "z.nii.gz", replace(image, pixels=image.pixels + np.float32(slope / 3)))
    if slope != 1e-6:
        assert nib.load(tmp_path / "z.nii.gz").get_data_dtype() == np.float32


@pytest.mark.parametrize("slope", [np.nan, 0.0, np.inf])
def test_a_slope_that_means_nothing_is_none(tmp_path, slope):
    values, image = nifti(tmp_path / "x.nii")
    content = bytearray((tmp_path / "x.nii").read_bytes())
    content[112:116] = struct.pack("<f", slope)
    (tmp_path / "x.nii").write_bytes(content)
    assert sorted(io.read(tmp_path / "x.nii").pixels.ravel()) == sorted(values.ravel())


def test_one_of_several_volumes_is_read_and_written_as_a_volume(tmp_path):
    values = RNG.normal(size=(5, 6, 7, 4)).astype(np.float32)
    for name in ("x.nii", "x.nii.gz"):
        nib.save(nib.Nifti1Image(values, np.diag([-1, -1, 1, 1.0])), tmp_path / name)
        for volume in range(4):
            image = io.read(tmp_path / name, volume=volume)
            np.testing.assert_array_equal(image.pixels[0], values[..., volume].T)
        io.write(tmp_path / f"y{name}", image)
        np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / f"y{name}").dataobj), values[..., 3])
        with pytest.raises(UserError, match="no volume 4.*0 to 3"):
            io.read(tmp_path / name, volume=4)
    assert io.read(save(tmp_path / "x.png", GRAY8), volume=0).dims == 2
    with pytest.raises(UserError, match="x.png.*--volume"):
        io.read(tmp_path / "x.png", volume=1)


def test_complex_numbers_are_refused(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.complex64), np.eye(4)), tmp_path / "x.nii")
    with pytest.raises(UserError, match="x.nii.*complex"):
        io.read(tmp_path / "x.nii")


def test_integers_that_arithmetic_blurred_are_integers_again(tmp_path):
    values, _ = nifti(tmp_path / "x.nii")
    image = io.read(tmp_path / "x.nii")
    low, high = np.float32(-17.0), np.float32(355.0)
    there_and_back = (image.pixels - low) / (high - low) * 2 - 1
    there_and_back = (there_and_back + 1) / 2 * (high - low) + low
    assert not np.array_equal(there_and_back, image.pixels)
    io.write(tmp_path / "y.nii", replace(image, pixels=there_and_back))
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "y.nii").dataobj), values)
    for change in (0.01, 0.5, 1e6):  # no whole numbers; beyond int16
        io.write(tmp_path / "y.nii", replace(image, pixels=image.pixels + np.float32(change)))
        after = nib.load(tmp_path / "y.nii")
        assert after.get_data_dtype() == np.float32
        np.testing.assert_array_equal(io.read(tmp_path / "y.nii").pixels, image.pixels + np.float32(change))


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
def test_reading_takes_little_more_than_its_result(tmp_path, monkeypatch, name):
    monkeypatch.setattr(voxels, "CHUNK", 2**18)
    nib.save(nib.Nifti1Image(np.zeros((128, 128, 128), np.int16), np.diag([-1, 2, 1, 1.0])), tmp_path / name)
    io.read(tmp_path / name)  # imports
    tracemalloc.start()
    result = io.read(tmp_path / name).pixels.nbytes
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < result + 8 * 2**18


def test_an_image_knows_its_spacing_and_grid(tmp_path):
    nifti(tmp_path / "x.nii", codes="PIR")
    image = io.read(tmp_path / "x.nii")
    steps = dict(zip("ijk", np.linalg.norm(image.affine[:3, :3], axis=0), strict=True))
    axes = "".join(
        "ijk"[n] for n in np.argmax(np.abs(image.affine[:3, :3]), axis=1)[::-1]
    )  # of superior, anterior, right
    assert image.spacing == pytest.approx([steps[axis] for axis in axes])
    assert image.file_shape == (6, 7, 8)
    assert image.grid == io.read(tmp_path / "x.nii").grid and hash(image.grid) is not None
    nifti(tmp_path / "y.nii", codes="PIL")
    assert image.grid != io.read(tmp_path / "y.nii").grid
    assert io.read(save(tmp_path / "x.png", GRAY8)).spacing == (1.0, 1.0)


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "deep.tif", "x.bmp", "x.nii.gz", "4d.nii", "x.nrrd", "colour.mha"])
def test_an_outline_is_what_reading_gives_without_its_values(tmp_path, name):
    volume = 1 if name == "4d.nii" else None
    if name in ("x.png", "x.bmp"):
        save(tmp_path / name, COLOUR)
    elif name == "x.jpg":
        exif = PIL.Image.Exif()
        exif[0x0112] = 6
        save(tmp_path / name, GRAY8, exif=exif)
    elif name == "deep.tif":
        save(tmp_path / name, GRAY16)
    elif name == "4d.nii":
        nib.save(nib.Nifti1Image(np.zeros((4, 5, 6, 2), np.int16), np.diag([2, -1, 1, 1.0])), tmp_path / name)
    else:
        nifti(tmp_path / "x.nii.gz", codes="PIR")
        image = io.read(tmp_path / "x.nii.gz") if name != "colour.mha" else Image(RNG.random((3, 9, 8), np.float32))
        io.write(tmp_path / name, image)
    outline = io.outline(tmp_path / name, volume)
    image = io.read(tmp_path / name, volume)
    assert outline.pixels.shape == image.pixels.shape and outline.grid == image.grid
    assert outline.spacing == image.spacing and not outline.pixels.any()


def test_scans_are_files_and_series(tmp_path):
    save(tmp_path / "b.png", GRAY8)
    nifti(tmp_path / "a scan.nii.gz")
    dicom_files.series(tmp_path / "one", dicom_files.head())
    for k in range(2):
        dicom_files.series(
            tmp_path / "deep/two",
            dicom_files.head() + k,
            prefix=f"S{k}-",
            SeriesInstanceUID=f"1.{k}",
            SeriesNumber=k + 7,
        )
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden").mkdir()
    save(tmp_path / ".hidden/c.png", GRAY8)
    found = {scan.name: scan for scan in io.scans(tmp_path)}
    assert list(found) == ["a scan.nii.gz", "b.png", "deep/two/7-T1_se", "deep/two/8-T1_se", "one"]
    assert [len(scan.files) for scan in found.values()] == [1, 1, 5, 5, 5]
    assert [io.read(scan).dims for scan in found.values()] == [3, 2, 3, 3, 3]
    np.testing.assert_array_equal(io.read(tmp_path / "one").pixels, io.read(found["one"]).pixels)
    assert [scan.name for scan in io.scans(tmp_path, recursive=False)] == ["a scan.nii.gz", "b.png"]
    assert [scan.name for scan in io.scans(tmp_path / "one")] == ["."]
    with pytest.raises(UserError, match="two.*2 DICOM series"):
        io.read(tmp_path / "deep/two")
    with pytest.raises(UserError, match="deep"):
        io.read(tmp_path / "deep")


def test_a_series_is_written_to_a_folder(tmp_path):
    dicom_files.series(tmp_path / "in", dicom_files.head())
    image = io.read(tmp_path / "in")
    io.write(tmp_path / "out.T2", image, "T2")
    np.testing.assert_array_equal(io.read(tmp_path / "out.T2").pixels, image.pixels)


def test_links_to_files_are_followed_and_links_to_folders_are_not(tmp_path):
    (tmp_path / "in/deep").mkdir(parents=True)
    save(tmp_path / "in/deep/x.png", GRAY8)
    save(tmp_path / "out.png", GRAY8)
    (tmp_path / "in/same.png").symlink_to(tmp_path / "in/deep/x.png")
    (tmp_path / "in/other.png").symlink_to(tmp_path / "out.png")
    (tmp_path / "in/again").symlink_to(tmp_path / "in")
    (tmp_path / "in/circle.png").symlink_to(tmp_path / "in/circle.png")
    found = [path.name for path in io.list_images(tmp_path / "in", recursive=True)]
    assert found == ["x.png", "other.png", "same.png"]
    (tmp_path / "link").symlink_to(tmp_path / "in")
    assert len(io.list_images(tmp_path / "link", recursive=True)) == 3


def test_names_are_sorted_as_people_count(tmp_path):
    for number in (10, 9, 100, 1):
        save(tmp_path / f"Image #{number}.png", GRAY8)
    (tmp_path / "._Image #2.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("x")
    assert [path.name for path in io.list_images(tmp_path)] == [f"Image #{n}.png" for n in (1, 9, 10, 100)]


def test_real_files_of_every_kind_are_read(shared_data):
    odd = [*(shared_data / "open_ms").rglob("*.nii.gz"), *(shared_data / "brats2d").rglob("*T1_*.nii.gz")][:4]
    for path in [
        shared_data / "templates/canonical/avg152T1.nii",
        *io.list_images(shared_data / "tumour_yes_no/no")[:20],
        *odd,
    ]:
        image = io.read(path)
        assert np.isfinite(image.pixels).all() and image.pixels.min() < image.pixels.max()


@pytest.mark.parametrize("folder", ["io", "templates", "brainix_dicom"])
def test_real_files_are_written_as_they_were_read(shared_data, tmp_path, folder):
    for scan in io.scans(shared_data / folder):
        try:
            image = io.read(scan)
        except UserError as error:
            assert "--volume" in str(error)
            image = io.read(scan, volume=1)
        target = tmp_path / scan.name
        io.write(target, image)
        after = io.read(target)
        np.testing.assert_array_equal(after.pixels, image.pixels, err_msg=scan.name)
        assert after.dtype == image.dtype and after.spacing == pytest.approx(image.spacing)
        if image.affine is not None:
            np.testing.assert_allclose(after.affine, image.affine, atol=1e-6)
