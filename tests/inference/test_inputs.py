"""Which files of a folder a model translates: tree -> inputs, from names alone."""

from pathlib import Path

import pytest

from gantk.inference.patients import inputs_below, patients_of, rows_of_one


def tree(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


OF_ONE = {
    "all where no name says a contrast": (
        ["a.png", "b.png", "notes.txt"],
        ["a.png", "b.png"],
    ),
    "its contrast, not another or a mask": (
        ["p1/T1.nii.gz", "p1/T2.nii.gz", "p1/seg.nii.gz", "p2/t1w.nii.gz"],
        ["p1/T1.nii.gz", "p2/t1w.nii.gz"],
    ),
    "all versions of it": (
        ["p1/T1.nii.gz", "p1/T1_brain.nii.gz", "p1/T1_brain_mask.nii.gz"],
        ["p1/T1.nii.gz", "p1/T1_brain.nii.gz"],
    ),
    "those without a contrast beside it": (
        ["p1/T1.nii.gz", "p2/scan.nii.gz", "p3/MR.nii.gz", "p4/FLAIR.nii.gz"],
        ["p1/T1.nii.gz", "p2/scan.nii.gz", "p3/MR.nii.gz"],
    ),
    "all where names say other contrasts only": (
        ["p1/T2.nii.gz", "p1/FLAIR.nii.gz"],
        ["p1/FLAIR.nii.gz", "p1/T2.nii.gz"],
    ),
    "no results of earlier calls": (
        ["p1/T1.nii.gz", "out/p1/T1.nii.gz", "outer/T1.nii.gz"],
        ["outer/T1.nii.gz", "p1/T1.nii.gz"],
    ),
    "masks alone": (["label_1.png", "label_2.png"], ["label_1.png", "label_2.png"]),
}


@pytest.mark.parametrize(("names", "expected"), OF_ONE.values(), ids=OF_ONE)
def test_inputs_of_a_model_of_one_contrast(names, expected, tmp_path):
    catalog = inputs_below(tree(tmp_path, *names), tmp_path / "out", ["T1"])

    assert [row.scan_below(tmp_path).name for row in rows_of_one(catalog, "T1")] == expected


OF_PATIENTS = {
    "a folder for each patient": (
        ["p1/T1.nii.gz", "p1/T2.nii.gz", "p2/T1.nii.gz"],
        [("p1", "T1 T2"), ("p2", "T1")],
    ),
    "a folder for each contrast": (
        ["T1/p1.nii.gz", "T2/p1.nii.gz", "T1/p2.nii.gz"],
        [(".", "T1 T2"), (".", "T1")],
    ),
    "contrasts below patients": (
        ["p1/T1/a.nii.gz", "p1/T2/a.nii.gz"],
        [("p1", "T1 T2")],
    ),
    "no masks, no other contrasts": (
        ["p1/T1.nii.gz", "p1/T2.nii.gz", "p1/CT.nii.gz", "p1/T1_seg.nii.gz"],
        [("p1", "T1 T2")],
    ),
}


@pytest.mark.parametrize(("names", "expected"), OF_PATIENTS.values(), ids=OF_PATIENTS)
def test_patients_of_a_model_of_two_contrasts(names, expected, tmp_path):
    catalog = inputs_below(tree(tmp_path, *names), tmp_path / "out", ["T1", "T2"])
    patients = patients_of(catalog, tmp_path, ["T1", "T2"])

    found = [(each.place.as_posix(), " ".join(each.candidates)) for each in patients]
    assert found == expected


def test_an_image_without_skull_replaces_the_whole_head(tmp_path):
    names = ["p1/T1.nii.gz", "p1/T1_brain.nii.gz"]
    catalog = inputs_below(tree(tmp_path, *names), tmp_path / "out", ["T1", "T2"], stripped=True)

    (patient,) = patients_of(catalog, tmp_path, ["T1", "T2"])
    assert patient.scans["T1"].path.name == "T1_brain.nii.gz"
