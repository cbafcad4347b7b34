"""Derived series: the same patient, study and grid, no value clipped, and readable by others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import dicom_files as made
import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import dcmread

from gantk.errors import UserError
from gantk.formats import dicom
from gantk.formats import files as io
from gantk.formats.dicom.write import modality_of


def names(text: str) -> list[str]:
    return text.split()


# Type 1: has to be there with a value; type 2: has to be there (PS3.3, A.3.3 and A.4.3).
COMMON_1 = names("""
SOPClassUID SOPInstanceUID StudyInstanceUID Modality SeriesInstanceUID FrameOfReferenceUID PixelSpacing
ImageOrientationPatient ImagePositionPatient SamplesPerPixel PhotometricInterpretation Rows Columns BitsAllocated
BitsStored HighBit PixelRepresentation PixelData ImageType
""")
COMMON_2 = names("""
PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime ReferringPhysicianName StudyID AccessionNumber
SeriesNumber PositionReferenceIndicator Manufacturer InstanceNumber SliceThickness
""")
OWN_1 = {"MR": ["ScanningSequence", "SequenceVariant"], "CT": ["RescaleSlope", "RescaleIntercept"]}
OWN_2 = {
    "MR": ["ScanOptions", "MRAcquisitionType", "EchoTime", "EchoTrainLength", "RepetitionTime"],
    "CT": ["KVP", "AcquisitionNumber"],
}


def written(folder: Path) -> list:
    return [dcmread(path) for path in sorted(folder.iterdir())]


def expect_valid(dataset) -> None:
    modality = dataset.Modality
    empty = [name for name in COMMON_1 + OWN_1[modality] if dataset.get(name) in (None, "")]
    absent = [name for name in COMMON_2 + OWN_2[modality] if name not in dataset]
    assert not empty and not absent


def by_itk(folder: Path) -> sitk.Image:
    return sitk.ReadImage(list(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))))


@pytest.mark.parametrize("axes", [made.AXIAL, made.SAGITTAL, made.OBLIQUE], ids=str)
def test_an_identity_gives_back_the_very_numbers_at_the_very_places(tmp_path, axes):
    paths = made.series(tmp_path / "in", made.head(), axes=axes)
    image = io.read(tmp_path / "in")
    io.write(tmp_path / "out", image)
    again = io.read(tmp_path / "out")
    assert np.array_equal(again.pixels, image.pixels) and np.array_equal(again.affine, image.affine)
    for path, result in zip(paths, written(tmp_path / "out"), strict=True):
        source = dcmread(path)
        assert np.array_equal(result.pixel_array, source.pixel_array)
        for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "InstanceNumber", "PatientID"):
            assert result[name].value == source[name].value


def test_a_ct_identity_keeps_sign_rescale_and_padding(tmp_path):
    numbers = made.head() + 24
    numbers[:, :3] = -2000
    made.series(tmp_path / "in", numbers, modality="CT", PixelPaddingValue=-2000, RescaleSlope=2)
    io.write(tmp_path / "out", io.read(tmp_path / "in"))
    for plane, result in zip(numbers, written(tmp_path / "out"), strict=True):
        assert np.array_equal(result.pixel_array, plane)
        assert (result.RescaleSlope, result.RescaleIntercept, result.PixelPaddingValue) == (2, -1024, -2000)


@pytest.mark.parametrize("change", [lambda v: v * 1.2345 - 700.3, lambda v: v * 1e-4, lambda v: v * 40 + 0.5], ids=str)
def test_values_are_kept_to_half_a_step_of_their_range_and_read_alike_elsewhere(tmp_path, change):
    made.series(tmp_path / "in", made.head())
    image = io.read(tmp_path / "in")
    image = replace(image, pixels=change(image.pixels).astype(np.float32))
    io.write(tmp_path / "out", image, "T2")
    step = np.abs(image.pixels).max() / (32767 if image.pixels.min() < 0 else 65535)
    again = io.read(tmp_path / "out").pixels
    assert np.abs(again - image.pixels).max() <= 0.51 * step
    np.testing.assert_allclose(sitk.GetArrayFromImage(by_itk(tmp_path / "out")), again[0], atol=1e-3 * step)


def test_values_far_from_zero_have_all_steps_between_them(tmp_path):
    made.series(tmp_path / "in", made.head())
    image = io.read(tmp_path / "in")
    image = replace(image, pixels=(1000 + image.pixels / np.float32(997)).astype(np.float32))
    io.write(tmp_path / "out", image)
    assert np.abs(io.read(tmp_path / "out").pixels - image.pixels).max() < 1e-4


def test_zero_stays_zero(tmp_path):
    made.series(tmp_path / "in", made.head())
    image = io.read(tmp_path / "in")
    pixels = np.where(image.pixels == 0, 0, image.pixels * 0.777 - 333.3).astype(np.float32)
    io.write(tmp_path / "out", replace(image, pixels=pixels))
    assert np.array_equal(io.read(tmp_path / "out").pixels == 0, pixels == 0)


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


@pytest.mark.parametrize(
    "name, source, expected",
    [("T2", "MR", "MR"), ("CT", "MR", "CT"), ("MRI", "CT", "MR"), ("B", "CT", "CT"), ("T2", "US", "US")],
)
def test_the_target_domain_says_the_modality(name, source, expected):
    assert modality_of(name, source) == expected


@pytest.mark.parametrize("source, target", [("CT", "T2"), ("MR", "CT")])
def test_the_other_modality_has_the_elements_of_its_own_class(tmp_path, source, target):
    made.series(tmp_path / "in", made.head(), modality=source)
    image = io.read(tmp_path / "in")
    io.write(tmp_path / "out", replace(image, pixels=image.pixels * 0.5), target)
    for result in written(tmp_path / "out"):
        assert result.SOPClassUID == made.CLASSES[result.Modality] and result.Modality != source
        expect_valid(result)


def test_anonymised_slices_without_a_patient_or_study_become_a_series(tmp_path):
    gone = names("""
        PatientID PatientName PatientBirthDate PatientSex StudyInstanceUID FrameOfReferenceUID SeriesNumber StudyDate
        SeriesDescription ProtocolName Manufacturer InstanceNumber SOPInstanceUID
    """)
    for path in made.series(tmp_path / "in", made.head()):
        dataset = dcmread(path)
        for name in gone:
            dataset.pop(name, None)
        dataset.save_as(path, enforce_file_format=False)
    io.write(tmp_path / "out", io.read(tmp_path / "in"), "T2")
    results = written(tmp_path / "out")
    assert [result.InstanceNumber for result in results] == [1, 2, 3, 4, 5]
    assert len({result.StudyInstanceUID for result in results}) == len({r.FrameOfReferenceUID for r in results}) == 1
    for result in results:
        expect_valid(result)
    assert by_itk(tmp_path / "out").GetSize() == (20, 24, 5)


def test_odd_elements_and_letters_do_not_stop_the_writing(tmp_path):
    for path in made.series(tmp_path / "in", made.head(1), StudyDescription="Schädel nativ", SliceThickness=None):
        dataset = dcmread(path)
        dataset.add_new("PatientWeight", "DS", "70")
        dataset.save_as(path)
        path.write_bytes(path.read_bytes().replace(b"70", b"a!"))
    image = io.read(tmp_path / "in")
    io.write(tmp_path / "out.dcm", image, "Т2 взвешенное")
    result = dcmread(tmp_path / "out.dcm")
    assert result.StudyDescription == "Schädel nativ"
    assert "Т2 взвешенное" in result.DerivationDescription


def test_a_multi_frame_file_comes_back_as_one(tmp_path):
    numbers = made.head()
    path = made.enhanced(tmp_path / "in.dcm", numbers, order=[3, 0, 4, 2, 1])
    image = io.read(path)
    io.write(tmp_path / "out.dcm", image)
    again, result = io.read(tmp_path / "out.dcm"), dcmread(tmp_path / "out.dcm")
    assert np.array_equal(again.pixels, image.pixels) and np.array_equal(again.affine, image.affine)
    assert result.NumberOfFrames == 5 and result.ImageType[:2] == ["DERIVED", "SECONDARY"]
    assert result.SharedFunctionalGroupsSequence[0].MRImageFrameTypeSequence[0].FrameType[0] == "DERIVED"
    assert "MREchoSequence" not in result.PerFrameFunctionalGroupsSequence[0]
    read = sitk.ReadImage(str(tmp_path / "out.dcm"))
    assert np.array_equal(sitk.GetArrayFromImage(read), image.pixels[0]) and read.GetOrigin() == (-30, -40, 10)


def test_frames_of_another_modality_become_classic_slices(tmp_path):
    path = made.enhanced(tmp_path / "in.dcm", made.head())
    image = io.read(path)
    io.write(tmp_path / "out", image, "CT")
    again = io.read(tmp_path / "out")
    assert np.array_equal(again.pixels, image.pixels) and np.allclose(again.affine, image.affine)
    for result in written(tmp_path / "out"):
        expect_valid(result)
        assert "NumberOfFrames" not in result and "PerFrameFunctionalGroupsSequence" not in result
    with pytest.raises(UserError, match="series of 5 slices"):
        io.write(tmp_path / "out.dcm", image, "CT")


def test_a_tilted_source_gives_a_straight_series(tmp_path):
    made.series(tmp_path / "in", made.head(), modality="CT", lean=(0, 1.0, 0), GantryDetectorTilt=18.4)
    image = io.read(tmp_path / "in")
    io.write(tmp_path / "out", image)
    again = io.read(tmp_path / "out")
    assert again.pixels.shape == image.pixels.shape and not dicom.remarks(again)
    assert np.allclose(again.affine, image.affine) and np.abs(again.pixels - image.pixels).max() < 0.02
    assert {result.GantryDetectorTilt for result in written(tmp_path / "out")} == {0}


def test_colour_and_captures_come_back_as_they_are(tmp_path):
    rng = np.random.default_rng(0)
    for name, numbers in (
        ("colour", rng.integers(0, 255, (13, 11, 3), dtype=np.uint8)),
        ("gray", rng.integers(0, 255, (13, 11), dtype=np.uint8)),
    ):
        path = made.save(made.dataset("OT"), tmp_path / f"{name}.dcm", numbers)
        image = io.read(path)
        io.write(tmp_path / f"{name}-out.dcm", image)
        assert np.array_equal(dcmread(tmp_path / f"{name}-out.dcm").pixel_array, numbers)


def test_a_turned_over_picture_keeps_its_values(tmp_path):
    numbers = made.head(1)[0].astype(np.uint16)
    path = made.save(made.dataset("MR"), tmp_path / "in.dcm", numbers, bits=12, PhotometricInterpretation="MONOCHROME1")
    image = io.read(path)
    io.write(tmp_path / "out.dcm", image)
    assert np.array_equal(io.read(tmp_path / "out.dcm").pixels, image.pixels)
    assert dcmread(tmp_path / "out.dcm").PhotometricInterpretation == "MONOCHROME2"


def test_an_enhanced_object_of_one_frame_keeps_its_place(tmp_path):
    image = io.read(made.enhanced(tmp_path / "in.dcm", made.head(1)))
    io.write(tmp_path / "out.dcm", image)
    assert np.array_equal(io.read(tmp_path / "out.dcm").affine, image.affine)


@pytest.mark.parametrize("axes", [made.AXIAL, made.SAGITTAL, made.OBLIQUE], ids=str)
def test_a_series_written_as_nifti_lies_where_simpleitk_puts_it(tmp_path, axes):
    made.series(tmp_path / "in", made.head(), modality="CT", axes=axes)
    image = io.read(tmp_path / "in")
    io.write(tmp_path / "out.nii.gz", image)
    ours, theirs = sitk.ReadImage(str(tmp_path / "out.nii.gz")), by_itk(tmp_path / "in")
    assert ours.GetPixelIDTypeAsString() == theirs.GetPixelIDTypeAsString() or ours.GetPixelID() == sitk.sitkInt32
    assert np.array_equal(sitk.GetArrayFromImage(ours), sitk.GetArrayFromImage(theirs))
    np.testing.assert_allclose(ours.GetOrigin(), theirs.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(ours.GetDirection(), theirs.GetDirection(), atol=1e-5)


def test_a_folder_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    from gantk.formats.dicom import write as dicom_write

    made.series(tmp_path / "in", made.head())
    image = io.read(tmp_path / "in")
    kept, calls = dicom_write._save, []

    def fails_at_the_third(dataset, path):
        calls.append(path)
        if len(calls) == 3:
            raise OSError("no space left on device")
        kept(dataset, path)

    monkeypatch.setattr(dicom_write, "_save", fails_at_the_third)
    with pytest.raises(UserError, match="no space"):
        io.write(tmp_path / "out", image)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_only_an_earlier_result_is_replaced(tmp_path):
    made.series(tmp_path / "in", made.head(7))
    made.series(tmp_path / "short", made.head(3))
    io.write(tmp_path / "out", io.read(tmp_path / "in"), "T2")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    io.write(tmp_path / "out", io.read(tmp_path / "short"), "T2")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "IMG0001.dcm", "IMG0002.dcm", "IMG0003.dcm", "notes.txt"]  # fmt: skip
    before = {path: path.read_bytes() for path in (tmp_path / "in").iterdir()}
    with pytest.raises(UserError, match="holds other DICOM files"):
        io.write(tmp_path / "in", io.read(tmp_path / "short"))
    assert {path: path.read_bytes() for path in (tmp_path / "in").iterdir()} == before


def test_only_what_came_from_dicom_can_be_written_as_it(tmp_path, pictures):
    picture = io.read(pictures(tmp_path, 1)[0])
    with pytest.raises(UserError, match="patient and study"):
        io.write(tmp_path / "out.dcm", picture)


def test_real_series_become_derived_ones_on_their_own_grid(shared_data, tmp_path):
    for name in ("brainix_dicom/T1", "io/dicom_series"):
        image = io.read(shared_data / name)
        folder = tmp_path / Path(name).name
        io.write(folder, replace(image, pixels=image.pixels * 1.3 + 0.1), "T2")
        again, read = io.read(folder), by_itk(folder)
        assert np.abs(again.pixels - image.pixels * 1.3 - 0.1).max() < 0.02 and np.array_equal(
            again.affine, image.affine
        )
        source = by_itk(shared_data / name)
        assert read.GetOrigin() == source.GetOrigin() and read.GetDirection() == source.GetDirection()
        for result in written(folder):
            expect_valid(result)
