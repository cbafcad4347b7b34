"""What a DICOM header says that a measured scan does not say: header -> words, and whether it is
none.
"""

import dicom_files as made
import pytest
from pydicom import dcmread

from gantk.formats import files as io

CAPTURE = made.CLASSES["OT"]
DOUBTS = {
    "a scan": ({}, "", False),
    "a localizer by ImageType": (
        {"ImageType": ["ORIGINAL", "PRIMARY", "M", "LOCALIZER"]},
        "localizer",
        True,
    ),
    "a localizer by name": ({"ProtocolName": "3-plane scout"}, "localizer", True),
    "a screen capture": ({"SOPClassUID": CAPTURE}, "screen capture", True),
    "a phase image": ({"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}, "no magnitude", True),
    "a projection": ({"SeriesDescription": "t1 MIP"}, "projection", True),
    "a subtraction": ({"ImageType": ["DERIVED", "PRIMARY", "SUBTRACTION"]}, "subtraction", True),
    "a result of gantk": ({"SeriesDescription": "synthetic T1 (gantk)"}, "synthetic", True),
    "a synthetic image": ({"SyntheticData": "YES"}, "synthetic", True),
    "a reformatted stack": (
        {"ImageType": ["DERIVED", "SECONDARY", "MPR"]},
        "computed from other images",
        False,
    ),
    "letters": ({"BurnedInAnnotation": "YES"}, "letters", False),
    "compressed": ({"LossyImageCompression": "01"}, "lossy", False),
    "the end of a transfer": ({"ImagesInAcquisition": 9}, "lacks 5 of the 9 images", True),
    "as many as stated": ({"ImagesInAcquisition": 4}, "", False),
}


@pytest.mark.parametrize("case", DOUBTS)
def test_a_header_says_what_is_no_measured_scan(case, tmp_path):
    elements, words, is_no_scan = DOUBTS[case]
    made.series(tmp_path, made.head(4), **elements)
    (scan,) = io.scans(tmp_path)
    doubts = io.read(scan).doubts

    assert bool(doubts) == bool(words)
    assert not words or (words in doubts[0][0] and doubts[0][1] == is_no_scan)


def test_other_stacks_of_a_series_are_not_missing(tmp_path):
    for echo in (15, 90):
        made.series(
            tmp_path, made.head(4), prefix=f"e{echo}-", EchoTime=echo, ImagesInAcquisition=8
        )

    assert [io.read(scan).doubts for scan in io.scans(tmp_path)] == [(), ()]


@pytest.mark.parametrize(
    ("elements", "part", "tesla"),
    [
        ({"BodyPartExamined": "BRAIN", "MagneticFieldStrength": 1.5}, "head", 1.5),
        ({"BodyPartExamined": "LSPINE", "MagneticFieldStrength": 15000}, "lspine", None),
        ({"SeriesDescription": "t1_tse_sag LWS"}, "spine", None),
        ({"StudyDescription": "MRT Knie rechts"}, "knee", None),
        ({"StudyDescription": "MRT Kopf", "ProtocolName": "hip"}, "head", None),
        ({"SeriesDescription": "T1 hippocampus"}, None, None),
        ({}, None, None),
    ],
)
def test_a_header_tells_body_part_and_field_strength(tmp_path, elements, part, tesla):
    (first, *_) = made.series(tmp_path, made.head(2), **elements)
    facts = io.read(first).facts

    assert (facts["body_part"], facts["field_strength"]) == (part, tesla)


@pytest.mark.parametrize(
    ("elements", "said", "mark"),
    [
        ({"BodyPartExamined": "KNEE"}, "body part: knee, this model is for", "input does not fit"),
        (
            {"EchoTime": 100, "RepetitionTime": 9000, "InversionTime": 2500},
            "the header's TR 9000, TE 100, TI 2500 ms are not those of T1",
            "input does not fit",
        ),
        ({"ContrastBolusAgent": "GADOVIST"}, "contrast agent: header", "input fits partly"),
    ],
)
def test_a_result_of_a_scan_that_does_not_fit_says_so(tmp_path, gantk, elements, said, mark):
    header = elements | {"SeriesDescription": "T1 se"}
    made.series(tmp_path / "in", made.head(4, 160, 140), spacing=(1.0, 1.0), **header)
    done = gantk("translate", "t1t2", tmp_path / "in", tmp_path / "out", "--to", "T2")
    result = dcmread(next((tmp_path / "out").glob("*.dcm")))

    assert done.code == 0
    assert said in done.out
    assert result.SeriesDescription == f"synthetic T2, {mark}, t1t2 0.1.0 (gantk)"
    assert "t1t2 (pix2pix), weights sha256 eb816851" in result.ImageComments
    assert mark in (tmp_path / "out.json").read_text()


@pytest.mark.parametrize(
    ("said", "agent"),
    [("GADOVIST", True), ("", False), ("NO", False), ("NONE", False), ("ohne KM", False)],
)
def test_a_header_tells_a_contrast_agent(tmp_path, said, agent):
    (first, *_) = made.series(tmp_path, made.head(2), ContrastBolusAgent=said)

    assert io.read(first).facts["agent"] is agent


def test_a_birth_date_tells_the_age_of_an_infant(tmp_path):
    dates = {"PatientBirthDate": "20240601", "StudyDate": "20250310", "PatientAge": ""}
    (first, *_) = made.series(tmp_path, made.head(2), **dates)

    assert io.read(first).facts["age"] == pytest.approx(0.77, abs=0.01)
