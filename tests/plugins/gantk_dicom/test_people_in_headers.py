"""Whose scan a DICOM series is: headers of several people that share an identifier are told."""

import pytest
from dicom_files import head, series
from pydicom import uid

import gantk

PEOPLE = 4
ONE = {"PatientID": "7", "PatientName": "Doe^Jane", "PatientBirthDate": "19700101"}

# what the headers of four people say -> the element that the error names; "" for no error
HEADERS = {
    "identifiers of their own": ([{"PatientID": f"P{i}"} for i in range(PEOPLE)], ""),
    "two visits each": ([{"PatientID": f"P{i % 2}"} for i in range(PEOPLE)], ""),
    "one name, spelled in two ways": (
        [
            {"PatientID": f"P{i % 2}", "PatientName": ["Doe^J", "DOE^JANE"][i // 2]}
            for i in range(4)
        ],
        "",
    ),
    "one identifier, other dates of birth": (
        [ONE | {"PatientBirthDate": f"19{60 + i}0101"} for i in range(PEOPLE)],
        "PatientBirthDate",
    ),
    "one identifier, other sexes": (
        [ONE | {"PatientSex": "MFMF"[i]} for i in range(4)],
        "PatientSex",
    ),
    "numbers of two hospitals": (
        [{"PatientID": f"{i % 2}", "IssuerOfPatientID": "AB"[i // 2]} for i in range(PEOPLE)],
        "IssuerOfPatientID",
    ),
    "small and capital letters": (
        [{"PatientID": ["p0", "P0", "p1", "P1"][i]} for i in range(4)],
        "case",
    ),
    "small and capital letters, without dates of birth": (
        [{"PatientID": ["p0", "P0", "p1", "P1"][i], "PatientBirthDate": ""} for i in range(4)],
        "case",
    ),
}


def problems_of(root, headers):
    """What a check says of people with a T1 and a T2 series each, with these headers."""
    for number, header in enumerate(headers):
        study = {
            "StudyInstanceUID": uid.generate_uid(),
            "FrameOfReferenceUID": uid.generate_uid(),
        }
        for contrast in ("T1", "T2"):
            own = {"SeriesDescription": contrast, "SeriesInstanceUID": uid.generate_uid()}
            pixels = head(2, 20, 18, seed=number)
            series(root / f"{number}" / contrast, pixels, **study | own | header)
    return [problem["what"] for problem in gantk.check(root)["problems"]]


@pytest.mark.parametrize("name", HEADERS)
def test_an_identifier_of_several_people_is_told(tmp_path, name):
    headers, told = HEADERS[name]
    problems = problems_of(tmp_path, headers)
    told_of = [problem for problem in problems if "PatientID" in problem]

    assert bool(told_of) == bool(told)
    assert all(told in message for message in told_of)
    assert "Doe" not in str(problems)


# identifiers, names and dates of birth of three patients' headers -> whether two may be one person
TWICE = {
    "leading zeros": (["7", "0007", "9"], ["", "", ""], "", True),
    "one name and date of birth": (["7", "8", "9"], ["Doe^J", "Doe^J", "Roe^A"], "19700101", True),
    "all called alike": (["7", "8", "9"], ["ANON", "ANON", "ANON"], "19700101", False),
}


@pytest.mark.parametrize("name", TWICE)
def test_one_person_under_two_identifiers_is_told(tmp_path, name):
    identifiers, names, born, told = TWICE[name]
    headers = [
        {"PatientID": identifier, "PatientName": called, "PatientBirthDate": born}
        for identifier, called in zip(identifiers, names, strict=True)
    ]
    said = problems_of(tmp_path, headers)
    assert any("One person may then be in training and test" in what for what in said) == told


# folders of series without an identifier, the study of each -> number of patients
NAMELESS = {
    "a folder for each series": (["0c", "1f", "7b", "a0"], ["1.1", "1.1", "1.2", "1.2"], 2),
    "one study in two folders": (["P1/3_T1", "P2/4_T2"], ["1.1", "1.1"], 1),
    "several series of a contrast": (["P1/3", "P1/4", "P1/5"], ["1.1", "1.1", "1.1"], 1),
}


def write_nameless(root, folders, studies):
    """A series without an identifier in each folder, of T1 and T2 in turn."""
    for number, (folder, study) in enumerate(zip(folders, studies, strict=True)):
        said = {
            "SeriesDescription": ("T1", "T2")[number % 2],
            "SeriesInstanceUID": uid.generate_uid(),
            "StudyInstanceUID": study,
        }
        series(root / folder, head(seed=number), **said, PatientID="")


@pytest.mark.parametrize("name", NAMELESS)
def test_without_an_identifier_each_study_is_a_patient(tmp_path, name):
    folders, studies, patients = NAMELESS[name]
    write_nameless(tmp_path, folders, studies)

    found = gantk.check(tmp_path)
    patient_of = {file["path"]: file["patient"] for file in found["files"]}
    assert sorted(patient_of) == sorted(folders)
    of_study = {(study, patient_of[path]) for path, study in zip(folders, studies, strict=True)}
    assert len(of_study) == len(set(studies))
    assert len({*patient_of.values()}) == patients
    assert any("PatientID is empty" in str(line) for line in found["problems"])


def test_series_of_nobody_known_are_asked_about(tmp_path):
    folders = ["P1/s1/3", "P1/s1/4", "P2/s1/3", "P2/s1/4"]
    write_nameless(tmp_path, folders, [""] * 4)

    asked = gantk.check(tmp_path)["problems"]
    answered = gantk.check(tmp_path, set=[r"data.source.patient=(P\d)"])

    (question,) = [each for each in asked if "StudyInstanceUID are empty" in each["what"]]
    assert question["severity"] == "error"
    assert "data.source.patient" in question["remedy"]
    assert {file["path"]: file["patient"] for file in answered["files"]} == {
        path: path[:2] for path in folders
    }
    assert not any("StudyInstanceUID" in each["what"] for each in answered["problems"])


# folders, description and further header of a series -> what it shows, "" for what is left out
SERIES = {
    "described": ("P{n}/3", "t1_se_tra", {}, "T1"),
    "folder of the contrast": ("P{n}/T1", "", {}, "T1"),
    "folder above": ("T1/P{n}/IM", "", {}, "T1"),
    "described against its folder": ("T2/P{n}", "t1_se", {}, "T1"),
    "subtraction": ("P{n}/3", "t1_se", {"ImageType": ["DERIVED", "PRIMARY", "SUB"]}, ""),
    "localizer": ("P{n}/3", "t1 localizer", {}, ""),
    "contrast agent in the header": ("P{n}/3", "t1_se", {"ContrastBolusAgent": "Gadovist"}, ""),
    "none in the header": ("P{n}/3", "t1_se", {"ContrastBolusAgent": "none"}, "T1"),
}


@pytest.mark.parametrize("name", SERIES)
def test_training_and_translation_see_the_same_series(name, tmp_path, tiny_run):
    odd, description, elements, shows = SERIES[name]
    scans = tmp_path / "scans"
    for number in range(4):
        t1 = (odd, description, elements) if number < 2 else ("P{n}/1", "t1_se", {})
        for n, (folder, said, own) in enumerate([t1, ("P{n}/2", "t2_tse", {})]):
            header = {"SeriesInstanceUID": f"1.{number}.{n}", "PatientID": f"P{number}"}
            place = scans / folder.format(n=number)
            pixels = head(2, 20, 18, seed=number)
            series(place, pixels, SeriesDescription=said, **header, **own)

    expected = 4 if shows else 2
    files = gantk.check(scans)["files"]
    trained_on = [each for each in files if "T1" in each["domains"]]
    assert len(trained_on) == expected

    gantk.translate(tiny_run, scans, tmp_path / "out", to="T2", say=lambda line: None)
    assert len([*(tmp_path / "out").rglob("*.json")]) == expected
