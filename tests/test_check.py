"""`gantk data check`: good folders raise no alarm, and what is planted in them is found, named and survived."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tomli_w
from PIL import Image as Picture

from gantk.errors import UserError
from gantk.formats.files import Scan
from gantk_check.check import check
from gantk_check.findings import wrong_contrast
from gantk_check.inspect import Inspected
from gantk_phantom.phantom import Phantom

CONTRAST = {"a": "T1", "b": "T2"}
HEADS = {
    (record.domain, record.subject): record.read()[0]
    for record in Phantom(("T1", "T2"), 2, (64, 64), subjects=14, slices=1).records()
}


def save(path, image):
    """An 8-bit picture of an image in the phantom's units."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray(np.uint8((image / 4).clip(0, 255))).save(path)


@pytest.fixture
def pictures(tmp_path):
    """14 patients with a T1 and a T2 slice each, in folders named after the contrasts."""
    for (letter, subject), image in HEADS.items():
        save(tmp_path / "data" / CONTRAST[letter] / subject / "slice.png", image)
    return tmp_path / "data"


def volume(path, image, spacing=(2.0, 2.0, 2.0), dtype=np.int16):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(image, dtype), np.diag([*spacing, 1.0])), path)


@pytest.fixture
def volumes(tmp_path):
    """6 patients with a T1 and a T2 volume each."""
    for record in Phantom(("T1", "T2"), 3, (24, 24, 24), subjects=6).records():
        volume(tmp_path / "data" / record.subject / f"{CONTRAST[record.domain]}.nii.gz", record.read()[0])
    return tmp_path / "data"


def problem(result, kind):
    found = [each for each in result["problems"] if each["kind"] == kind]
    assert len(found) == 1, [each["what"] for each in result["problems"]]
    return found[0]


def named(result, *kinds):
    """What files each kind of problem names, one tuple a problem."""
    return {kind: [tuple(each["files"]) for each in result["problems"] if each["kind"] == kind] for kind in kinds}


def test_a_good_folder_of_pictures_has_no_problem_and_its_result_is_json(pictures):
    shares = []
    result = check(pictures, progress=lambda share, what: shares.append(share))
    assert result["problems"] == []
    assert result["domains"] == {name: {"files": 14, "images": 14, "patients": 14} for name in ("T1", "T2")}
    assert (result["images"], result["patients"], result["source"]["name"]) == (28, 14, "folders")
    assert result["split"]["by"] == "patient" and result["split"]["train"] > result["split"]["test"] > 0
    assert "14 registered" in result["summary"]["pairs"]
    assert json.dumps(check(pictures)) == json.dumps(result, allow_nan=False), "the same again"
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1


def test_a_good_tree_of_volumes_has_no_problem_and_its_facts(volumes):
    result = check(volumes)
    one = result["files"][0]
    facts = {"shape": [24] * 3, "spacing": [2.0] * 3, "plane": "any", "dtype": "int16", "channels": 1,
             "domains": ["T1"], "patient": "subject-000", "constant": False}  # fmt: skip
    assert result["problems"] == [] and result["patients"] == 6
    assert {name: one[name] for name in facts} == facts and one["min"] < one["mean"] < one["max"]
    assert {name for each in result["files"] for name in each["split"]} == {"train", "validation", "test"}


def test_what_is_wrong_with_single_pictures_is_named_and_the_others_are_checked(pictures):
    good = (pictures / "T1/subject-001/slice.png").read_bytes()
    (pictures / "T1/subject-001/slice.png").write_bytes(good[: len(good) // 2])
    save(pictures / "T1/subject-004/slice.png", np.full((64, 64), 40.0))
    save(pictures / "T2/subject-005/slice.png", np.pad(np.full((2, 3), 600.0), ((30, 32), (30, 31))))
    Picture.fromarray(np.uint16(HEADS["a", "subject-002"] * 40)).save(pictures / "T1/subject-002/slice.png")
    Picture.open(pictures / "T2/subject-006/slice.png").convert("RGB").save(pictures / "T2/subject-006/slice.png")
    result = check(pictures)
    wrong = {"unreadable": "T1/subject-001", "constant": "T1/subject-004", "empty": "T2/subject-005",
             "scale": "T1/subject-002", "type": "T1/subject-002", "channels": "T2/subject-006"}  # fmt: skip
    assert named(result, *wrong) == {kind: [(f"{file}/slice.png",)] for kind, file in wrong.items()}
    assert all(problem(result, kind)["severity"] == "error" for kind in ("unreadable", "channels"))
    assert result["images"] == 28 and "1 cannot be read" in result["summary"]["files"]


def test_what_is_wrong_with_single_volumes_is_named(volumes):
    broken = np.ones((24, 24, 24), np.float32)
    broken[3, 3, 3] = np.nan
    volume(volumes / "subject-001/T1.nii.gz", broken, dtype=np.float32)
    path = volumes / "subject-003/T1.nii.gz"
    head = np.asarray(nib.load(path).dataobj)
    nib.save(nib.Nifti1Image(np.stack([head, head // 2], -1), np.diag([2.0, 2, 2, 1])), path)
    for n in range(6):
        path = volumes / f"subject-00{n}/T2.nii.gz"
        volume(path, np.asarray(nib.load(path).dataobj), (2, 6, 2) if n == 4 else (2, 2, 6))
    result = check(volumes)
    wrong = {"not-finite": "001/T1", "spacing": "004/T2", "planes": "004/T2"}
    assert named(result, *wrong) == {kind: [(f"subject-{file}.nii.gz",)] for kind, file in wrong.items()}
    several = next(file for file in result["files"] if file["path"] == "subject-003/T1.nii.gz")
    assert several["shape"] == [24, 24, 24] and "2 volumes" in json.dumps(result["problems"])


def test_a_picture_of_the_other_contrast_is_told_by_its_looks(pictures):
    for one, other, letter, subject in (("T1", "T2", "b", "subject-003"), ("T2", "T1", "a", "subject-007")):
        save(pictures / one / subject / "slice.png", HEADS[letter, subject])
        shutil.rmtree(pictures / other / subject)
    found = named(check(pictures), "contrast")["contrast"]
    assert sorted(found) == [("T1/subject-003/slice.png",), ("T2/subject-007/slice.png",)]


def test_copies_are_named_and_a_leak_where_they_stand_on_two_sides(tmp_path):
    for number, ((letter, subject), image) in enumerate(HEADS.items()):
        where = "test" if subject > "subject-010" else "val" if subject > "subject-008" else "train"
        save(tmp_path / (where + letter.upper()) / f"{number:02d}.png", image)
    assert "no image says its patient" in problem(check(tmp_path), "patients")["what"]
    shutil.copy(tmp_path / "trainA" / "00.png", tmp_path / "testA" / "again.png")
    save(tmp_path / "testB" / "brighter.png", HEADS["b", "subject-001"] * 1.3 + 20)
    result = check(tmp_path)
    assert problem(result, "copies")["files"] == ["testA/again.png", "trainA/00.png"]
    assert "testB/brighter.png" in problem(result, "near-copies")["files"]
    leak = problem(result, "leak")
    assert leak["severity"] == "error" and "near copy of 'testB/brighter.png' in test" in leak["what"]


def test_a_missing_partner_is_named_and_one_patient_alone_is_a_warning(volumes):
    (volumes / "subject-005/T2.nii.gz").unlink()
    assert problem(check(volumes), "pairs")["files"] == ["subject-005/T1.nii.gz"]
    for number in range(1, 6):
        shutil.rmtree(volumes / f"subject-{number:03d}")
    alone = problem(check(volumes), "split")
    assert alone["severity"] == "warning" and 'data.split.by = "block"' in alone["remedy"]


def test_two_groups_one_folder_one_file_and_nothing_are_checked_too(tmp_path):
    for number, image in enumerate(HEADS.values()):
        save(tmp_path / "pets" / ("cats" if number % 2 else "dogs") / f"{number:02d}.png", image)
    result = check(tmp_path / "pets")
    note = problem(result, "domains")
    assert set(result["domains"]) == {"A", "B"} and "A (cats) and B (dogs)" in note["what"]
    assert check(tmp_path / "pets" / "cats")["domains"]["images"]["images"] == 14
    result = check(tmp_path / "pets" / "cats" / "03.png")
    assert result["images"] == 1 and problem(result, "source") and result["files"][0]["shape"] == [64, 64]
    (tmp_path / "empty").mkdir()
    for name, words in (("empty", "holds no images"), ("nowhere", "does not exist")):
        with pytest.raises(UserError, match=words):
            check(tmp_path / name)


def test_a_recipe_decides_how_images_are_used(pictures, tiny_recipe, tmp_path):
    def checked(**data):
        tiny_recipe["data"] |= {"source": "folders"} | data
        (tmp_path / "recipe.toml").write_text(tomli_w.dumps(tiny_recipe), "utf-8")
        return check(pictures, recipe=tmp_path / "recipe.toml")

    assert problem(checked(unpair=False, split={"folds": 50}), "split")["severity"] == "error"
    both = problem(checked(split={"test": 0.2, "validation": 0.1}), "same-patient")
    assert both["severity"] == "error" and "data.same_patient = true" in both["remedy"]
    assert checked(same_patient=True)["problems"] == []


@pytest.mark.parametrize("name", ["t1t2_course", "ct_mri", "brainix_dicom"])
def test_real_folders_raise_no_alarm(shared_data, name):
    problems = check(shared_data / name)["problems"]
    assert [each["kind"] for each in problems] == ["patients"] * (name == "t1t2_course") or name == "brainix_dicom"
    assert not [each for each in problems if each["severity"] == "error" or each["kind"] == "contrast"]


def test_a_sagittal_picture_among_axial_ones_is_told(shared_data, tmp_path):
    head = np.asarray(nib.load(shared_data / "templates" / "canonical" / "avg152T1.nii").dataobj, np.float32)
    head *= 900 / head.max()
    for number in range(16):
        axial = np.rot90(head[:, :, 30 + 2 * number])
        save(tmp_path / "T1" / f"{number:02d}.png", axial)
        save(tmp_path / "T2" / f"{number:02d}.png", 900 - axial * 7 / 9)
    save(tmp_path / "T1" / "side.png", np.rot90(head[40]))
    assert problem(check(tmp_path), "planes")["files"] == ["T1/side.png"]


@pytest.mark.parametrize(
    "domain, description, says, echo, told",
    [
        ("T1", "Ax T2 TSE", "t2", 100.0, True),
        ("T1", "Ax T1 +C", "t1ce", 12.0, False),
        ("T1", None, "", 98.0, True),
        ("T2", None, "", 14.0, True),
        ("MR", "Head", "ct", None, True),
        ("MR", "Ax T2", "t2", 98.0, False),
    ],
)
def test_headers_speak_against_a_domain(domain, description, says, echo, told):
    facts = {"description": description, "echo_time": echo, "inversion_time": None, "modality": "MR"}
    item = Inspected(Scan(Path("x"), (Path("x"),), "x/y"), facts, domains=[domain], header_says=says)
    assert bool(list(wrong_contrast([item], [domain, "other"]))) == told
