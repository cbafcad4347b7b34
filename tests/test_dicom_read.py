"""Reading DICOM: order, grid, values, and one message for what cannot be one image."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import dicom_files as made
import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    RLELossless,
)

from gantk.errors import UserError
from gantk.formats import dicom
from gantk.formats import files as io
from gantk.formats.image import to_upright

# Where filters of warnings are set anew for every test, pydicom tells of odd files, which some tests make.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


def by_itk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Upright values and RAS affine, by SimpleITK: a file, or the one series of a folder."""
    names = [str(path)] if path.is_file() else list(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path)))
    image = sitk.ReadImage(names if len(names) > 1 else names[0])
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    affine = np.diag([-1, -1, 1, 1]) @ affine
    return to_upright(sitk.GetArrayFromImage(image).transpose(2, 1, 0).astype(np.float64), affine), affine


def expect_as_itk(path: Path) -> None:
    image = io.read(path)
    values, affine = by_itk(path)
    np.testing.assert_allclose(image.pixels[0].reshape(values.shape), values, rtol=1e-6)
    np.testing.assert_allclose(image.affine, affine, atol=1e-5)


@pytest.mark.parametrize("axes", [made.AXIAL, made.CORONAL, made.SAGITTAL, made.OBLIQUE], ids=str)
def test_a_series_is_sorted_by_position_and_lies_where_simpleitk_says(tmp_path, axes):
    paths = made.series(tmp_path, made.head(), axes=axes)
    (scan,) = io.scans(tmp_path)
    assert list(scan.files) == paths != sorted(paths)
    expect_as_itk(tmp_path)


def test_an_upright_axial_series_starts_below_and_anterior_right(tmp_path):
    numbers = made.head()
    made.series(tmp_path, numbers)
    image = io.read(tmp_path)
    assert np.array_equal(image.pixels[0], numbers)
    assert image.spacing == pytest.approx((3.0, 1.5, 1.25)) and image.file_shape == (20, 24, 5)


def test_ct_is_read_in_hounsfield_units_whether_signed_or_not(tmp_path):
    numbers = made.head(top=3000)
    made.series(tmp_path / "unsigned", numbers.astype(np.uint16), modality="CT")
    made.series(tmp_path / "signed", numbers - 1024, modality="CT", RescaleIntercept=0)
    for folder in ("unsigned", "signed"):
        assert np.array_equal(io.read(tmp_path / folder).pixels[0], numbers - 1024)
        expect_as_itk(tmp_path / folder)


def test_each_slice_has_its_own_rescale(tmp_path):
    numbers = made.head()
    for k, path in enumerate(made.series(tmp_path, numbers)):
        dataset = dcmread(path)
        dataset.RescaleSlope, dataset.RescaleIntercept = 1.5 + k, -10 * k
        dataset.save_as(path)
    expected = numbers * (1.5 + np.arange(5))[:, None, None] - 10 * np.arange(5)[:, None, None]
    np.testing.assert_allclose(io.read(tmp_path).pixels[0], expected, rtol=1e-6)


def test_overlays_in_unused_bits_are_no_values(tmp_path):
    numbers = made.head()
    made.series(tmp_path / "unsigned", (numbers | 0x4000).astype(np.uint16), bits=12)
    assert np.array_equal(io.read(tmp_path / "unsigned").pixels[0], numbers)
    low = made.head() - 500
    made.series(tmp_path / "signed", ((low & 0x0FFF) | 0x3000).astype(np.int16), bits=12)
    assert np.array_equal(io.read(tmp_path / "signed").pixels[0], low)


def test_monochrome1_is_turned_over_unless_its_values_have_a_unit(tmp_path):
    numbers = made.head(1)[0].astype(np.uint16)
    made.save(made.dataset("MR"), tmp_path / "mr.dcm", numbers, bits=12, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(io.read(tmp_path / "mr.dcm").pixels[0], 4095 - numbers)
    made.save(made.dataset("CT"), tmp_path / "ct.dcm", numbers, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(io.read(tmp_path / "ct.dcm").pixels[0], numbers.astype(int) - 1024)


def test_ct_padding_becomes_the_lowest_value_that_was_measured(tmp_path):
    numbers = made.head() + 24
    numbers[:, :3] = -2000
    made.series(tmp_path, numbers, modality="CT", PixelPaddingValue=-2000)
    pixels = io.read(tmp_path).pixels[0]
    assert pixels[:, :3].max() == pixels.min() == -1000


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLosslessSV1, JPEG2000Lossless], ids=lambda uid: uid.keyword)
def test_compressed_slices_are_decoded_to_the_very_numbers(tmp_path, syntax):
    numbers = made.head(1, 64, 48)[0]
    path = tmp_path / "IM000.dcm"
    if syntax == RLELossless:
        made.series(tmp_path, numbers[None], compress=RLELossless)
    else:
        writer = sitk.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.SetFileName(str(path))
        writer.SetUseCompression(True)
        writer.SetCompressor("JPEG2000" if syntax == JPEG2000Lossless else "JPEG")
        writer.Execute(sitk.GetImageFromArray(numbers[None]))
    assert dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID == syntax
    assert np.array_equal(io.read(path).pixels[0], numbers)


def test_a_stream_of_another_size_than_its_header_is_not_decoded(tmp_path):
    path = tmp_path / "jpeg.dcm"
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.SetFileName(str(path))
    writer.SetUseCompression(True)
    writer.SetCompressor("JPEG")
    writer.Execute(sitk.GetImageFromArray(made.head(1, 64, 48)))
    path.write_bytes(path.read_bytes().replace(b"\x00\x40\x00\x30", b"\xff\xf0\xff\xf0"))
    with pytest.raises(UserError, match=r"64 x 48 pixels, and its stream \(65520, 65520\)"):
        io.read(path)


def test_a_file_without_preamble_is_read_by_its_suffix(tmp_path):
    path = made.series(tmp_path, made.head(1))[0]
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.save_as(path, implicit_vr=True, little_endian=True)
    content = path.read_bytes()
    path.write_bytes(content[content.index(b"\x08\x00\x05\x00") :])
    assert np.array_equal(io.read(path).pixels[0], made.head(1)[0])


def test_a_deflated_file_is_read(tmp_path):
    path = made.series(tmp_path, made.head(1))[0]
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path)
    assert np.array_equal(io.read(path).pixels[0], made.head(1)[0])


def test_enhanced_frames_are_sorted_by_position_and_rescaled_each_by_its_own(tmp_path):
    numbers = made.head()
    path = made.enhanced(tmp_path / "enhanced.dcm", numbers, order=[3, 0, 4, 2, 1])
    image = io.read(path)
    assert np.array_equal(image.pixels[0], 2 * numbers + np.arange(5)[:, None, None])
    assert np.array_equal(np.diag(image.affine), [-1.25, -1.5, 3, 1]) and list(image.affine[:3, 3]) == [30, 40, 10]


def test_one_of_several_stacks_in_a_file_is_chosen_by_number(tmp_path):
    path = made.enhanced(tmp_path / "echoes.dcm", made.head(), echoes=2)
    with pytest.raises(UserError, match=r"holds 2 stacks .* --volume, 0 to 1"):
        io.read(path)
    assert np.array_equal(io.read(path, 1).pixels, io.read(path, 0).pixels + 2)


def test_a_missing_slice_is_named_by_its_neighbours(tmp_path):
    paths = made.series(tmp_path, made.head(8), skip=[3])
    with pytest.raises(UserError, match="lacks 1 slice") as told:
        io.read(tmp_path)
    assert f"'{paths[2].name}' and '{paths[3].name}' lie 6 mm apart" in str(told.value)


def test_uneven_slices_are_refused(tmp_path):
    made.series(tmp_path, made.head(4), prefix="low")
    made.series(tmp_path, made.head(4, seed=1), origin=(-30, -40, 23.0), step=5.0, prefix="high")
    with pytest.raises(UserError, match=r"is not evenly spaced: .* 5 %"):
        io.read(tmp_path)


def test_spacing_that_wavers_by_less_than_a_twentieth_is_even(tmp_path):
    for k, path in enumerate(made.series(tmp_path, made.head())):
        dataset = dcmread(path)
        dataset.ImagePositionPatient[2] += 0.07 * (-1) ** k
        dataset.save_as(path)
    assert io.read(tmp_path).spacing[0] == pytest.approx(3.0, abs=0.05)


def test_copies_of_a_slice_are_left_out_with_a_remark(tmp_path):
    paths = made.series(tmp_path, made.head())
    shutil.copy(paths[2], tmp_path / "copy of 2.dcm")
    image = io.read(tmp_path)
    assert np.array_equal(image.pixels[0], made.head())
    assert ["left out 1 of 6 slices" in remark for remark in dicom.remarks(image)] == [True]


def test_two_different_slices_at_one_place_are_named(tmp_path):
    paths = made.series(tmp_path, made.head())
    made.series(tmp_path, made.head(seed=5), skip=[0, 1, 3, 4], prefix="other")
    with pytest.raises(UserError, match="two different slices at one place") as told:
        io.read(tmp_path)
    assert paths[2].name in str(told.value) and "other" in str(told.value)


@pytest.mark.parametrize("degrees", [12.0, -20.0])
def test_a_tilted_stack_comes_onto_a_grid_at_right_angles(tmp_path, degrees):
    """Values are a linear function of the place in the patient, so linear resampling has to give just them back."""
    count, rows, columns, lean = 6, 40, 30, 3.0 * np.tan(np.radians(degrees))
    k, y, x = np.mgrid[:count, :rows, :columns].astype(float)
    place_y, place_z = -40 + 1.5 * y + lean * k, 10 + 3.0 * k
    numbers = np.rint(100 * (place_y + 60) + 100 * place_z).astype(np.int16)
    made.series(tmp_path, numbers, lean=(0, lean, 0))
    image = io.read(tmp_path)
    assert f"tilted by {abs(degrees)} degrees" in dicom.remarks(image)[0]
    assert np.allclose(image.affine[:3, :3], np.diag([-1.25, -1.5, 3.0]))
    d, h, w = np.mgrid[tuple(map(slice, image.pixels.shape[1:]))].astype(float)
    where = np.tensordot(image.affine, np.stack([w, h, d, np.ones_like(w)]), axes=1)
    expected = 100 * (60 - where[1]) + 100 * where[2]
    inside = (-where[1] > -40 + lean * d + 0.1) & (-where[1] < -40 + 1.5 * (rows - 1) + lean * d - 0.1)
    inside &= w < columns
    assert inside.mean() > 0.6 and np.abs(image.pixels[0] - expected)[inside].max() <= 1.0
    assert np.array_equal(image.grid[1], io.outline(io.scans(tmp_path)[0]).grid[1])


def test_an_outline_has_the_grid_of_the_image(tmp_path):
    made.series(tmp_path / "s", made.head(), axes=made.SAGITTAL)
    made.enhanced(tmp_path / "e.dcm", made.head())
    for scan in io.scans(tmp_path):
        assert io.outline(scan).grid == io.read(scan).grid


def test_a_localizer_is_a_scan_for_each_plane(tmp_path):
    for name, axes in (("ax", made.AXIAL), ("co", made.CORONAL), ("sa", made.SAGITTAL)):
        made.series(tmp_path / "loc", made.head(3), axes=axes, prefix=name, SeriesDescription="localizer")
    scans = io.scans(tmp_path)
    assert [scan.name for scan in scans] == [f"loc/3-localizer-{plane}" for plane in ("axial", "coronal", "sagittal")]
    assert [io.read(scan).pixels.shape[0] for scan in scans] == [1, 1, 1]
    with pytest.raises(UserError, match="folder of 3 DICOM series"):
        io.read(tmp_path / "loc")


def test_echoes_of_one_series_are_scans_of_their_own(tmp_path):
    for echo, time in enumerate((15.0, 80.0)):
        made.series(tmp_path, made.head(seed=echo), prefix=f"echo{echo}", EchoTime=time, EchoNumbers=echo + 1)
    scans = io.scans(tmp_path)
    assert [scan.name for scan in scans] == ["3-T1_se-EchoTime_15.0", "3-T1_se-EchoTime_80.0"]
    for echo, scan in enumerate(scans):
        assert np.array_equal(io.read(scan).pixels[0], made.head(seed=echo))


def test_two_series_in_a_folder_are_named_by_number_and_description(tmp_path):
    made.series(tmp_path / "p", made.head(), prefix="a")
    other = {"SeriesInstanceUID": "1.2.3.4", "SeriesNumber": 12, "SeriesDescription": "T2 / tse: fast"}
    made.series(tmp_path / "p", made.head(), prefix="b", **other)
    assert [scan.name for scan in io.scans(tmp_path)] == ["p/3-T1_se", "p/12-T2_tse_fast"]


def test_what_is_no_image_is_left_out_and_named(tmp_path):
    made.series(tmp_path, made.head())
    others = made.no_images(tmp_path)
    (scan,) = io.scans(tmp_path)
    assert len(scan.files) == 5
    with pytest.raises(UserError, match="is no image: Segmentation Storage"):
        io.read(others[0])


def test_a_picture_without_a_place_has_no_affine(tmp_path):
    numbers = made.head(1)[0]
    path = made.save(made.dataset("OT"), tmp_path / "capture.dcm", numbers)
    image = io.read(path)
    assert image.affine is None and np.array_equal(image.pixels[0], numbers)


def test_colour_is_read_as_colour(tmp_path):
    numbers = np.random.default_rng(0).integers(0, 255, (12, 10, 3), dtype=np.uint8)
    path = made.save(made.dataset("OT"), tmp_path / "colour.dcm", numbers)
    assert np.array_equal(io.read(path).pixels, numbers.transpose(2, 0, 1))


def test_palettes_and_luminance_become_rgb(tmp_path):
    rng = np.random.default_rng(0)
    numbers, table = rng.integers(0, 255, (12, 10), dtype=np.uint8), rng.integers(0, 255, (3, 256), dtype=np.uint8)
    palette = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, entries in zip(("Red", "Green", "Blue"), table, strict=True):
        palette[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 8]
        palette[f"{name}PaletteColorLookupTableData"] = entries.tobytes()
    path = made.save(made.dataset("OT"), tmp_path / "palette.dcm", numbers, **palette)
    assert np.array_equal(io.read(path).pixels, table[:, numbers])
    gray = np.stack([numbers, np.full_like(numbers, 128), np.full_like(numbers, 128)], axis=-1)
    path = made.save(made.dataset("OT"), tmp_path / "ybr.dcm", gray, PhotometricInterpretation="YBR_FULL")
    assert np.array_equal(io.read(path).pixels, np.stack([numbers] * 3))


def test_a_series_beyond_the_limit_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    made.series(tmp_path, made.head())
    monkeypatch.setenv("GANTK_MAX_GIB", "0.000005")
    with pytest.raises(UserError, match="Set the environment variable GANTK_MAX_GIB"):
        io.read(tmp_path)


def test_without_the_extra_one_message_says_what_to_install(tmp_path, monkeypatch):
    path = made.series(tmp_path, made.head(1))[0]
    for name in [name for name in sys.modules if name.startswith("gantk.formats.dicom.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UserError, match=r"needs pydicom, which is not installed.*gantk\[dicom\]"):
        io.read(path)


def test_files_are_known_by_their_mark_where_they_have_no_suffix(tmp_path):
    paths = made.series(tmp_path / "s", made.head())
    for k, path in enumerate(paths):
        path.rename(path.with_name(f"1.2.840.{k}"))
    (tmp_path / "s" / "notes.md").write_text("no image")
    assert len(io.scans(tmp_path)[0].files) == 5
    assert not dicom.is_dicom(tmp_path / "s" / "notes.md") and dicom.is_dicom(tmp_path / "x.IMA")


BROKEN = {
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-200]), "cut short"),
    "noise": (lambda path: path.write_bytes(bytes(range(256)) * 4), "cannot be read as DICOM"),
    "huge": (lambda path: change(path, Rows=65535, Columns=65535), "cut short|GiB"),
    "a line": (lambda path: change(path, Rows=1), "declares 1 x 20"),
    "zero rows": (lambda path: change(path, Rows=0), "declares 0 x 20"),
    "zero spacing": (lambda path: change(path, PixelSpacing=[0, 1]), "PixelSpacing"),
    "flat axes": (lambda path: change(path, ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "right angle"),
    "slope 0": (lambda path: change(path, RescaleSlope=0), "RescaleSlope 0"),
    "no pixels": (lambda path: change(path, PixelData=None), "cannot be read|cut short"),
    "mosaic": (lambda path: change(path, ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]), "mosaic"),
    "colours": (lambda path: change(path, PhotometricInterpretation="HSV"), "PhotometricInterpretation 'HSV'"),
    "frames": (lambda path: change(path, NumberOfFrames=10**9), "cut short|GiB"),
}


def change(path: Path, **elements) -> None:
    dataset = dcmread(path)
    made._change(dataset, elements)
    dataset.save_as(path)


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_one_message_that_names_it(tmp_path, kind):
    path = made.series(tmp_path, made.head(1))[0]
    damage, message = BROKEN[kind]
    damage(path)
    with pytest.raises(UserError, match=message) as told:
        io.read(path)
    assert path.name in str(told.value)


def test_a_broken_file_does_not_hide_the_series_beside_it(tmp_path):
    made.series(tmp_path, made.head())
    (tmp_path / "zz.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 50)
    names = [(scan.name, len(scan.files)) for scan in io.scans(tmp_path)]
    assert names == [(".", 5), ("zz.dcm", 1)]


def test_a_film_is_refused(tmp_path):
    path = made.save(made.dataset("OT"), tmp_path / "film.dcm", made.head().astype(np.uint8), FrameTime=40)
    with pytest.raises(UserError, match="film of 5 frames"):
        io.read(path)


@pytest.mark.parametrize("name", ["T1", "T2", "FLAIR"])
def test_real_slices_far_apart_are_read_with_a_remark(shared_data, name):
    folder = shared_data / "brainix_dicom" / name
    expect_as_itk(folder)
    assert "18 mm apart, and their header says 6 mm" in dicom.remarks(io.read(folder))[0]


def test_real_files_are_read_as_simpleitk_reads_them(shared_data):
    expect_as_itk(shared_data / "io" / "dicom_series")
    for name in ("MR2_J2KI", "explicit_VR-UN"):
        expect_as_itk(shared_data / "io" / "dicom" / f"{name}.dcm")
    for name in ("JPEG-LL", "color-pl", "emri_small", "emri_small_RLE"):  # without a place in a patient
        path = shared_data / "io" / "dicom" / f"{name}.dcm"
        image, values = io.read(path), sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        values = np.moveaxis(values, -1, 0) if image.channels == 3 else values
        assert image.affine is None and np.array_equal(image.pixels.ravel(), values.ravel())
