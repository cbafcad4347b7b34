"""Which slices of a folder are one volume: those that agree in all that describes patient and image,
whatever identifiers they share; what is none says which element is missing or differs.
"""

from collections.abc import Callable
from pathlib import Path

import dicom_files as made
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from gantk.errors import UserError
from gantk.formats import files as io

COUNT = 8  # slices
Change = Callable[[Dataset, int], object]


def series(folder: Path, change: Change) -> Path:
    """A series of COUNT slices, of which `change` alters the header."""
    for k, path in enumerate(made.series(folder, made.head(COUNT))):
        header = dcmread(path)
        change(header, k)
        header.save_as(path, enforce_file_format=False)
    return folder


def among(numbers: range, **elements: object) -> Change:
    """Set elements in some of the slices; None removes one."""
    return lambda header, k: made.change(header, **elements) if k in numbers else None


UPPER = range(COUNT // 2, COUNT)
EVERY_SECOND = range(0, COUNT, 2)
ALL = range(COUNT)
# element -> its value in the upper half of the slices
ABOVE = dict(
    PatientName="Roe^Jim",
    PatientBirthDate="19500505",
    StudyInstanceUID="1.2.3",
    FrameOfReferenceUID="1.2.3",
    Modality="CT",
    InversionTime=2500,
    FlipAngle=30,
    SeriesNumber=9,
    PatientSex="M",
    IssuerOfPatientID="B",
    PatientAge="003Y",
    ClinicalTrialSubjectID="S2",
    ContrastBolusAgent="GADOVIST",
    RepetitionTime=5000,
    ScanningSequence="GR",
    ScanOptions="FS",
    MagneticFieldStrength=3,
    DeviceSerialNumber="77",
    ProtocolName="T2 tse",
    BodyPartExamined="KNEE",
    PatientPosition="HFP",
    SliceThickness=1.5,
    PhotometricInterpretation="MONOCHROME1",
    SyntheticData="YES",
)
TWO_ACQUISITIONS = {name: among(UPPER, **{name: value}) for name, value in ABOVE.items()} | {
    "patient above": among(UPPER, PatientID="P2", PatientName="Roe^Jim"),
    "patients with own series": among(UPPER, PatientID="P2", SeriesInstanceUID="1.2.3"),
    "patients interleaved": among(EVERY_SECOND, PatientID="P2"),
    "echo": among(EVERY_SECOND, EchoTime=80),
    "kind of image": among(EVERY_SECOND, ImageType=["ORIGINAL", "PRIMARY", "P"]),
    "time point": among(EVERY_SECOND, TemporalPositionIdentifier=2),
    "b-value": among(EVERY_SECOND, DiffusionBValue=1000),
}
ONE_VOLUME = {
    "unchanged": lambda header, k: None,
    "times and numbers of slices": lambda header, k: made.change(
        header, AcquisitionTime=f"1200{k:02d}", AcquisitionNumber=k, TriggerTime=k
    ),
    "rounded echo times": lambda header, k: made.change(header, EchoTime=15.001 + 1e-3 * (k % 2)),
    "name with empty parts": among(UPPER, PatientName="Doe^Jane^^"),
    "no series identifier": among(ALL, SeriesInstanceUID=None),
    "display": lambda header, k: made.change(header, WindowCenter=100 + k, WindowWidth=200 + k),
    "dose": lambda header, k: made.change(header, XRayTubeCurrent=90 + k, ExposureTime=500 + k),
    "comments": lambda header, k: made.change(header, ImageComments=f"slice {k}", SAR=1 + k / 9),
    "bits in use": among(UPPER, BitsStored=12, HighBit=11),
}
NO_VOLUME = {
    "PixelSpacing": among(ALL, PixelSpacing=None),
    "ImagePositionPatient": among(ALL, ImagePositionPatient=None),
    "ImageOrientationPatient": among(ALL, ImageOrientationPatient=None),
    "PatientName": lambda header, k: made.change(header, PatientName=f"A{k}"),
}
# one slice that is not of the volume -> the element that the error names
STRAYS = {
    "another ImageOrientationPatient": ([7], {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}),
    "another PatientID": ([7], {"PatientID": "P2"}),
    "another ContrastBolusAgent": ([0], {"ContrastBolusAgent": "GADOVIST"}),
    "no PixelSpacing": ([7], {"PixelSpacing": None}),
    "another StudyInstanceUID": ([3], {"StudyInstanceUID": "1.2.3"}),
}


@pytest.mark.parametrize("name", TWO_ACQUISITIONS)
def test_two_acquisitions_of_one_series_are_two_scans(tmp_path, name):
    scans = io.scans(series(tmp_path, TWO_ACQUISITIONS[name]))
    assert [len(scan.files) for scan in scans] == [COUNT // 2] * 2
    assert len({scan.name for scan in scans}) == 2
    assert not name.startswith("patient") or all("patient-" in scan.name for scan in scans)
    for scan in scans:
        image = io.read(scan)
        assert image.pixels.shape[1] == COUNT // 2
        assert len({header.PatientID for header in image.header}) == 1
        assert not {"P2", "Roe", "Doe"} & set(scan.name.replace("_", " ").split())


@pytest.mark.parametrize("name", ONE_VOLUME)
def test_slices_of_one_acquisition_are_one_volume(tmp_path, name):
    (scan,) = io.scans(series(tmp_path, ONE_VOLUME[name]))
    np.testing.assert_array_equal(io.read(scan).pixels[0], made.head(COUNT))


@pytest.mark.parametrize("element", NO_VOLUME)
def test_no_volume_is_refused_by_its_element(tmp_path, element):
    (scan,) = io.scans(series(tmp_path, NO_VOLUME[element]))
    with pytest.raises(UserError, match=f"{COUNT} slices of .* are not one volume: .*{element}"):
        io.read(scan)


@pytest.mark.parametrize("what", STRAYS)
def test_slice_that_is_not_of_the_volume_is_named(tmp_path, what):
    numbers, elements = STRAYS[what]
    (scan,) = io.scans(series(tmp_path, among(numbers, **elements)))
    odd = made.series(tmp_path / "named", made.head(COUNT))[numbers[0]].name
    with pytest.raises(UserError, match=rf"are not one volume: '{odd}' \({what}\)\. "):
        io.read(scan)


def test_a_text_in_place_of_a_number_is_another_value(tmp_path):
    def change(header: Dataset, k: int) -> None:
        header.add_new("EchoTime", "LO", "long" if k == 3 else "short")

    (scan,) = io.scans(series(tmp_path, change))
    with pytest.raises(UserError, match=r"are not one volume: .* \(another EchoTime\)"):
        io.read(scan)


def test_localizer_of_three_planes_keeps_its_slices(tmp_path):
    for name, axes in (("a", made.AXIAL), ("c", made.CORONAL), ("s", made.SAGITTAL)):
        made.series(tmp_path, made.head(1), axes=axes, prefix=name)
    assert [len(scan.files) for scan in io.scans(tmp_path)] == [1, 1, 1]


def test_pictures_without_a_place_stay_single(tmp_path):
    made.series(tmp_path, made.head(3), modality="OT", ImagePositionPatient=None, PixelSpacing=None)
    assert [len(scan.files) for scan in io.scans(tmp_path)] == [1, 1, 1]


def philips_scale(header: Dataset, scale: float) -> None:
    """Set the private scale of Philips in a slice, or in an item of a frame."""
    block = header.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
    block.add_new(0x0E, "FL", scale)


def test_philips_scales_that_differ_are_refused(tmp_path):
    scales = series(tmp_path, lambda header, k: philips_scale(header, float(1 + k % 4)))
    with pytest.raises(UserError, match="different private scales of Philips.*dcm2niix"):
        io.read(scales)


def test_philips_scales_of_frames_that_differ_are_refused(tmp_path):
    path = made.enhanced(tmp_path / "e.dcm", made.head(COUNT))
    header = dcmread(path)
    for k, frame in enumerate(header.PerFrameFunctionalGroupsSequence):
        philips_scale(item := Dataset(), float(1 + k % 4))
        frame.private_block(0x2005, "Philips MR Imaging DD 005", create=True)
        frame.add_new((0x2005, 0x140F), "SQ", [item])
    header.save_as(path)

    with pytest.raises(UserError, match="different private scales of Philips"):
        io.read(path)


def test_one_philips_scale_keeps_the_displayed_values(tmp_path):
    image = io.read(series(tmp_path, lambda header, k: philips_scale(header, 0.01)))
    np.testing.assert_array_equal(image.pixels[0], made.head(COUNT))


@pytest.mark.parametrize("intercept", [0, None, -1000])
def test_ct_slice_of_another_intercept_is_named(tmp_path, intercept):
    path = made.series(tmp_path, made.head(COUNT), modality="CT")[3]
    made.change(header := dcmread(path), RescaleIntercept=intercept)
    header.save_as(path)
    with pytest.raises(UserError, match=rf"'{path.name}' \((no|another) RescaleIntercept\)"):
        io.read(tmp_path)
