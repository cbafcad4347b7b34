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


ASKED = {
    "filename,modality,subject": "no column path.*filename, modality, subject.*path,domain,patient",
    "path,modality,subject": "does not say the domain of each image.*path,domain,patient",
    "path,domain,Subject ID": "no column patient.*not read: subject id.*data.split.by=image",
}


@pytest.mark.parametrize("header", ASKED)
def test_what_other_columns_may_say_is_asked(tmp_path, scans, gantk, header):
    file = table(tmp_path, header.split(","), scans)
    domains = "data.domains=['CT', 'MR']"
    recipe = ("run", "dualgan_t1t2", "--data", file, "--set", domains)
    run = gantk(*recipe, "--out", tmp_path / "run")
    assert re.search(ASKED[header], run.refused())
    assert not (tmp_path / "run").exists()


def test_columns_that_are_not_read_are_named(tmp_path, scans):
    rows = [(*row, "37", "Skyra") for row in scans]
    result = check(table(tmp_path, ("PATH", "Domain", "patient", "age", "scanner"), rows))

    assert {name: each["files"] for name, each in result["domains"].items()} == {"CT": 12, "MR": 12}
    assert result["patients"] == 6
    assert result["summary"]["layout"] == (
        "columns path, domain, patient (not read: age, scanner): CT 12, MR 12; 6 patients; no pairs"
    )


def test_visits_tell_images_of_a_patient_apart(tmp_path, scans):
    rows = [(path, kind, who, n // 2 % 2) for n, (path, kind, who) in enumerate(scans)]
    result = check(table(tmp_path, ("path", "domain", "patient", "visit"), rows))
    said = "CT 12, MR 12; 6 patients; 12 visits; 12 pairs"
    assert result["summary"]["layout"] == f"columns path, domain, patient, visit: {said}"


def test_several_volumes_of_one_visit_are_counted(tmp_path):
    rows = [(f"{name}_{n}.nii", "T1", f"p{n}") for n in range(3) for name in ("axial", "other")]
    for path, *_ in rows:
        volume(tmp_path / path, sum(map(ord, path)) % 99)
    found = check(table(tmp_path, ("path", "domain", "patient"), rows[:5]))
    said = "T1 5; 3 patients; 2 patients with several files of one contrast and visit"
    assert found["summary"]["layout"] == f"columns path, domain, patient: {said}"


def test_several_words_say_a_contrast(tmp_path, scans):
    kinds = {"CT": "T1 nativ", "MR": "T2"}
    rows = [(path, kinds[kind], who) for path, kind, who in scans[:22]]
    rows += [(path, "T1 KM", who) for path, _, who in scans[22:]]
    result = check(table(tmp_path, ("path", "domain", "patient"), rows))
    assert {name: each["files"] for name, each in result["domains"].items()} == {"T1": 11, "T2": 11}


@pytest.mark.parametrize("path", ["path", "where"])
@pytest.mark.parametrize("command", ["check", "plan", "run"])
def test_a_table_that_says_no_domain_is_an_error(tmp_path, scans, gantk, path, command):
    file = table(tmp_path, (path, "subject"), [(row[0], row[2]) for row in scans])
    done = {
        "check": lambda: gantk("data", "check", file),
        "plan": lambda: gantk("plan", file, "--out", tmp_path / "recipe.toml"),
        "run": lambda: gantk("run", "dualgan_t1t2", "--data", file, "--out", tmp_path / "run"),
    }[command]()

    assert done.code == 2
    assert "domain" in done.err
    assert f"{path}, subject" in done.err
    assert not (tmp_path / "recipe.toml").exists()
    assert not (tmp_path / "run").exists()


def test_an_empty_domain_is_an_error_unless_rows_are_classes(tmp_path, scans):
    rows = [(path, "", who, kind) for path, kind, who in scans]
    with pytest.raises(UserError, match="does not say the domain"):
        check(table(tmp_path, ("path", "domain", "patient"), [row[:3] for row in rows]))

    classes = check(table(tmp_path, ("path", "domain", "patient", "label"), rows))
    assert list(classes["domains"]) == ["images"]


def encoded(folder, rows, encoding):
    lines = [",".join(row) for row in [("path", "domain", "patient"), *rows]]
    (folder / "table.csv").write_bytes("\r\n".join(lines).encode(encoding))
    return folder / "table.csv"


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16-le", "utf-16-be"])
def test_tables_of_other_encodings_say_the_remedy(tmp_path, scans, encoding):
    rows = [list(row) for row in scans]
    rows[6][2] = "Jos\u00e9"
    with pytest.raises(UserError) as error:
        check(encoded(tmp_path, rows, encoding))

    assert "not UTF-8 text" in error.value.what
    assert "table.csv" in error.value.what
    assert "save the table again, in Excel as 'CSV UTF-8'" in error.value.remedy
