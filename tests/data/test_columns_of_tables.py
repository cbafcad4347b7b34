"""Tables as people have them: columns by their usual names, and tables that do not say which kind of
image each one is.
"""

import csv

import pytest

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


@pytest.mark.parametrize(
    "header",
    [
        ("filename", "modality", "subject"),
        ("Image Path", "Contrast", "Patient ID"),
        ("file", "sequence", "id"),
        ("image", "DOMAIN", "participant_id"),
        ("Datei", "Sequenz", "Subject"),
    ],
    ids=" ".join,
)
def test_usual_names_of_columns_are_understood(tmp_path, scans, header):
    result = check(table(tmp_path, header, scans))

    assert {name: each["files"] for name, each in result["domains"].items()} == {"CT": 12, "MR": 12}
    assert result["patients"] == 6
    own = ", ".join(name.lower() for name in header if name.lower() != "domain")
    assert any(f"the columns {own} of" in note for note in notes(result))


def test_several_words_say_a_contrast(tmp_path, scans):
    kinds = {"CT": "T1 nativ", "MR": "T2"}
    rows = [(path, kinds[kind], who) for path, kind, who in scans[:22]]
    rows += [(path, "T1 KM", who) for path, _, who in scans[22:]]
    result = check(table(tmp_path, ("path", "sequence", "patient"), rows))
    assert {name: each["files"] for name, each in result["domains"].items()} == {"T1": 11, "T2": 11}


@pytest.mark.parametrize("separator", ["/", "\\"])
def test_a_table_in_a_folder_of_images_is_told(tmp_path, scans, separator):
    header = ("path", "domain", "patient")
    table(tmp_path, header, [(row[0].replace("/", separator), *row[1:]) for row in scans])
    (tmp_path / "other.csv").write_text("centre,scanner\nBerlin,Skyra")
    said = [note for note in notes(check(tmp_path)) if "from a table in it" in note]
    assert len(said) == 1
    assert "'table.csv' lists images" in said[0]


def test_a_column_of_dates_names_no_images(tmp_path, scans):
    rows = [(who, "10.01.2024", kind, path) for path, kind, who in scans]
    with pytest.raises(UserError, match="the column .ablage. names the images, but no column"):
        check(table(tmp_path, ("Patient", "Datum", "Art", "Ablage"), rows))


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
    with pytest.raises(UserError, match="the column 'domain' is empty"):
        check(table(tmp_path, ("path", "domain", "patient"), [row[:3] for row in rows]))

    classes = check(table(tmp_path, ("path", "domain", "patient", "label"), rows))
    assert list(classes["domains"]) == ["images"]


def test_two_columns_that_may_be_the_domain_ask(tmp_path, scans):
    rows = [(path, "MR", kind, who) for path, kind, who in scans]
    with pytest.raises(UserError, match="sequence and modality .* may both be the domain"):
        check(table(tmp_path, ("file", "modality", "sequence", "subject"), rows))

    result = check(table(tmp_path, ("file", "modality", "domain", "subject"), rows))
    assert result["domains"].keys() == {"CT", "MR"}


def test_a_column_id_that_numbers_images_is_no_patient(tmp_path, scans):
    rows = [(n, path, kind) for n, (path, kind, _) in enumerate(scans)]
    result = check(table(tmp_path, ("id", "path", "domain"), rows))

    assert result["patients"] == 0
    assert any("differs in each row" in note for note in notes(result))


@pytest.mark.parametrize("path", ["path", "image"])
def test_a_recipe_of_one_domain_names_no_images_of_a_table(tmp_path, scans, gantk, path):
    file = table(tmp_path, (path, "subject"), [(row[0], row[2]) for row in scans])
    run = gantk("run", "dcgan_tumour", "--data", file, "--out", tmp_path / "run")
    checked = gantk("data", "check", file, "--recipe", "dcgan_tumour")

    for done in (run, checked):
        assert done.code == 2
        assert "no column says which kind of image" in done.err
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
