"""BIDS datasets, tables of images and DICOM exports become records; which source fits a path is
found out.
"""

import shutil
from functools import partial
from pathlib import Path

import dicom_files as made
import numpy as np
import pytest
from tiny import draw_pictures, phantom, registered
from volumes import load, of, pairs_of, records_of, tree_of, volume

from gantk.data.arrays import keep
from gantk.errors import UserError
from gantk_dicom.names import pseudonym

Files = registered("source", "files")
Mixed = registered("source", "mixed")
Manifest = registered("source", "manifest")
Bids = registered("source", "bids")
Dicom = registered("source", "dicom")


def source_of(table):
    return keep(table, Path("unused"), ("CT", "MR"))[0]


tree = pytest.fixture(lambda tmp_path: tree_of(tmp_path))


# --- bids


@pytest.fixture
def dataset(tmp_path):
    """Three subjects, the last with two sessions; several runs, a contrast agent, a derivative."""
    names = [
        *(
            f"sub-0{n}/anat/sub-0{n}_{suffix}.nii.gz"
            for n in (1, 2)
            for suffix in ("T1w", "T2w", "FLAIR")
        ),
        *(
            f"sub-03/ses-{s}/anat/sub-03_ses-{s}_{suffix}.nii.gz"
            for s in "12"
            for suffix in ("T1w", "T2w")
        ),
        "sub-01/anat/sub-01_run-2_T1w.nii.gz",
        *(f"sub-0{n}/anat/sub-0{n}_ce-gadolinium_T1w.nii.gz" for n in (1, 2)),
        "derivatives/prep/sub-01/anat/sub-01_space-MNI_T1w.nii.gz",
    ]
    for number, name in enumerate(names):
        volume(tmp_path / name, number)

    return tmp_path


def test_participants_tsv_gives_split_and_class(dataset):
    (dataset / "participants.tsv").write_text(
        "participant_id\tage\tSplit\tgroup\nsub-01\t30\ttrain\tpatient\nsub-02\tn/a\ttest\tcontrol\nsub-03\t9\tval\tn/a\n"
    )
    lesion = np.zeros((12, 14, 16), np.float32)
    lesion[3:6, 3:6, 3:6] = 2
    volume(
        dataset / "derivatives/lesions/sub-01/anat/sub-01_label-lesion_mask.nii.gz", values=lesion
    )
    volume(dataset / "sub-03/ses-2/anat/sub-03_ses-2_label-lesion_mask.nii.gz", values=lesion)
    records = records_of(Bids, dataset, dims=3, label="group", mask="lesion")

    assert {(r.subject, r.split, r.label) for r in records} == {
        ("sub-01", "train", "patient"),
        ("sub-02", "test", "control"),
        ("sub-03", "validation", None),
    }
    masked = [record for record in records if record.mask]
    assert {r.path.name[:12] for r in masked} == {"sub-01_T1w.n", "sub-01_T2w.n", "sub-03_ses-2"}
    assert masked[0].mask().sum() == 27


@pytest.mark.parametrize(
    "options, says",
    [
        (
            {"domains": ("T1", "PD")},
            "is named 'PD'. Found: 'sub-01.*T1 ",
        ),
        ({"label": "grop"}, "has no column 'grop'.*group.*Did you mean 'group'"),
        ({}, "'maybe' is not a valid split. Allowed: train, validation, test.*line 2"),
    ],
    ids=str,
)
def test_what_a_dataset_lacks_is_said(dataset, options, says):
    split = "" if options else "maybe"
    (dataset / "participants.tsv").write_text(f"participant_id\tsplit\tgroup\nsub-01\t{split}\tx\n")

    with pytest.raises(UserError, match=says):
        records_of(Bids, dataset, **options)


# --- manifest


def manifest(path, text, *arguments, dims=3, **options):
    path.write_text(text)
    return records_of(Manifest, path, *arguments, dims=dims, **options)


LONG = (
    "path,Domain,patient,split,label,mask\n"
    "patient0/T1.nii.gz,T1,anna,train,ill,\n"
    "patient0/T2.nii.gz,t2w,anna,train,ill,patient0/FLAIR.nii.gz\n"
    "\n"
    "patient1/T1.nii.gz,T1,bert,test,,\n"
    "patient1/T2.nii.gz,T2,bert,test\n"
    "patient1/FLAIR.nii.gz,FLAIR,bert,test\n"
)


def test_a_row_for_each_image(tree):
    records = manifest(tree / "study.csv", LONG)
    assert [(r.domain, r.key, r.subject, r.split, r.label, bool(r.mask)) for r in records] == [
        ("a", "patient0/T1.nii.gz", "anna", "train", "ill", False),
        ("b", "patient0/T2.nii.gz", "anna", "train", "ill", True),
        ("a", "patient1/T1.nii.gz", "bert", "test", None, False),
        ("b", "patient1/T2.nii.gz", "bert", "test", None, False),
    ]
    assert len(pairs_of(records)) == 2
    assert len(manifest(tree / "study.csv", LONG, dims=2)) == 4 * 8
    assert {r.path.name for r in manifest(tree / "study.csv", LONG, ("T1",))} == {"T1.nii.gz"}


@pytest.mark.parametrize("sign", [",", ";", "\t"], ids=["comma", "semicolon", "tab"])
def test_a_row_for_each_pair_or_a_column_that_says_it(tree, sign):
    rows = [f"patient{n}/T1.nii.gz,patient{n}/T2.nii.gz,p{n}" for n in range(3)]
    text = "\n".join(["\ufeffT1,t2w,patient", *rows, "patient0/FLAIR.nii.gz,,p9"])
    records = manifest(tree / "study.csv", text.replace(",", sign))
    assert len(pairs_of(records)) == 3
    assert {r.subject for r in records} == {"p0", "p1", "p2", "p9"}

    names = [(n, name) for n in ("", 1, 2) for name in ("T1", "T2")]
    rows = [f"patient{n or 0}/{name}.nii.gz,{name},p,{n}" for n, name in names]
    text = "\n".join(["path,domain,patient,pair", *rows])
    assert sorted(pairs_of(manifest(tree / "study.csv", text.replace(",", sign)))) == ["1", "2"]


def test_images_that_share_a_pair_are_parted_by_patient(tree):
    def table(patients):
        names = [(n, name) for n in range(2) for name in ("T1", "T2")]
        rows = [
            f"patient{n}/{name}.nii.gz,{name},{patient},base"
            for (n, name), patient in zip(names, patients, strict=True)
        ]
        return "\n".join(["path,domain,patient,pair", *rows])

    assert len(pairs_of(manifest(tree / "study.csv", table("ppqq")))) == 2
    with pytest.raises(UserError, match="lines 2 and 4 .* two images of T1 with one cell pair"):
        manifest(tree / "study.csv", table("pppp")).records()


@pytest.mark.parametrize(
    "text, says",
    [
        (LONG.replace("patient0/T1", "patient0/T9"), "'patient0/T9.nii.gz' does not exist.*line 2"),
        (LONG.replace("bert,test,,", "bert,?,,"), "'\\?' is not a valid split.*line 5"),
        ("", "is empty"),
        (
            "file,who\nx,y\n",
            "no column path. Its header is file, who. Allowed: path,domain,patient or T1,T2,patient",
        ),
        ("path,modality\nx,T1\n", "does not say the domain of each image"),
        ("path,domain,path\nx,T1,y\n", "two columns with the name 'path'"),
        (
            "path,domain\npatient0/T1.nii.gz,T1\npatient0/T1.nii.gz,T1\n",
            "'.*/T1.nii.gz' is listed twice.*line 3",
        ),
        ("path,domain\nstudy.csv,T1\n", "'study.csv' is not a readable image.*line 2"),
        ("path,domain\npatient0,T1\n", "patient0' is a folder.*line 2"),
        ("T1,T2\npatient0/T1.nii.gz,\npatient1/T1.nii.gz,\n", "no images of T2 in '.*study.csv'"),
        ("path,domain\npatient0/T1.nii.gz,T1,p0\n", "line 2 of .* has 3 cells, the header 2"),
        ("T1,T2,label\n,,x\n", "no path in the column t1 or t2.*line 2"),
        (
            "path,domain,split\npatient0/T1.nii.gz,T1,train\npatient0/T2.nii.gz,T2,\n",
            r"empty cells: split in 1 line \(3\)",
        ),
        (
            "path,domain,patient\npatient0/T1.nii.gz,,p0\npatient0/T2.nii.gz,T2,\n"
            "patient1/T2.nii.gz,T2,p1\nx,\ny,FLAIR,\n",
            r"domain in 2 lines \(2, 5\); patient in 1 line \(3\)",
        ),
        (
            "path,domain\nx,CT\ny,MRI\nz,MRI\n",
            "lists no image of T1 or T2. Its column domain contains 'MRI' \\(2\\), 'CT' \\(1\\)",
        ),
    ],
    ids=range(15),
)
def test_a_table_that_cannot_be_used_is_explained_by_its_lines(tree, text, says):
    with pytest.raises(UserError, match=says):
        manifest(tree / "study.csv", text)


@pytest.fixture
def slices(tmp_path):
    """Rows of patients 37 (train) and 41 (test), three CT and four MR pictures each, half of the
    paths by Windows.
    """
    rows = []
    for patient, split in ((37.0, "train"), (41.0, "test")):
        for kind, count in (("CT", 3), ("MR", 4)):
            for path in draw_pictures(
                tmp_path / kind / f"p{patient:g}", count, seed=int(patient) + count
            ):
                cell = str(path.relative_to(tmp_path)).replace("/", "\\" if patient == 37 else "/")
                rows.append(
                    {"path": cell, "domain": kind, "patient": patient, "split": split, "age": None}
                )

    return rows


# --- dicom


def export(root):
    """Two patients with a T1 and a T2 series each, by header."""
    for n in range(2):
        made.patient(root, n)
    return root


def test_contrasts_of_a_session_of_bids_are_channels(dataset):
    records = of(records_of(Bids, dataset, ("T1+T2", "FLAIR"), dims=3), "a")
    assert [(record.key, len(record.files), record.missing) for record in records] == [
        ("sub-01/anat", 2, ()),
        ("sub-02/anat", 2, ()),
        ("sub-03/ses-1/anat", 2, ()),
        ("sub-03/ses-2/anat", 2, ()),
    ]
    assert records[0].read().shape[0] == 2


class Frame:
    """A data frame, as far as it is asked for its rows."""

    def __init__(self, rows):
        self.rows = rows
        self.columns = list(rows[0])

    def to_dict(self, orient):
        return self.rows if orient == "records" else None


def as_csv(rows):
    lines = ["Path;DOMAIN; Patient ;Split;age"]
    for row in rows:
        split = row["split"].title()
        lines.append(f" {row['path']} ; {row['domain'].lower()};{row['patient']:g};{split};")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("kind", ["a CSV", "a list", "a data frame"])
def test_the_split_comes_from_the_table(tmp_path, slices, monkeypatch, kind):
    (tmp_path / "t.csv").write_text(as_csv(slices), "utf-8-sig")
    monkeypatch.chdir(tmp_path)
    table = {
        "a CSV": {"name": "manifest", "path": "t.csv"},
        "a list": source_of(slices),
        "a data frame": source_of(Frame(slices)),
    }[kind]
    data = load(table, domains=("CT", "MR"), split={"test": 0.3, "validation": 0.2})
    subjects = {name: {r.subject for r in part} for name, part in data.splits.items()}

    assert subjects == {"train": {"37"}, "validation": set(), "test": {"41"}}
    pairs = [(pair["a"].path.stem, pair["b"].path.stem) for pair in data.pairs("test")]
    assert pairs == [(f"slice-0{n}", f"slice-0{n}") for n in range(3)]
    assert data.leaks() is None


def test_series_are_paired_by_their_headers(tmp_path):
    records = records_of(Dicom, export(tmp_path))
    assert {r.subject for r in records} == {pseudonym(f"P{n}") for n in range(2)}
    assert len(pairs_of(records)) == 2 * 4
    first = of(records, "b")[0]
    assert first.position == 2.0
    assert len(first.files) == 8
    assert np.array_equal(first.read()[0], made.head(8, seed=1)[2])


def test_frames_of_reference_that_differ_are_not_paired(tmp_path):
    for k, words in enumerate(("T1", "T2")):
        header = {
            "SeriesInstanceUID": f"1.9.{k}",
            "SeriesDescription": words,
            "FrameOfReferenceUID": f"1.8.{k}",
        }
        made.series(tmp_path / f"more{k}", made.head(8), PatientID="P9", **header)

    records = records_of(Dicom, export(tmp_path), onto="a")
    alone = [record for record in records if record.subject == pseudonym("P9")]

    assert alone
    assert all(record.pair.startswith("alone/") for record in alone)


def test_a_regex_or_modality_selects_dicom_series(tmp_path):
    root = export(tmp_path)
    other = {"PatientID": "P0", "SeriesInstanceUID": "1.8", "SeriesDescription": "t1_se_cor"}
    made.series(root / "x", made.head(8), **other)
    for n in range(2):
        header = {"SeriesInstanceUID": f"1.6.{n}", "SeriesDescription": "Head"}
        folder = root / f"ct{n}{'_t1' * n}"  # which is no T1, whatever its folder is called
        made.series(folder, made.head(8), modality="CT", PatientID=f"P{n}", **header)

    def counted(*arguments, **options):
        records = records_of(Dicom, root, *arguments, **options)
        return [len({r.scan_key for r in of(records, letter)}) for letter in "ab"]

    assert counted() == [3, 2]
    assert counted(a=r"t1.*tra", b="T2_TSE") == [2, 2]
    assert counted(("CT", "MRI")) == [2, 5]
    for options, says in (
        ({"a": "t1("}, "regular expression"),
        ({"a": "tra", "b": "t2"}, "belongs to both domains"),
        (
            {"domains": ("T1", "FLAIR")},
            "no DICOM series of FLAIR .* it has .*MR t1_se_tra.*SeriesDescription",
        ),
    ):
        with pytest.raises(UserError, match=says):
            records_of(Dicom, root, **options)


# --- several sources as one


def test_mixed_sources_keep_their_patients_and_pairs_apart(tree):
    size = (("T1", "T2"), 2, (16, 16))
    sources = [partial(Files, path=str(tree)), partial(phantom, subjects=2, slices=3)]
    sources.append(sources[0])
    alone = [record for source in sources for record in source(*size).records()]
    mixed = Mixed(*size, sources=sources).records()

    assert len({r.id for r in mixed}) == len(mixed)
    assert len({r.subject for r in mixed}) == 3 + 2 + 3
    for one, other in zip(mixed, alone, strict=True):
        assert (one.pair is None) == (other.pair is None)
        assert np.array_equal(one.read(), other.read())


def test_slices_of_a_table_are_pairs_by_their_position(tmp_path, slices, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for n, row in enumerate(slices):  # no names in common, but positions
        row["path"] = shutil.move(row["path"].replace("\\", "/"), f"{n}.png")
        row["position"] = str(n % 7 % 3)

    slices[7]["split"] = "none"
    data = load(source_of(slices), domains=("CT", "MR"))
    keys = [(pair["a"].key, pair["b"].key) for pair in data.pairs("test")]

    assert keys == [("8.png", "11.png"), ("9.png", "12.png")]
