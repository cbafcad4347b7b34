"""What a DICOM header says that a measured scan does not say: header -> words, and whether it is
none.
"""

import dicom_files as made
import pytest
from pydicom import dcmread
from pytest import approx

from gantk.formats import files as io

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # of odd ages
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


AGENTS = {"GADOVIST": True, "": False, "NO": False, "NONE": False, "ohne KM": False}
AGES = {"045Y": 45, "018M": 1.5, "026W": 0.5, "007D": 0.02}
# elements of a header -> what is known of the scan
FACTS = [
    (
        {"BodyPartExamined": "BRAIN", "MagneticFieldStrength": 1.5},
        {"body_part": "head", "field_strength": 1.5},
    ),
    (
        {"BodyPartExamined": "LSPINE", "MagneticFieldStrength": 15000},
        {"body_part": "lspine", "field_strength": None},
    ),
    ({"StudyDescription": "MRT Kopf", "ProtocolName": "hip"}, {"body_part": "head"}),
    ({"SeriesDescription": "T1 hippocampus"}, {"body_part": None}),
    ({}, {"body_part": None, "field_strength": None}),
    *(({"ContrastBolusAgent": said}, {"agent": agent}) for said, agent in AGENTS.items()),
    *(({"PatientAge": said}, {"age": approx(years, rel=0.05)}) for said, years in AGES.items()),
    ({"PatientAge": "45"}, {"age": None}),
]


@pytest.mark.parametrize(("elements", "known"), FACTS, ids=str)
def test_a_header_tells_what_is_known_of_the_scan(tmp_path, elements, known):
    (first, *_) = made.series(tmp_path, made.head(2), **elements)
    facts = io.read(first).facts

    assert {name: facts[name] for name in known} == known


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
