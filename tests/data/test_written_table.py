"""`gantk data check SCANS --table scans.csv`: the table trains as the folder does, and what names do
not decide is an empty cell.
"""

import csv
import re

import numpy as np
import pytest
from PIL import Image
from volumes import FROM_NOISE, UNPAIRED, load, volume

from gantk import check
from gantk.data.dataset import source_and_records
from gantk.data.sources.source import source_for
from gantk.errors import UserError
from gantk.recipe.load import Recipe


def picture(path):
    """A picture whose pixels depend on its path."""
    seed = sum(map(ord, str(path)))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (16, 16), np.uint8)).save(path)


def rows_of(table):
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def records_of(path, domains, **split):
    """What a source makes of a path: what of a record a table can say."""
    source = source_for(path, len(domains))
    method = UNPAIRED if len(domains) == 2 else FROM_NOISE
    data = load(source, method, domains=domains, split=split or {"by": "image"})
    return {
        (
            record.path,
            record.key.rpartition("/plane")[2] if record.scan_key else "",
            record.domain,
            record.subject,
            record.split,
            record.label,
            record.mask_files,
        )
        for records in data.splits.values()
        for record in records
    }, {
        tuple(record.path for record in pair.values())
        for split in (data.splits if len(domains) == 2 else ())
        for pair in data.pairs(split)
    }


def grown(root, names):
    for n, name in enumerate(names):
        if name.endswith(".png"):
            picture(root / name)
        else:
            volume(root / name, n)
    return root


LAYOUTS = {
    "pictures": [f"{k}/p{n}/{i}.png" for k in ("CT", "MR") for n in range(6) for i in range(3)],
    "pictures in splits": [
        f"{s}/{k}/{n}{s}.png" for s in ("train", "test") for k in ("CT", "MR") for n in range(4)
    ],
    "visits": [f"p{n}/ses-{i}/{k}.nii" for n in range(5) for i in (1, 2) for k in ("T1", "T2")],
    "BIDS and others": [
        *(f"sub-{n:02d}/anat/sub-{n:02d}_{k}w.nii" for n in range(4) for k in ("T1", "T2")),
        "hospital/p7/T1.nii",
    ],
    "a mask": [f"p{n}/{k}.nii" for n in range(4) for k in ("T1", "T2", "seg")],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_table_gives_the_same_records_as_the_folder(tmp_path, layout):
    root = grown(tmp_path / "scans", LAYOUTS[layout])
    result = check(root, table=tmp_path / "scans.csv")
    domains = tuple(result["domains"])
    found = records_of(root, domains)

    assert found[0]
    assert records_of(tmp_path / "scans.csv", domains) == found
    rows = rows_of(tmp_path / "scans.csv")
    assert {row["path"] for row in rows} == {f"scans/{name}" for name in LAYOUTS[layout]}


CHANNELS = ("T1", "T2", "FLAIR")
VISITS = [
    f"P{n}/{v}/P{n}_{v}_{k}.nii"
    for n in (1, 2)
    for v in ("T1", "T2")
    for k in ("FLAIR", "T1", "T2")
]


ONE_SLICE = [
    f"BRATS_{p}/BRATS_{p}_{k}_slice9{p[5]}.nii.gz"
    for p in ("HG0001", "HG0002", "HG0003", "HG0004", "HG0011", "HG0013")
    for k in ("T1", "T2", "FLAIR", "atropos_tissue", "MASK")
]


@pytest.mark.parametrize(
    ("names", "open_rows"),  # these have no patient
    [(VISITS, r"T1_FLAIR|_T[12]\.nii"), (ONE_SLICE, "tissue")],
    ids=["doubted", "in all proposals"],
)
def test_patients_of_a_question_are_cells_where_none_differs(tmp_path, names, open_rows):
    root = grown(tmp_path / "scans", names)
    with pytest.raises(UserError, match="gantk data check .* --table scans.csv"):
        check(root)
    found = check(root, table=tmp_path / "t.csv")

    assert f"{len(names)} rows" in found["summary"]["table"]
    (remedy,) = [each["remedy"] for each in found["problems"]]
    assert remedy == "Complete the table: cells in which these lines differ are empty"
    rows = rows_of(tmp_path / "t.csv")
    assert len(rows) == len(names)
    used = [row for row in rows if row["split"] != "none"]
    without_patient = {row["path"] for row in used if not row["patient"]}
    assert without_patient == {f"scans/{name}" for name in names if re.search(open_rows, name)}
    assert not {row["domain"] for row in used} - {"T1", "T2", ""}


@pytest.mark.parametrize(
    ("names", "stray"),
    [
        ([f"p{n}/{k}.nii.gz" for n in range(4) for k in ("T1", "T2")], "p0/T1_tumour.nii.gz"),
        ([f"{k}/case{n}.nii.gz" for n in range(4) for k in ("T1", "T2")], "T1/x_T2.nii.gz"),
    ],
)
def test_a_doubtful_file_alone_has_no_domain_in_the_table(tmp_path, names, stray):
    check(grown(tmp_path / "scans", [*names, stray]), table=tmp_path / "t.csv")
    rows = rows_of(tmp_path / "t.csv")
    assert {row["path"] for row in rows if not row["domain"]} == {f"scans/{stray}"}


def test_halves_of_pictures_are_not_written_as_whole_ones(tmp_path):
    for n in range(3):
        Image.new("L", (32, 16), n).save(tmp_path / f"{n}.png")
    with pytest.raises(UserError, match="'aligned' reads parts of files"):
        check(tmp_path, table=tmp_path / "t.csv")


PEOPLE = {f"{k}/p{n}" for k in "01" for n in range(4)}
MADE = {  # source -> the cells of columns
    '"mixed", sources = [{from}, {from}]': {"patient": PEOPLE, "pair": PEOPLE},
    '"misaligned", pixels = 0, source = {from}': {"split": {"train", "validation", "test"}},
}


@pytest.mark.parametrize("source", MADE)
def test_what_a_source_makes_of_others_is_in_the_table(tmp_path, source):
    root = grown(tmp_path / "scans", [f"p{n}/{k}.png" for n in range(4) for k in ("T1", "T2")])
    listed = f"{{name = 'files', path = '{root}'}}"
    settings = [f"data.source={{name = {source.replace('{from}', listed)}}}"]
    check(root, set=[*settings, 'data.domains=["T1", "T2"]'], table=tmp_path / "t.csv")
    rows = rows_of(tmp_path / "t.csv")
    for column, cells in MADE[source].items():
        assert {row[column] for row in rows} == cells


@pytest.mark.parametrize("domains", [("T1+T2", "FLAIR"), ("T1+FLAIR",), ("T1+T2+FLAIR",) * 2])
def test_contrasts_of_a_table_are_channels_as_those_of_a_folder(tmp_path, domains):
    names = [f"p{n}/{v}/{k}.nii" for n in range(4) for v in ("ses-1", "ses-2") for k in CHANNELS]
    root = grown(tmp_path / "scans", names)
    (root / "p2" / "ses-1" / "T2.nii").unlink()
    settings = [f"data.domains={list(domains)}", 'data.missing="mask"']
    check(root, set=settings, table=tmp_path / "long.csv")
    lines = [
        [*(f"scans/p{n}/ses-{v}/{k}.nii" for k in CHANNELS), f"p{n}", f"ses-{v}"]
        for n in range(4)
        for v in (1, 2)
    ]
    lines[4][1] = ""
    with (tmp_path / "wide.csv").open("w", newline="") as file:
        csv.writer(file).writerows([(*CHANNELS, "patient", "visit"), *lines])

    def images_of(path):
        table = Recipe({}).override(settings).tables["data"] | {"source": source_for(path)}
        method = UNPAIRED if len(domains) == 2 else FROM_NOISE
        records = source_and_records(Recipe({"data": table}).data_table(), method)[1]
        return {
            (each.domain, each.subject, each.files, each.missing, each.pair and each.key)
            for each in records
        }

    key = "scans/" if len(domains) == 2 else ""
    expected = {(*rest, pair and f"{key}{pair}") for *rest, pair in images_of(root)}
    assert len(expected) >= 8
    assert images_of(tmp_path / "wide.csv") == expected
    assert images_of(tmp_path / "long.csv") == expected


def test_a_second_volume_of_a_contrast_is_no_image_of_its_own(tmp_path):
    names = [f"p{n}/{k}.nii" for n in range(3) for k in ("T1_a", "T1_b", "T2", "FLAIR")]
    grown(tmp_path, names)
    lines = [f"{name},{name[3:].partition('_')[0].partition('.')[0]},{name[:2]}" for name in names]
    (tmp_path / "t.csv").write_text("\n".join(["path,domain,patient", *lines]))
    settings = ['data.domains=["T1+T2", "FLAIR"]', 'data.missing="mask"']
    with pytest.raises(UserError, match="two files of T1: 'T1_a.nii' and 'T1_b.nii'"):
        check(tmp_path / "t.csv", set=settings)
