"""Names that leave a doubt: words before running numbers that may be patients, and more contrasts
than a method reads.
"""

from itertools import product

import numpy as np
import pytest
from PIL import Image
from volumes import FROM_NOISE, UNPAIRED, load, volume

from gantk import check
from gantk.catalog.layouts import Asked, read_names
from gantk.data.description import describe
from gantk.errors import UserError

GROUPS = {"kirby": 102, "ms26": 84, "tcga6692": 60, "oasis": 7, "p": 1}


def drawn(root, stems):
    for b, kind in enumerate(("CT", "MR")):
        for n, stem in enumerate(stems):
            noise = np.random.default_rng([b, n]).integers(0, 255, (16, 16), dtype=np.uint8)
            (root / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise).save(root / kind / f"{stem}.png")
    return root


def of_groups():
    return [f"{word}_{first + i:03d}" for word, first in GROUPS.items() for i in range(9)]


def source(path, name="folders", **options):
    return {"name": name, "path": str(path), **options}


def test_words_before_running_numbers_ask_before_a_training(tmp_path):
    root = drawn(tmp_path, of_groups())
    with pytest.raises(UserError, match="'kirby_102' would be of patient 'kirby'") as error:
        load(source(root), UNPAIRED, domains=("CT", "MR"), split={})

    assert "data.source.patient=names" in error.value.remedy
    assert "data.split.by=block" in error.value.remedy
    data = load(source(root, patient="names"), UNPAIRED, domains=("CT", "MR"), split={})
    sets = [{record.subject for record in records} for records in data.splits.values()]
    assert len(set.union(*sets)) == len(GROUPS)
    assert sum(map(len, sets)) == len(GROUPS)
    load(source(root), UNPAIRED, domains=("CT", "MR"), split={"by": "block"})


@pytest.mark.parametrize(
    ("pattern", "count"),
    [("{n}/{p}_{k:03d}_T1.png", len(GROUPS)), ("{n}/{p}-{n}_T1.nii.gz", 2 * len(GROUPS))],
)
def test_names_decide_in_numbered_folders_where_users_say_so(tmp_path, pattern, count):
    places = product(GROUPS, (1, 2), range(4))
    paths = sorted({tmp_path / pattern.format(p=p, n=n, k=k) for p, n, k in places})
    found = {}
    for patient in ("", "names"):
        catalog = read_names(tmp_path, paths, Asked({"T1": ""}, patient=patient))
        found[patient] = len({row.subject for row in catalog})

    assert found == {"": 2, "names": count}


def test_words_for_sets_before_running_numbers_are_no_patients(tmp_path):
    root = drawn(tmp_path, [f"{word}_{i}" for word in ("train", "test") for i in range(9)])
    data = load(source(root), UNPAIRED, domains=("CT", "MR"), split={})

    assert {record.subject for each in data.splits.values() for record in each} == {""}


def test_a_table_of_such_names_without_patients_asks_too(tmp_path):
    root = drawn(tmp_path, of_groups())
    rows = [f"{file.relative_to(root)},{file.parent.name}" for file in sorted(root.rglob("*.png"))]
    table = tmp_path / "t.csv"
    table.write_text("\n".join(["path,domain", *rows]))
    with pytest.raises(UserError, match="may contain patients"):
        load(source(table, "manifest"), UNPAIRED, domains=("CT", "MR"), split={})

    named = source(table, "manifest", patient="names")
    data = load(named, UNPAIRED, domains=("CT", "MR"), split={})
    assert len({record.subject for each in data.splits.values() for record in each}) == len(GROUPS)

    patient = ["path,domain,patient", *(f"{row},{n % 7}" for n, row in enumerate(rows))]
    table.write_text("\n".join(patient))
    load(source(table, "manifest"), UNPAIRED, domains=("CT", "MR"), split={})


@pytest.mark.parametrize("as_table", [False, True])
@pytest.mark.parametrize("domains", [("T1", "T2"), ("FLAIR",)])
def test_a_run_names_the_contrasts_that_it_leaves_out(tmp_path, as_table, domains):
    rows = ["path,domain,patient"]
    for n in range(3):
        for k, kind in enumerate(("t1", "t1ce", "t2", "flair")):
            volume(tmp_path / f"B_{n:03d}" / f"B_{n:03d}_{kind}.nii", 10 * n + k)
            rows.append(f"B_{n:03d}/B_{n:03d}_{kind}.nii,{kind.upper()},{n}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    given = source(tmp_path / "t.csv", "manifest") if as_table else source(tmp_path, "nifti")
    data = load(given, UNPAIRED if len(domains) == 2 else FROM_NOISE, domains=domains, split={})
    (note,) = [line for line in describe(data) if "of other domains left out" in line]

    others = {"T1", "T1CE", "T2", "FLAIR"} - {*domains}
    assert note.startswith(f"note     {3 * len(others)} images")
    assert all(f"{name} (3)" in note for name in others)
    assert f"{' and '.join(domains)} " in note
    assert "the recipe's domain" in note
    assert "--set 'data.domains=" in note


def warnings_of(root, **options):
    return [
        each["what"] for each in check(root, **options)["problems"] if each["kind"] == "patients"
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("scan_00{}_first", "00{}-final"),
        ("p{}", "P0{}"),
    ],
    ids=["numbers", "zeros"],
)
def test_one_person_under_two_names_is_told(tmp_path, one, other):
    for n in range(4, 8):
        volume(tmp_path / "t1" / f"{one.format(n)}.nii", n, (12, 12, 4))
        volume(tmp_path / "t2" / f"{other.format(n)}.nii", 9 * n, (12, 12, 4))

    (said,) = warnings_of(tmp_path)
    assert said.startswith("4 patients seem to have two names: ")
    assert one.format(4) in said
    assert other.format(4) in said


def patients_of(domain, n):
    dated = f"2019-03-04_Lang{n}", f"2020-11-23_Lang{n}"
    return {"zeros": (f"00{n}", n), "point": (f"{n}.0", n), "dates": dated, "empty": ("", n)}[
        domain
    ]


@pytest.mark.parametrize("kind", ["zeros", "point", "dates", "empty"])
def test_a_table_that_a_program_changed_is_told(tmp_path, kind):
    rows = ["path,domain,patient"]
    for n in range(1, 5):
        for domain, patient in zip(("T1", "T2"), patients_of(kind, n), strict=True):
            volume(tmp_path / f"{domain}{n}.nii", 2 * n, (12, 12, 4))
            rows.append(f"{domain}{n}.nii,{domain},{patient}")

    table = tmp_path / "t.csv"
    table.write_text("\n".join(rows))
    said = warnings_of(table)[0]
    if kind != "empty":
        assert said.startswith("4 patients seem to have two names")
        return

    assert "the column patient of" in said
    assert "is empty in 4 of 8 rows, the first in line 2" in said
    with pytest.raises(UserError, match="is empty in 4 of 8 rows"):
        load(source(table, "manifest"), UNPAIRED, domains=("T1", "T2"), split={})
    load(source(table, "manifest"), UNPAIRED, domains=("T1", "T2"), split={"by": "image"})
