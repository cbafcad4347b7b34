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


def test_a_folder_in_is_a_folder_out_with_the_same_names(identity):
    names = [
        {
            name
            for name, file in files.tree(identity / side).items()
            if file is not None and not name.endswith(".dcm")
        }
        for side in ("in", "out")
    ]
    assert len(names[0]) == 11
    assert names[0] == names[1]
    for series, count in (("mr", 5), ("ct", 4)):
        assert len(list((identity / "out" / series).glob("*.dcm"))) == count


@pytest.mark.parametrize("name", ["oblique.nii.gz", "scaled.nii", "floats.nii.gz", "bytes.nii.gz"])
def test_nifti_keeps_its_grid_and_its_stored_numbers(identity, name):
    before, after = (nib.load(identity / side / name) for side in ("in", "out"))
    assert after.shape == before.shape
    assert after.get_data_dtype() == before.get_data_dtype()
    assert np.array_equal(after.affine, before.affine)
    assert nib.aff2axcodes(after.affine) == nib.aff2axcodes(before.affine)
    for header in ("get_zooms", "get_xyzt_units"):
        assert getattr(after.header, header)() == getattr(before.header, header)()
    for code in ("sform_code", "qform_code"):
        assert after.header[code] == before.header[code]
    if name == "floats.nii.gz":
        np.testing.assert_allclose(after.get_fdata(), before.get_fdata(), rtol=0, atol=1e-6 * 902)
    else:
        assert np.array_equal(after.get_fdata(), before.get_fdata())
        assert np.array_equal(
            *(np.asarray(image.dataobj.get_unscaled()) for image in (before, after))
        )
    if name == "scaled.nii":
        assert (
            (after.dataobj.slope, after.dataobj.inter)
            == (before.dataobj.slope, before.dataobj.inter)
            == (2, -1024)
        )


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
    assert (after.format, after.mode, after.size) == (before.format, before.mode, before.size)
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


@pytest.mark.parametrize("name", ["mr", "ct"])
def test_dicom_series_become_derived_series(identity, name):
    series = (map(dcmread, (identity / side / name).glob("*.dcm")) for side in ("in", "out"))
    before, after = (
        sorted(slices, key=lambda dataset: dataset.InstanceNumber) for slices in series
    )
    assert len(after) == len(before)
    for source, made in zip(before, after, strict=True):
        assert made.Modality == "MR", "the target's: T2 is none of CT"
        for tag in (
            "PatientID",
            "PatientName",
            "StudyInstanceUID",
            "FrameOfReferenceUID",
            "InstanceNumber",
        ):
            assert made[tag].value == source[tag].value, tag
        for tag in (
            "PixelSpacing",
            "ImageOrientationPatient",
            "ImagePositionPatient",
            "Rows",
            "Columns",
        ):
            assert made[tag].value == source[tag].value, tag
        assert list(made.ImageType[:2]) == ["DERIVED", "SECONDARY"]
        assert made.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert made.file_meta.MediaStorageSOPInstanceUID == made.SOPInstanceUID
        assert np.array_equal(*map(rescaled, (source, made)))
    known = {source.SOPInstanceUID for source in before}
    assert len({made.SOPInstanceUID for made in after} - known) == len(after)
    assert len({made.SeriesInstanceUID for made in after} | {before[0].SeriesInstanceUID}) == 2


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
    if name == "3.nii.gz":
        os.kill(os.getpid(), signal.SIGKILL)


gantk.translate(*sys.argv[1:], device="cpu", say=lambda line: None, progress=progress)
"""


def test_a_folder_that_was_killed_holds_whole_files_and_goes_on(trained, tmp_path):
    import gantk

    for k in range(4):
        files.nifti(
            tmp_path / "in" / f"{k}.nii.gz", files.numbers(k, (32, 32, 3), 0, 900, np.int16)
        )
    out = tmp_path / "out"
    said = []
    assert files.python("-c", KILLED, trained, tmp_path / "in", out).code == -signal.SIGKILL
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("[0-9]*.nii.gz")}
    assert times
    assert "3.nii.gz" not in times
    assert len(gantk.translate(trained, tmp_path / "in", out, device="cpu", say=said.append)) == 4
    assert f"{len(times)} of 4 inputs done before" in said[-1]
    assert {name: (out / name).stat().st_mtime_ns for name in times} == times
    gantk.translate(trained, tmp_path / "in", tmp_path / "whole", device="cpu", say=said.append)
    assert sorted(path.name for path in out.glob("[!.]*")) == [f"{k}.nii.gz" for k in range(4)]
    for k in range(4):
        one, other = (
            nib.load(folder / f"{k}.nii.gz").get_fdata() for folder in (out, tmp_path / "whole")
        )
        assert np.array_equal(one, other)
