"""Tables as people have them: a column of another name than ours is asked about, or named."""

import csv
import re

import pytest
from volumes import volume

from gantk import check
from gantk.errors import UserError


@pytest.fixture
def scans(tmp_path, pictures):
    """Six patients with two CT and two MR pictures each: (path, domain, patient), no name says
    more.
    """
    files = pictures(tmp_path / "scans", 24)
    rows = []
    for number, file in enumerate(files):
        kind = ("CT", "MR")[number % 2]
        rows.append((str(file.relative_to(tmp_path)), kind, f"p{number // 4}"))
    return rows


def table(folder, header, rows):
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return folder / "table.csv"


def test_what_another_column_may_say_is_asked(tmp_path, scans, gantk):
    file = table(tmp_path, ("path", "domain", "Subject ID"), scans)
    domains = "data.domains=['CT', 'MR']"
    recipe = ("run", "dualgan_t1t2", "--data", file, "--set", domains)
    run = gantk(*recipe, "--out", tmp_path / "run")
    says = "no column patient.*not read: subject id.*data.split.by=block"
    assert re.search(says, run.refused())
    assert not (tmp_path / "run").exists()


# header -> the row of image n, and what is said of the table
SAID = {
    "PATH,Domain,patient,age,scanner": (
        lambda n, *row: (*row, "37", "Skyra"),
        "CT 12, MR 12; 6 patients; no pairs; by columns path, domain, patient (not read: age, scanner)",
    ),
    "path,domain,patient,visit": (
        lambda n, *row: (*row, n // 2 % 2),
        "CT 12, MR 12; 6 patients; 12 visits; 12 pairs; by columns path, domain, patient, visit",
    ),
    "path,domain,patient,pair": (
        lambda n, *row: (*row, n // 2 if n < 4 else ""),
        "CT 12, MR 12; 6 patients; 2 pairs; by columns path, domain, patient, pair",
    ),
    "path,domain,patient": (
        lambda n, path, kind, who: (path, ("T1 nativ", "T2")[n % 2] if n < 22 else "T1 KM", who),
        "T1 11, T2 11; 6 patients; 1 pair; 2 left out (T1 KM); by columns path, domain, patient",
    ),
}


@pytest.mark.parametrize("header", SAID)
def test_what_a_table_says_is_told(tmp_path, scans, header):
    row_of, said = SAID[header]
    rows = [row_of(n, *row) for n, row in enumerate(scans)]
    result = check(table(tmp_path, header.split(","), rows))
    assert result["summary"]["layout"] == said


@pytest.mark.parametrize("patient", ["", "p1"])
def test_a_column_patient_of_one_value_raises_no_doubt(tmp_path, scans, patient, recwarn):
    rows = [(path, kind, patient, n // 2) for n, (path, kind, _) in enumerate(scans)]
    found = check(table(tmp_path, ("path", "domain", "patient", "pair"), rows))
    assert not [each for each in found["problems"] if "column patient of" in each["what"]]
    assert (found["split"] is None) == bool(patient)  # one patient cannot be divided
    assert not [*recwarn]


def test_several_volumes_of_one_visit_are_counted(tmp_path):
    rows = [(f"{name}_{n}.nii", "T1", f"p{n}") for n in range(3) for name in ("axial", "other")]
    for path, *_ in rows:
        volume(tmp_path / path, sum(map(ord, path)) % 99)
    found = check(table(tmp_path, ("path", "domain", "patient"), rows[:5]))
    said = "T1 5; 3 patients; 2 patients with several files of one contrast and visit"
    assert found["summary"]["layout"] == f"{said}; by columns path, domain, patient"


def test_an_empty_domain_is_an_error_unless_rows_are_classes(tmp_path, scans):
    rows = [(path, "", who, kind) for path, kind, who in scans]
    with pytest.raises(UserError, match="does not say the domain"):
        check(table(tmp_path, ("path", "domain", "patient"), [row[:3] for row in rows]))

    classes = check(table(tmp_path, ("path", "domain", "patient", "label"), rows))
    assert list(classes["domains"]) == ["images"]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16-le", "utf-16-be"])
def test_tables_of_other_encodings_say_the_remedy(tmp_path, encoding):
    text = "path,domain,patient\r\np1.nii,T1,Jos\u00e9\r\n"
    (tmp_path / "table.csv").write_bytes(text.encode(encoding))
    with pytest.raises(UserError) as error:
        check(tmp_path / "table.csv")

    assert "not UTF-8 text" in error.value.what
    assert "table.csv" in error.value.what
    assert "save the table again, in Excel as 'CSV UTF-8'" in error.value.remedy
