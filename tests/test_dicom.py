"""DICOM: order, grid, values, one message for what cannot be one image; derived series say what they are."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
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
from gantk.formats import files as io
from gantk.formats.image import same_grid, to_upright
from gantk_dicom import format as dicom
from gantk_dicom.write import modality_of

# Where filters of warnings are set anew for every test, pydicom tells of odd files, which some tests make.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
AXES = pytest.mark.parametrize("axes", [made.AXIAL, made.CORONAL, made.SAGITTAL, made.OBLIQUE],
                               ids=["axial", "coronal", "sagittal", "oblique"])  # fmt: skip
# Type 1 (present, with a value) and type 2 (present) of every classic MR and CT image: PS3.3, A.3, A.4.
TYPE_1 = """
SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID Modality FrameOfReferenceUID PixelSpacing Rows Columns
ImageOrientationPatient ImagePositionPatient SamplesPerPixel PhotometricInterpretation BitsAllocated BitsStored HighBit
PixelRepresentation PixelData ImageType
""".split()  # noqa: SIM905
TYPE_2 = """
PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime ReferringPhysicianName StudyID AccessionNumber
SeriesNumber PositionReferenceIndicator Manufacturer InstanceNumber SliceThickness
""".split()  # noqa: SIM905
OWN = {
    "MR": (["ScanningSequence", "SequenceVariant"],
           ["ScanOptions", "MRAcquisitionType", "EchoTime", "EchoTrainLength", "RepetitionTime"]),
    "CT": (["RescaleSlope", "RescaleIntercept"], ["KVP", "AcquisitionNumber"]),
}  # fmt: skip


def by_itk(path: Path) -> sitk.Image:
    names = [str(path)] if path.is_file() else list(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path)))
    return sitk.ReadImage(names if len(names) > 1 else names[0])


def expect_as_itk(path: Path) -> None:
    image, other, affine = io.read(path), by_itk(path), np.eye(4)
    affine[:3, :3] = np.array(other.GetDirection()).reshape(3, 3) * np.array(other.GetSpacing())
    affine[:3, 3] = other.GetOrigin()
    affine = np.diag([-1, -1, 1, 1]) @ affine
    values = to_upright(sitk.GetArrayFromImage(other).transpose(2, 1, 0).astype(np.float64), affine)
    np.testing.assert_allclose(image.pixels[0].reshape(values.shape), values, rtol=1e-6)
    np.testing.assert_allclose(image.affine, affine, atol=1e-5)


def change(path: Path, **elements) -> None:
    dataset = dcmread(path)
    made._change(dataset, elements)
    dataset.save_as(path)


def written(folder: Path) -> list:
    return [dcmread(path) for path in sorted(folder.iterdir())]


def expect_valid(dataset) -> None:
    first, second = OWN[dataset.Modality]
    assert not [name for name in TYPE_1 + first if dataset.get(name) in (None, "")]
    assert not [name for name in TYPE_2 + second if name not in dataset]


@AXES
def test_a_series_is_sorted_by_position_lies_where_simpleitk_says_and_comes_back(tmp_path, axes):
    paths = made.series(tmp_path / "in", made.head(), axes=axes)
    (scan,) = io.scans(tmp_path / "in")
    assert list(scan.files) == paths != sorted(paths)
    expect_as_itk(tmp_path / "in")
    image = io.read(tmp_path / "in")
    assert same_grid(io.outline(scan), image)
    io.write(tmp_path / "out", image)
    again = io.read(tmp_path / "out")
    assert np.array_equal(again.pixels, image.pixels) and np.array_equal(again.affine, image.affine)
    for path, result in zip(paths, written(tmp_path / "out"), strict=True):
        source = dcmread(path)
        assert np.array_equal(result.pixel_array, source.pixel_array)
        for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "InstanceNumber", "PatientID"):
            assert result[name].value == source[name].value
    io.write(tmp_path / "out.nii.gz", image)
    ours, theirs = by_itk(tmp_path / "out.nii.gz"), by_itk(tmp_path / "in")
    assert np.array_equal(sitk.GetArrayFromImage(ours), sitk.GetArrayFromImage(theirs))
    np.testing.assert_allclose(ours.GetOrigin(), theirs.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(ours.GetDirection(), theirs.GetDirection(), atol=1e-5)


def test_an_upright_axial_series_starts_below_and_anterior_right(tmp_path):
    numbers = made.head()
    made.series(tmp_path, numbers)
    image = io.read(tmp_path)
    assert np.array_equal(image.pixels[0], numbers)
    assert image.spacing == pytest.approx((3.0, 1.5, 1.25)) and image.file_shape == (20, 24, 5)


def test_ct_is_read_in_hounsfield_units_whether_signed_or_not_and_its_padding_is_air(tmp_path):
    numbers = made.head(top=3000)
    made.series(tmp_path / "unsigned", numbers.astype(np.uint16), modality="CT")
    made.series(tmp_path / "signed", numbers - 1024, modality="CT", RescaleIntercept=0)
    for folder in ("unsigned", "signed"):
        assert np.array_equal(io.read(tmp_path / folder).pixels[0], numbers - 1024)
        expect_as_itk(tmp_path / folder)
        io.write(tmp_path / f"{folder}-out", io.read(tmp_path / folder))
        for result in written(tmp_path / f"{folder}-out"):
            assert result.PixelRepresentation == (folder == "signed")
            assert result.RescaleIntercept == (0 if folder == "signed" else -1024)
    numbers = made.head() + 24
    numbers[:, :3] = -2000
    made.series(tmp_path / "padded", numbers, modality="CT", PixelPaddingValue=-2000)
    pixels = io.read(tmp_path / "padded").pixels[0]
    assert pixels[:, :3].max() == pixels.min() == -1000


def test_each_slice_has_its_own_rescale(tmp_path):
    numbers = made.head()
    for k, path in enumerate(made.series(tmp_path, numbers)):
        change(path, RescaleSlope=1.5 + k, RescaleIntercept=-10 * k)
    expected = numbers * (1.5 + np.arange(5))[:, None, None] - 10 * np.arange(5)[:, None, None]
    np.testing.assert_allclose(io.read(tmp_path).pixels[0], expected, rtol=1e-6)


def test_overlays_in_unused_bits_are_no_values(tmp_path):
    numbers, low = made.head(), made.head() - 500
    made.series(tmp_path / "unsigned", (numbers | 0x4000).astype(np.uint16), bits=12)
    assert np.array_equal(io.read(tmp_path / "unsigned").pixels[0], numbers)
    made.series(tmp_path / "signed", ((low & 0x0FFF) | 0x3000).astype(np.int16), bits=12)
    assert np.array_equal(io.read(tmp_path / "signed").pixels[0], low)


def test_monochrome1_is_turned_over_unless_its_values_have_a_unit(tmp_path):
    numbers = made.head(1)[0].astype(np.uint16)
    made.save(made.dataset("MR"), tmp_path / "mr.dcm", numbers, bits=12, PhotometricInterpretation="MONOCHROME1")
    image = io.read(tmp_path / "mr.dcm")
    assert np.array_equal(image.pixels[0], 4095 - numbers)
    made.save(made.dataset("CT"), tmp_path / "ct.dcm", numbers, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(io.read(tmp_path / "ct.dcm").pixels[0], numbers.astype(int) - 1024)
    io.write(tmp_path / "out.dcm", image)
    assert np.array_equal(io.read(tmp_path / "out.dcm").pixels, image.pixels)
    assert dcmread(tmp_path / "out.dcm").PhotometricInterpretation == "MONOCHROME2"


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLosslessSV1, JPEG2000Lossless], ids=["RLE", "JPEG", "JPEG2000"])
def test_compressed_slices_are_decoded_to_the_very_numbers(tmp_path, syntax):
    numbers, path = made.head(1, 64, 48)[0], tmp_path / "IM000.dcm"
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
    if syntax == JPEGLosslessSV1:  # a stream of another size than its header
        path.write_bytes(path.read_bytes().replace(b"\x00\x40\x00\x30", b"\xff\xf0\xff\xf0"))
        with pytest.raises(UserError, match="IM000.dcm' cannot be read"):
            io.read(path)


def test_deflated_files_and_those_without_preamble_or_suffix_are_read(tmp_path):
    path, plain = made.series(tmp_path / "s", made.head(2))
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path)
    plain.rename(plain.with_name("1.2.840.1"))
    (tmp_path / "s" / "notes.md").write_text("no image")
    assert len(io.scans(tmp_path)[0].files) == 2 and np.array_equal(io.read(tmp_path / "s").pixels[0], made.head(2))
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.save_as(path, implicit_vr=True, little_endian=True)
    content = path.read_bytes()
    path.write_bytes(content[content.index(b"\x08\x00\x05\x00") :])
    assert np.array_equal(io.read(path).pixels[0], made.head(2)[0])
    assert not dicom.is_dicom(tmp_path / "s" / "notes.md") and dicom.is_dicom(tmp_path / "x.IMA")


def test_a_missing_slice_is_named_by_its_neighbours_and_uneven_ones_are_refused(tmp_path):
    paths = made.series(tmp_path / "gap", made.head(8), skip=[3])
    with pytest.raises(UserError, match="lacks 1 slice") as told:
        io.read(tmp_path / "gap")
    assert f"'{paths[2].name}' and '{paths[3].name}' lie 6 mm apart" in str(told.value)
    made.series(tmp_path / "uneven", made.head(4), prefix="low")
    made.series(tmp_path / "uneven", made.head(4, seed=1), origin=(-30, -40, 23.0), step=5.0, prefix="high")
    with pytest.raises(UserError, match=r"is not evenly spaced: .* 5 %"):
        io.read(tmp_path / "uneven")
    for k, path in enumerate(made.series(tmp_path / "even", made.head())):  # to a twentieth
        dataset = dcmread(path)
        dataset.ImagePositionPatient[2] += 0.07 * (-1) ** k
        dataset.save_as(path)
    assert io.read(tmp_path / "even").spacing[0] == pytest.approx(3.0, abs=0.05)


def test_copies_of_a_slice_are_left_out_with_a_remark_and_different_ones_are_named(tmp_path):
    paths = made.series(tmp_path, made.head())
    shutil.copy(paths[2], tmp_path / "copy of 2.dcm")
    image = io.read(tmp_path)
    assert np.array_equal(image.pixels[0], made.head())
    assert ["left out 1 of 6 slices" in remark for remark in image.remarks] == [True]
    (tmp_path / "copy of 2.dcm").unlink()
    made.series(tmp_path, made.head(seed=5), skip=[0, 1, 3, 4], prefix="other")
    with pytest.raises(UserError, match=f"two different slices at one place.*({paths[2].name}.*other|other.*)"):
        io.read(tmp_path)


@pytest.mark.parametrize("degrees", [12.0, -20.0])
def test_a_tilted_stack_comes_onto_a_grid_at_right_angles_and_is_written_straight(tmp_path, degrees):
    """Values are a linear function of the place in the patient, so linear resampling has to give just them back."""
    count, rows, columns, lean = 6, 40, 30, 3.0 * np.tan(np.radians(degrees))
    k, y, _ = np.mgrid[:count, :rows, :columns].astype(float)
    numbers = np.rint(100 * (20 + 1.5 * y + lean * k) + 100 * (10 + 3.0 * k)).astype(np.int16)
    made.series(tmp_path / "in", numbers, lean=(0, lean, 0), GantryDetectorTilt=degrees)
    image = io.read(tmp_path / "in")
    assert f"tilted by {abs(degrees)} degrees" in image.remarks[0]
    assert np.allclose(image.affine[:3, :3], np.diag([-1.25, -1.5, 3.0]))
    assert same_grid(image, io.outline(io.scans(tmp_path / "in")[0]))
    d, h, w = np.mgrid[tuple(map(slice, image.pixels.shape[1:]))].astype(float)
    where = np.tensordot(image.affine, np.stack([w, h, d, np.ones_like(w)]), axes=1)
    inside = (-where[1] > -40 + lean * d + 0.1) & (-where[1] < -40 + 1.5 * (rows - 1) + lean * d - 0.1) & (w < columns)
    expected = 100 * (60 - where[1]) + 100 * where[2]
    assert inside.mean() > 0.6 and np.abs(image.pixels[0] - expected)[inside].max() <= 1.0
    io.write(tmp_path / "out", image)
    again = io.read(tmp_path / "out")
    assert again.pixels.shape == image.pixels.shape and not again.remarks
    assert np.allclose(again.affine, image.affine) and np.abs(again.pixels - image.pixels).max() < 0.2
    assert {result.GantryDetectorTilt for result in written(tmp_path / "out")} == {0}


def test_planes_echoes_and_series_of_one_folder_are_scans_of_their_own(tmp_path):
    for name, axes in (("ax", made.AXIAL), ("co", made.CORONAL), ("sa", made.SAGITTAL)):
        made.series(tmp_path / "loc", made.head(3), axes=axes, prefix=name, SeriesDescription="localizer")
    for echo, time in enumerate((15.0, 80.0)):
        made.series(tmp_path / "echo", made.head(seed=echo), prefix=f"e{echo}", EchoTime=time, EchoNumbers=echo + 1)
    other = {"SeriesInstanceUID": "1.2.3.4", "SeriesNumber": 12, "SeriesDescription": "T2 / tse: fast"}
    made.series(tmp_path / "two", made.head(), prefix="a")
    made.series(tmp_path / "two", made.head(), prefix="b", **other)
    (tmp_path / "two" / "zz.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 50)  # a broken one hides no others
    others = made.no_images(tmp_path / "two")
    scans = {scan.name: scan for scan in io.scans(tmp_path)}
    assert list(scans) == [
        "echo/3-T1_se-EchoTime_15.0", "echo/3-T1_se-EchoTime_80.0", "loc/3-localizer-axial", "loc/3-localizer-coronal",
        "loc/3-localizer-sagittal", "two/3-T1_se", "two/12-T2_tse_fast", "two/zz.dcm",
    ]  # fmt: skip
    for echo, name in enumerate(list(scans)[:2]):
        assert np.array_equal(io.read(scans[name]).pixels[0], made.head(seed=echo))
    with pytest.raises(UserError, match="folder of 3 DICOM series"):
        io.read(tmp_path / "loc")
    with pytest.raises(UserError, match="is no image: Segmentation Storage"):
        io.read(others[0])


def test_enhanced_frames_are_sorted_rescaled_each_by_its_own_and_come_back_as_one_file(tmp_path):
    numbers = made.head()
    image = io.read(made.enhanced(tmp_path / "in.dcm", numbers, order=[3, 0, 4, 2, 1]))
    assert np.array_equal(image.pixels[0], 2 * numbers + np.arange(5)[:, None, None])
    assert np.array_equal(np.diag(image.affine), [-1.25, -1.5, 3, 1]) and list(image.affine[:3, 3]) == [30, 40, 10]
    assert same_grid(io.outline(tmp_path / "in.dcm"), image)
    io.write(tmp_path / "out.dcm", image)
    again, result = io.read(tmp_path / "out.dcm"), dcmread(tmp_path / "out.dcm")
    assert np.array_equal(again.pixels, image.pixels) and np.array_equal(again.affine, image.affine)
    assert result.NumberOfFrames == 5 and result.ImageType[:2] == ["DERIVED", "SECONDARY"]
    assert result.SharedFunctionalGroupsSequence[0].MRImageFrameTypeSequence[0].FrameType[0] == "DERIVED"
    assert "MREchoSequence" not in result.PerFrameFunctionalGroupsSequence[0]
    read = sitk.ReadImage(str(tmp_path / "out.dcm"))
    assert np.array_equal(sitk.GetArrayFromImage(read), image.pixels[0]) and read.GetOrigin() == (-30, -40, 10)
    io.write(tmp_path / "ct", image, "CT")  # another modality: classic slices
    again = io.read(tmp_path / "ct")
    assert np.array_equal(again.pixels, image.pixels) and np.allclose(again.affine, image.affine)
    for result in written(tmp_path / "ct"):
        expect_valid(result)
        assert "NumberOfFrames" not in result and "PerFrameFunctionalGroupsSequence" not in result
    with pytest.raises(UserError, match="series of 5 slices"):
        io.write(tmp_path / "ct.dcm", image, "CT")
    one = io.read(made.enhanced(tmp_path / "one.dcm", made.head(1)))
    io.write(tmp_path / "one-out.dcm", one)
    assert np.array_equal(io.read(tmp_path / "one-out.dcm").affine, one.affine)


def test_one_of_several_stacks_in_a_file_is_chosen_by_number(tmp_path):
    path = made.enhanced(tmp_path / "echoes.dcm", made.head(), echoes=2)
    with pytest.raises(UserError, match=r"holds 2 stacks .* --volume, 0 to 1"):
        io.read(path)
    assert np.array_equal(io.read(path, 1).pixels, io.read(path, 0).pixels + 2)


def test_captures_in_gray_and_colour_come_back_as_they_are(tmp_path):
    rng = np.random.default_rng(0)
    gray, table = rng.integers(0, 255, (12, 10), dtype=np.uint8), rng.integers(0, 255, (3, 256), dtype=np.uint8)
    palette = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, entries in zip(("Red", "Green", "Blue"), table, strict=True):
        palette[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 8]
        palette[f"{name}PaletteColorLookupTableData"] = entries.tobytes()
    colour = rng.integers(0, 255, (12, 10, 3), dtype=np.uint8)
    luminance = np.stack([gray, np.full_like(gray, 128), np.full_like(gray, 128)], axis=-1)
    for name, numbers, elements, expected in (
        ("gray", gray, {}, gray[None]),
        ("colour", colour, {}, colour.transpose(2, 0, 1)),
        ("palette", gray, palette, table[:, gray]),
        ("ybr", luminance, {"PhotometricInterpretation": "YBR_FULL"}, np.stack([gray] * 3)),
    ):
        image = io.read(made.save(made.dataset("OT"), tmp_path / f"{name}.dcm", numbers, **elements))
        assert image.affine is None and np.array_equal(image.pixels, expected)
        assert io.outline(tmp_path / f"{name}.dcm").pixels.shape == expected.shape
        io.write(tmp_path / f"{name}-out.dcm", image)
        back = dcmread(tmp_path / f"{name}-out.dcm").pixel_array
        assert np.array_equal(back if name == "gray" else back.transpose(2, 0, 1), expected if name != "gray" else gray)


BROKEN = {
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-200]), "cut short"),
    "noise": (lambda path: path.write_bytes(bytes(range(256)) * 4), "cannot be read as DICOM"),
    "huge": (lambda path: change(path, Rows=65535, Columns=65535), "cut short|GiB"),
    "a line": (lambda path: change(path, Rows=1), "declares 1 x 20"),
    "zero spacing": (lambda path: change(path, PixelSpacing=[0, 1]), "PixelSpacing"),
    "flat axes": (lambda path: change(path, ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "right angle"),
    "slope 0": (lambda path: change(path, RescaleSlope=0), "RescaleSlope 0"),
    "no pixels": (lambda path: change(path, PixelData=None), "cannot be read|cut short"),
    "mosaic": (lambda path: change(path, ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]), "mosaic"),
    "colours": (lambda path: change(path, PhotometricInterpretation="HSV"), "PhotometricInterpretation 'HSV'"),
    "frames": (lambda path: change(path, NumberOfFrames=10**9), "cut short|GiB"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_one_message_that_names_it(tmp_path, kind):
    path = made.series(tmp_path, made.head(1))[0]
    damage, message = BROKEN[kind]
    damage(path)
    with pytest.raises(UserError, match=message) as told:
        io.read(path)
    assert path.name in str(told.value)


def test_films_and_series_beyond_the_limit_of_memory_are_refused(tmp_path, monkeypatch):
    path = made.save(made.dataset("OT"), tmp_path / "film.dcm", made.head().astype(np.uint8), FrameTime=40)
    with pytest.raises(UserError, match="film of 5 frames"):
        io.read(path)
    made.series(tmp_path / "s", made.head())
    monkeypatch.setenv("GANTK_MAX_GIB", "0.000005")
    with pytest.raises(UserError, match="Set the environment variable GANTK_MAX_GIB"):
        io.read(tmp_path / "s")


def test_without_the_extra_one_message_says_what_to_install(tmp_path, monkeypatch):
    path = made.series(tmp_path, made.head(1))[0]
    for name in [name for name in sys.modules if name.startswith("gantk_dicom.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UserError, match=r"needs pydicom, which is not installed.*gantk\[dicom\]"):
        io.read(path)


CHANGES = {"both signs": (1.2345, -700.3), "tiny": (1e-4, 0), "halves": (40, 0.5)}


@pytest.mark.parametrize("kind", CHANGES)
def test_values_are_kept_to_half_a_step_of_their_range_and_read_alike_elsewhere(tmp_path, kind):
    made.series(tmp_path / "in", made.head())
    image, (slope, offset) = io.read(tmp_path / "in"), CHANGES[kind]
    pixels = np.where(image.pixels == 0, 0 if kind == "both signs" else offset, image.pixels * slope + offset)
    pixels = pixels.astype(np.float32)
    io.write(tmp_path / "out", replace(image, pixels=pixels), "T2")
    step = np.abs(pixels).max() / (32767 if pixels.min() < 0 else 65535)
    again = io.read(tmp_path / "out").pixels
    assert np.abs(again - pixels).max() <= 0.51 * step + 1e-7 * np.abs(pixels).max()
    assert np.array_equal(again == 0, pixels == 0)
    other = sitk.GetArrayFromImage(by_itk(tmp_path / "out"))
    np.testing.assert_allclose(other, again[0], atol=1e-3 * step + 1e-7 * np.abs(pixels).max())


def test_whole_numbers_beyond_the_source_are_stored_as_themselves(tmp_path):
    made.series(tmp_path / "in", made.head().astype(np.uint16), bits=12)
    image = io.read(tmp_path / "in")
    for name, pixels in (("large", image.pixels * 60), ("negative", image.pixels - 900)):
        io.write(tmp_path / name, replace(image, pixels=pixels))
        assert np.array_equal(io.read(tmp_path / name).pixels, pixels)
        assert {result.RescaleSlope for result in written(tmp_path / name)} == {1}


def test_a_series_says_that_it_is_derived_and_from_what(tmp_path):
    paths = made.series(tmp_path / "in", made.head(), WindowCenter=400, WindowWidth=800, SmallestImagePixelValue=0)
    with_private = dcmread(paths[0])
    with_private.add_new(0x00190010, "LO", "SECRET")
    with_private.save_as(paths[0])
    image = io.read(tmp_path / "in")
    io.write(tmp_path / "out", replace(image, pixels=image.pixels + 0.5), "T2")
    results, source = written(tmp_path / "out"), dcmread(paths[0])
    assert len({result.SeriesInstanceUID for result in results} | {source.SeriesInstanceUID}) == 2
    assert len({result.SOPInstanceUID for result in results}) == 5
    for path, result in zip(paths, results, strict=True):
        expect_valid(result)
        assert list(result.ImageType) == ["DERIVED", "SECONDARY", "OTHER"] and result.SyntheticData == "YES"
        assert result.SeriesDescription == "synthetic T2 (gantk)" and result.SeriesNumber == 1003
        assert "Synthetic T2 image made by gantk" in result.DerivationDescription
        assert result.SourceImageSequence[0].ReferencedSOPInstanceUID == dcmread(path).SOPInstanceUID
        assert result.ContributingEquipmentSequence[0].Manufacturer == "Scanner Works"
        for name in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientName", "PatientBirthDate", "StudyDate"):
            assert result[name].value == source[name].value
        assert "SmallestImagePixelValue" not in result and "ProtocolName" not in result and result.EchoTime is None
        assert not any(tag.is_private for tag in result.keys())  # noqa: SIM118
        assert abs(result.WindowCenter - 400) > 1 and result.WindowWidth > 0


@pytest.mark.parametrize("source, target", [("CT", "T2"), ("MR", "CT")])
def test_the_target_domain_says_the_modality_with_the_elements_of_its_class(tmp_path, source, target):
    for name, other, expected in (("T2", "MR", "MR"), ("MRI", "CT", "MR"), ("B", "CT", "CT"), ("T2", "US", "US")):
        assert modality_of(name, other) == expected
    made.series(tmp_path / "in", made.head(), modality=source)
    image = io.read(tmp_path / "in")
    io.write(tmp_path / "out", replace(image, pixels=image.pixels * 0.5), target)
    for result in written(tmp_path / "out"):
        assert result.SOPClassUID == made.CLASSES[result.Modality] and result.Modality != source
        expect_valid(result)


def test_anonymised_slices_and_odd_elements_become_a_series(tmp_path):
    gone = ("PatientID PatientName PatientBirthDate PatientSex StudyInstanceUID FrameOfReferenceUID SeriesNumber "
            "StudyDate SeriesDescription ProtocolName Manufacturer InstanceNumber SOPInstanceUID")  # fmt: skip
    for path in made.series(tmp_path / "in", made.head()):
        dataset = dcmread(path)
        for name in gone.split():
            dataset.pop(name, None)
        dataset.save_as(path, enforce_file_format=False)
    io.write(tmp_path / "out", io.read(tmp_path / "in"), "T2")
    results = written(tmp_path / "out")
    assert [result.InstanceNumber for result in results] == [1, 2, 3, 4, 5]
    assert len({result.StudyInstanceUID for result in results}) == len({r.FrameOfReferenceUID for r in results}) == 1
    for result in results:
        expect_valid(result)
    assert by_itk(tmp_path / "out").GetSize() == (20, 24, 5)
    (path,) = made.series(tmp_path / "odd", made.head(1), StudyDescription="Schädel nativ", SliceThickness=None)
    dataset = dcmread(path)
    dataset.add_new("PatientWeight", "DS", "70")
    dataset.save_as(path)
    path.write_bytes(path.read_bytes().replace(b"\x02\x0070", b"\x02\x00a!"))
    io.write(tmp_path / "out.dcm", io.read(tmp_path / "odd"), "Т2 взвешенное")
    result = dcmread(tmp_path / "out.dcm")
    assert result.StudyDescription == "Schädel nativ" and "Т2 взвешенное" in result.DerivationDescription


def test_a_folder_appears_whole_or_not_at_all_and_replaces_only_an_earlier_result(tmp_path, monkeypatch):
    from gantk_dicom import write

    made.series(tmp_path / "in", made.head(7))
    made.series(tmp_path / "short", made.head(3))
    image, short = io.read(tmp_path / "in"), io.read(tmp_path / "short")

    def fails_at_the_third(dataset, path, kept=write._save):
        if path.name == "IMG0003.dcm":
            raise OSError("no space left on device")
        kept(dataset, path)

    with monkeypatch.context() as full:
        full.setattr(write, "_save", fails_at_the_third)
        with pytest.raises(UserError, match="out' cannot be written: no space"):
            io.write(tmp_path / "out", image)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "short"]
    io.write(tmp_path / "out", image, "T2")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    io.write(tmp_path / "out", short, "T2")
    names = ["IMG0001.dcm", "IMG0002.dcm", "IMG0003.dcm", "notes.txt"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    before = {path: path.read_bytes() for path in (tmp_path / "in").iterdir()}
    with pytest.raises(UserError, match="holds other DICOM files"):
        io.write(tmp_path / "in", short)
    assert {path: path.read_bytes() for path in (tmp_path / "in").iterdir()} == before
    with pytest.raises(UserError, match="patient and study"):
        io.write(tmp_path / "out.dcm", replace(short, header=None))


@pytest.mark.parametrize("name", ["brainix_dicom/T1", "brainix_dicom/T2", "brainix_dicom/FLAIR", "io/dicom_series"])
def test_real_series_are_read_as_simpleitk_does_and_become_derived_ones_on_their_grid(shared_data, tmp_path, name):
    expect_as_itk(shared_data / name)
    image = io.read(shared_data / name)
    if name.startswith("brainix"):
        assert "18 mm apart, and their header says 6 mm" in image.remarks[0]
    io.write(tmp_path / "out", replace(image, pixels=image.pixels * 1.3 + 0.1), "T2")
    again, read, source = io.read(tmp_path / "out"), by_itk(tmp_path / "out"), by_itk(shared_data / name)
    assert np.abs(again.pixels - image.pixels * 1.3 - 0.1).max() < 0.02 and np.array_equal(again.affine, image.affine)
    assert read.GetOrigin() == source.GetOrigin() and read.GetDirection() == source.GetDirection()
    for result in written(tmp_path / "out"):
        expect_valid(result)


def test_real_files_are_read_as_simpleitk_reads_them(shared_data):
    for name in ("MR2_J2KI", "explicit_VR-UN"):
        expect_as_itk(shared_data / "io" / "dicom" / f"{name}.dcm")
    for name in ("JPEG-LL", "color-pl", "emri_small", "emri_small_RLE"):  # without a place in a patient
        path = shared_data / "io" / "dicom" / f"{name}.dcm"
        image, values = io.read(path), sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        values = np.moveaxis(values, -1, 0) if image.channels == 3 else values
        assert image.affine is None and np.array_equal(image.pixels.ravel(), values.ravel())
