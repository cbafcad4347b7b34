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


def notes(result):
    return [each["what"] for each in result["problems"] if each["severity"] == "note"]


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


def test_two_channels_of_one_domain_are_an_error(tmp_path):
    for number in range(4):
        volume(tmp_path / f"p{number // 2}_000{number % 2}.nii.gz", number)
    rows = [(f"p{n}_000{k}.nii.gz", "T1", f"p{n}") for n in range(2) for k in range(2)]
    with pytest.raises(UserError, match="two channels of one scan T1: 'p0_0000.nii.gz'"):
        check(table(tmp_path, ("path", "domain", "patient"), rows))


def test_several_words_say_a_contrast(tmp_path, scans):
    kinds = {"CT": "T1 nativ", "MR": "T2"}
    rows = [(path, kinds[kind], who) for path, kind, who in scans[:22]]
    rows += [(path, "T1 KM", who) for path, _, who in scans[22:]]
    result = check(table(tmp_path, ("path", "domain", "patient"), rows))
    assert {name: each["files"] for name, each in result["domains"].items()} == {"T1": 11, "T2": 11}


@pytest.mark.parametrize("separator", ["/", "\\"])
def test_a_table_in_a_folder_of_images_is_told(tmp_path, scans, separator):
    header = ("path", "domain", "patient")
    table(tmp_path, header, [(row[0].replace("/", separator), *row[1:]) for row in scans])
    (tmp_path / "other.csv").write_text("centre,scanner\nBerlin,Skyra")
    said = [note for note in notes(check(tmp_path)) if "from a table in it" in note]
    assert len(said) == 1
    assert "'table.csv' lists images" in said[0]


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


def test_a_recipe_of_one_domain_names_no_images_of_a_table(tmp_path, scans, gantk):
    file = table(tmp_path, ("path", "subject"), [(row[0], row[2]) for row in scans])
    run = gantk("run", "dcgan_tumour", "--data", file, "--out", tmp_path / "run")
    checked = gantk("data", "check", file, "--recipe", "dcgan_tumour")

    for done in (run, checked):
        assert done.code == 2
        assert "does not say the domain of each image" in done.err
        assert """--set 'data.domains=["FLAIR"]'""" in done.err
    assert not (tmp_path / "run").exists()


def encoded(folder, rows, encoding):
    lines = [",".join(row) for row in [("path", "domain", "patient"), *rows]]
    (folder / "table.csv").write_bytes("\r\n".join(lines).encode(encoding))
    return folder / "table.csv"


@pytest.mark.parametrize(
    ("encoding", "line"), [("latin-1", 8), ("cp1252", 8), ("utf-16-le", 1), ("utf-16-be", 1)]
)
def test_tables_of_other_encodings_say_line_and_remedy(tmp_path, scans, encoding, line):
    rows = [list(row) for row in scans]
    if line == 8:
        rows[6][2] = "Jos\u00e9"
    with pytest.raises(UserError) as error:
        check(encoded(tmp_path, rows, encoding))

    assert f"line {line} is not UTF-8 text" in error.value.what
    assert "table.csv" in error.value.what
    assert "save the table again, in Excel as 'CSV UTF-8'" in error.value.remedy


def named(folder, pictures, rows):
    """A table of pictures by (path, domain), and what its contrasts are warned of."""
    for file, (path, _) in zip(pictures(folder / "drawn", len(rows)), rows, strict=True):
        (folder / path).parent.mkdir(exist_ok=True, parents=True)
        file.rename(folder / path)
    lines = [(path, domain, f"p{number // 2}") for number, (path, domain) in enumerate(rows)]
    found = check(table(folder, ("path", "domain", "patient"), lines))
    return [each["what"] for each in found["problems"] if each["kind"] == "contrast"]


def six(name, domains):
    """(path, domain) of two images of each of six patients."""
    return [(name.format(n=n, k=k), domain) for n in range(6) for k, domain in domains.items()]


SWAPPED = {"T1": "T2", "T2": "T1"}


@pytest.mark.parametrize("name", ["p{n}_{k}.png", "{k}w/p{n}.png", "p{n}/{k}/1.png"])
def test_domains_that_contradict_most_names_are_warned_of(tmp_path, pictures, name):
    told = named(tmp_path, pictures, six(name, SWAPPED))
    assert [each.partition(":")[0] for each in sorted(told)] == [
        "6 of 6 images of T1 are called T2 by name",
        "6 of 6 images of T2 are called T1 by name",
    ]
    assert all(".png'" in each for each in told)


@pytest.mark.parametrize("command", ["check", "plan", "run"])
def test_a_table_without_a_header_is_an_error(tmp_path, scans, gantk, command):
    path = str(table(tmp_path, scans[0], scans[1:]))
    words = {
        "check": ("data", "check", path),
        "plan": ("plan", path, "--hours", "0.01", "--out", str(tmp_path / "plan.toml")),
        "run": ("run", "dualgan_t1t2", "--data", path, "--out", str(tmp_path / "run")),
    }[command]
    told = gantk(*words).refused()

    assert "has no header: its first row names the image" in told
    assert not (tmp_path / "plan.toml").exists()
