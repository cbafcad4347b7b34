"""What goes in comes out: kind of file, values, grid, orientation, stored type, and whose scan it
is.
"""

import signal

import files
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from pydicom import dcmread
from test_scores import expect_recorded
from through import MAPS
from tiny import read_json


def test_a_folder_in_is_a_folder_out_with_the_same_names(identity):
    names = [
        {
            name
            for name, file in files.tree(identity / side).items()
            if file is not None and not name.endswith((".dcm", ".json"))
        }
        for side in ("in", "out")
    ]

    assert len(names[0]) == 11
    assert names[0] == names[1]
    for series, count in (("mr", 5), ("ct", 4)):
        assert len(list((identity / "out" / series).glob("*.dcm"))) == count


@pytest.mark.parametrize("name", ["oblique", "scaled", "lps", "header", "mr", "ct"])
def test_a_scan_has_its_verdict_and_its_sources_beside_it(identity, name):
    beside = read_json(identity / "out" / f"{name}.json")
    (fit,) = beside["FitsTrainingData"].values()
    assert beside["SyntheticData"] is True
    assert beside["Description"].startswith("synthetic T2, generated from ")
    assert fit["Fits"] in ("yes", "partly", "no", "not recorded")
    assert beside["Sources"][0].rpartition("/")[2].startswith(name)
    for file in (identity / "out" / name).glob("*.dcm"):
        said = dcmread(file).ImageComments
        assert said.startswith(f"fits the training data: {fit['Fits']}")
        assert all(reason in said for reason in fit["Reasons"])


@pytest.mark.parametrize("name", ["oblique.nii.gz", "scaled.nii", "floats.nii.gz", "bytes.nii.gz"])
def test_nifti_keeps_its_grid(identity, name):
    before, after = (nib.load(identity / side / name) for side in ("in", "out"))
    assert after.shape == before.shape
    assert np.array_equal(after.affine, before.affine)
    assert nib.aff2axcodes(after.affine) == nib.aff2axcodes(before.affine)
    assert after.header.get_zooms() == before.header.get_zooms()
    said = bytes(after.header["descrip"]).rstrip(b"\0")
    assert said.startswith(b"synthetic T2, ")
    assert said.endswith(b"promised-nothing 0.1.0 (gantk)")
    assert after.header.get_xyzt_units() == before.header.get_xyzt_units()
    assert after.header["sform_code"] == before.header["sform_code"]
    assert after.header["qform_code"] == before.header["qform_code"]


@pytest.mark.parametrize("name", ["lps.nrrd", "header.mha", "bytes.mha"])
def test_nrrd_and_metaimage_keep_their_place_in_space(identity, name):
    before, after = (sitk.ReadImage(str(identity / side / name)) for side in ("in", "out"))
    for fact in ("GetSize", "GetPixelIDTypeAsString"):
        assert getattr(after, fact)() == getattr(before, fact)()

    for fact in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(
            getattr(after, fact)(), getattr(before, fact)(), rtol=0, atol=1e-6
        )

    before, after = map(sitk.GetArrayFromImage, (before, after))
    if before.dtype == np.float32:
        np.testing.assert_allclose(after, before, rtol=0, atol=1e-6 * 700)
    else:
        assert np.array_equal(after, before)


@pytest.mark.parametrize("name", ["eight.png", "sixteen.png", "sixteen.tif", "floats.tif"])
def test_pictures_keep_their_mode_and_numbers(identity, name):
    before, after = (Image.open(identity / side / "deep" / name) for side in ("in", "out"))
    assert after.format == before.format
    assert after.mode == before.mode
    assert after.size == before.size

    if name == "floats.tif":
        np.testing.assert_allclose(np.asarray(after), np.asarray(before), rtol=0, atol=1e-6 * 992)
    else:
        assert np.array_equal(np.asarray(after), np.asarray(before))


def test_colour_comes_back_in_colour(identity):
    before = Image.open(identity / "rgb" / "trainA" / "3.png")
    after = Image.open(identity / "colour.png")

    assert after.mode == before.mode == "RGB"
    assert np.array_equal(np.asarray(after), np.asarray(before))


def rescaled(dataset) -> np.ndarray:
    return dataset.pixel_array * float(dataset.get("RescaleSlope", 1)) + float(
        dataset.get("RescaleIntercept", 0)
    )


@pytest.mark.parametrize("name", ["oblique.nii.gz", "scaled.nii", "floats.nii.gz", "bytes.nii.gz"])
def test_nifti_keeps_its_stored_numbers(identity, name):
    before, after = (nib.load(identity / side / name) for side in ("in", "out"))
    assert after.get_data_dtype() == before.get_data_dtype()

    if name == "floats.nii.gz":
        np.testing.assert_allclose(after.get_fdata(), before.get_fdata(), rtol=0, atol=1e-6 * 902)
    else:
        assert np.array_equal(after.get_fdata(), before.get_fdata())
        stored, kept = (np.asarray(image.dataobj.get_unscaled()) for image in (before, after))
        assert np.array_equal(stored, kept)

    if name == "scaled.nii":
        for image in (before, after):
            assert image.dataobj.slope == 2
            assert image.dataobj.inter == -1024


PATIENT_TAGS = ["PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID"]
PLACE_TAGS = ["PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient", "Rows", "Columns"]


@pytest.fixture(params=["mr", "ct"])
def dicom_slices(request, identity):
    """The slices of a series before and after, in their order."""
    sides = []
    for side in ("in", "out"):
        datasets = [dcmread(path) for path in (identity / side / request.param).glob("*.dcm")]
        sides.append(sorted(datasets, key=lambda dataset: dataset.InstanceNumber))
    return sides


def test_dicom_series_keep_patient_place_and_numbers(dicom_slices):
    for source, made in zip(*dicom_slices, strict=True):
        for tag in (*PATIENT_TAGS, "InstanceNumber", *PLACE_TAGS):
            assert made[tag].value == source[tag].value, tag
        assert np.array_equal(rescaled(source), rescaled(made))


def test_dicom_series_become_derived_series(dicom_slices):
    before, after = dicom_slices
    for source, made in zip(before, after, strict=True):
        assert made.Modality == "MR", "the target's: T2 is none of CT"
        assert list(made.ImageType[:2]) == ["DERIVED", "SECONDARY"]
        assert made.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert made.file_meta.MediaStorageSOPInstanceUID == made.SOPInstanceUID

    known = {source.SOPInstanceUID for source in before}
    new = {made.SOPInstanceUID for made in after}

    assert len(new) == len(after)
    assert not new & known
    (series,) = {made.SeriesInstanceUID for made in after}
    assert series != before[0].SeriesInstanceUID


@pytest.mark.parametrize("name", MAPS)
def test_intensities_are_mapped_as_they_always_were(name, identity):
    """A ramp through a network that changes nothing: by the line of the one domain in, by that of
    the other out.
    """
    ramp, made = (
        np.asarray(Image.open(identity / f"{each}.tif"), np.float64).ravel()
        for each in ("ramp", name)
    )

    assert not np.allclose(made, ramp, atol=1)
    expect_recorded(f"intensity {name}", [round(float(value), 4) for value in made[::64]], 1e-5)


KILLED = """
import os, signal, sys
import gantk


def progress(share, name):
    if "3.nii.gz" in name:
        os.kill(os.getpid(), signal.SIGKILL)


gantk.translate(*sys.argv[1:], device="cpu", say=lambda line: None, progress=progress)
"""


@pytest.mark.slow
def test_a_folder_that_was_killed_holds_whole_files_and_goes_on(trained, tmp_path):
    import gantk

    names = [f"{k}.nii.gz" for k in range(4)]
    for k, name in enumerate(names):
        numbers = files.numbers(k, (32, 32, 3), 0, 900, np.int16)
        files.nifti(tmp_path / "in" / name, numbers)

    out = tmp_path / "out"
    killed = files.python("-c", KILLED, trained, tmp_path / "in", out)

    assert killed.code == -signal.SIGKILL
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("[0-9]*.nii.gz")}
    assert times
    assert "3.nii.gz" not in times

    said = []
    options = {"device": "cpu", "say": said.append}

    assert len(gantk.translate(trained, tmp_path / "in", out, **options)) == 4
    assert f"{len(times)} of 4 inputs were already translated" in said[-1]
    assert {name: (out / name).stat().st_mtime_ns for name in times} == times
    beside = [f"{k}.json" for k in range(4)]
    assert sorted(path.name for path in out.glob("[!.]*")) == sorted(names + beside)

    at_once = tmp_path / "whole"
    gantk.translate(trained, tmp_path / "in", at_once, **options)
    for name in names:
        one = nib.load(out / name).get_fdata()
        other = nib.load(at_once / name).get_fdata()
        assert np.array_equal(one, other)
    for name in beside:
        assert (out / name).read_bytes() == (at_once / name).read_bytes()


def test_single_slices_of_their_own_scale_are_told(trained, tmp_path):
    for k in range(2):
        files.picture(tmp_path / f"in/{k}.png", files.numbers(k, (32, 32), 0, 60_000, np.uint16))
    for k in range(3):
        files.nifti(
            tmp_path / f"volume/{k}.nii.gz", files.numbers(k, (32, 32, 3), 0, 60_000, np.uint16)
        )
    said = {}
    for name in ("in", "volume"):
        done = files.gantk(
            "translate", trained, name, f"{name}-out", "--device", "cpu", cwd=tmp_path
        ).ok()
        said[name] = done.out
    assert "gets its own gray scale" in said["in"]
    assert "2 of 2 images" in said["in"]
    assert "gets its own gray scale" not in said["volume"]
