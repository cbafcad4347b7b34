"""`gantk data check`: good folders raise no alarm, and what is planted in them is found, named and survived."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Picture

from gantk.data.check import check
from gantk.data.check.findings import wrong_contrast
from gantk.data.check.inspect import Inspected
from gantk.errors import UserError
from gantk.formats.files import Scan
from gantk_phantom.phantom import Phantom

HEADS = {
    (record.domain, record.subject): record.read()[0]
    for record in Phantom(("T1", "T2"), 2, (64, 64), subjects=14, slices=1).records()
}


def save(path, image):
    """An 8-bit picture of an image in the phantom's units."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray(np.uint8((image / 4).clip(0, 255))).save(path)
    return path


@pytest.fixture
def pictures(tmp_path):
    """14 patients with a T1 and a T2 slice each, in folders named after the contrasts."""
    for (letter, subject), image in HEADS.items():
        save(tmp_path / "data" / {"a": "T1", "b": "T2"}[letter] / subject / "slice.png", image)
    return tmp_path / "data"


def volume(path, image, spacing=(2.0, 2.0, 2.0), dtype=np.int16):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(image, dtype), np.diag([*spacing, 1.0])), path)


@pytest.fixture
def volumes(tmp_path):
    """6 patients with a T1 and a T2 volume each."""
    for record in Phantom(("T1", "T2"), 3, (24, 24, 24), subjects=6).records():
        contrast = {"a": "T1", "b": "T2"}[record.domain]
        volume(tmp_path / "data" / record.subject / f"{contrast}.nii.gz", record.read()[0])
    return tmp_path / "data"


def kinds(result, severity=None):
    return sorted(p["kind"] for p in result["problems"] if severity in (None, p["severity"]))


def problem(result, kind):
    found = [each for each in result["problems"] if each["kind"] == kind]
    assert len(found) == 1, [each["what"] for each in result["problems"]]
    return found[0]


def test_a_good_folder_of_pictures_has_no_problem_and_its_result_is_json(pictures):
    told = []
    result = check(pictures, progress=lambda share, what: told.append((share, what)))
    assert result["problems"] == []
    assert result["domains"] == {name: {"files": 14, "images": 14, "patients": 14} for name in ("T1", "T2")}
    assert (result["images"], result["patients"], result["source"]["name"]) == (28, 14, "folders")
    assert result["split"]["by"] == "patient" and result["split"]["train"] > result["split"]["test"] > 0
    assert "14 registered" in result["summary"]["pairs"]
    text = json.dumps(result, allow_nan=False)
    assert list(json.loads(text)) == ["format", "path", "recipe", "source", "images", "patients", "domains", "split",
                                      "summary", "problems", "files"]  # fmt: skip
    assert json.dumps(check(pictures)) == text, "the same again"
    shares = [share for share, _ in told]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1 and "T1/subject-000/slice.png" in told[0]


def test_a_good_tree_of_volumes_has_no_problem_and_its_facts(volumes):
    result = check(volumes)
    assert result["problems"] == [] and result["patients"] == 6
    one = result["files"][0]
    assert one["shape"] == [24, 24, 24] and one["spacing"] == [2.0, 2.0, 2.0] and one["plane"] == "any"
    assert (one["dtype"], one["channels"], one["domains"], one["patient"]) == ("int16", 1, ["T1"], "subject-000")
    assert len(one["sha256"]) == 64 and one["min"] < one["mean"] < one["max"] and not one["constant"]
    assert {name for each in result["files"] for name in each["split"]} == {"train", "validation", "test"}


def test_what_is_wrong_with_single_pictures_is_named_and_the_others_are_checked(pictures):
    good = (pictures / "T1/subject-001/slice.png").read_bytes()
    (pictures / "T1/subject-001/slice.png").write_bytes(good[: len(good) // 2])
    (pictures / "T2/subject-002/slice.png").write_bytes(b"")
    save(pictures / "T1/subject-004/slice.png", np.full((64, 64), 40.0))
    save(pictures / "T2/subject-005/slice.png", np.pad(np.full((2, 3), 600.0), ((30, 32), (30, 31))))
    Picture.fromarray(np.uint16(HEADS["a", "subject-002"] * 40)).save(pictures / "T1/subject-002/slice.png")
    Picture.open(pictures / "T2/subject-006/slice.png").convert("RGB").save(pictures / "T2/subject-006/slice.png")
    result = check(pictures)
    errors = [each for each in result["problems"] if each["kind"] == "unreadable"]
    assert [each["files"] for each in errors] == [["T1/subject-001/slice.png"], ["T2/subject-002/slice.png"]]
    assert all(each["severity"] == "error" and each["remedy"] for each in errors)
    assert result["images"] == 28 and "2 cannot be read" in result["summary"]["files"]
    for kind, file in (("constant", "T1/subject-004"), ("empty", "T2/subject-005"), ("scale", "T1/subject-002"),
                       ("type", "T1/subject-002"), ("channels", "T2/subject-006")):  # fmt: skip
        assert problem(result, kind)["files"] == [f"{file}/slice.png"]
    assert problem(result, "channels")["severity"] == "error" and result["split"]["by"] == "patient"


def test_what_is_wrong_with_single_volumes_is_named(volumes):
    broken = np.ones((24, 24, 24), np.float32)
    broken[3, 3, 3] = np.nan
    volume(volumes / "subject-001" / "T1.nii.gz", broken, dtype=np.float32)
    path = volumes / "subject-002" / "T2.nii.gz"
    path.write_bytes(path.read_bytes()[:900])
    path = volumes / "subject-003" / "T1.nii.gz"
    image = np.asarray(nib.load(path).dataobj)
    nib.save(nib.Nifti1Image(np.stack([image, image // 2], -1), np.diag([2.0, 2, 2, 1])), path)
    result = check(volumes)
    assert problem(result, "not-finite")["files"] == ["subject-001/T1.nii.gz"]
    assert problem(result, "unreadable")["files"] == ["subject-002/T2.nii.gz"]
    assert next(one for one in result["files"] if one["path"] == "subject-003/T1.nii.gz")["shape"] == [24, 24, 24]
    assert "2 volumes" in json.dumps(result["problems"])


def test_a_picture_of_the_other_contrast_is_told_by_its_looks(pictures):
    for one, other, letter, subject in (("T1", "T2", "b", "subject-003"), ("T2", "T1", "a", "subject-007")):
        save(pictures / one / subject / "slice.png", HEADS[letter, subject])
        shutil.rmtree(pictures / other / subject)
    found = [each for each in check(pictures)["problems"] if each["kind"] == "contrast"]
    assert sorted(each["files"][0] for each in found) == ["T1/subject-003/slice.png", "T2/subject-007/slice.png"]
    assert all(len(each["files"]) == 1 and each["severity"] == "warning" for each in found)


def test_copies_are_named_and_a_leak_where_they_stand_on_two_sides(pictures):
    sets = pictures.parent / "sets"
    for number, ((letter, subject), image) in enumerate(HEADS.items()):
        where = "test" if subject > "subject-010" else "val" if subject > "subject-008" else "train"
        save(sets / (where + letter.upper()) / f"{number:02d}.png", image)
    assert check(sets)["problems"] == []
    shutil.copy(sets / "trainA" / "00.png", sets / "testA" / "again.png")
    save(sets / "testB" / "brighter.png", HEADS["b", "subject-001"] * 1.3 + 20)
    result = check(sets)
    assert problem(result, "copies")["files"] == ["testA/again.png", "trainA/00.png"]
    assert set(problem(result, "near-copies")["files"]) >= {"testB/brighter.png"}
    leak = problem(result, "leak")
    assert leak["severity"] == "error" and "'trainA/00.png' = 'testA/again.png' in train and test" in leak["what"]
    assert "near copy of 'testB/brighter.png' in test" in leak["what"]


def test_a_spacing_of_its_own_and_another_plane_are_told(volumes):
    for name, spacing in [("3/T1", (2, 2, 3)), *((f"{n}/T2", (2, 6, 2) if n == 4 else (2, 2, 6)) for n in range(6))]:
        place = volumes / f"subject-00{name}.nii.gz"
        volume(place, np.asarray(nib.load(place).dataobj), spacing)
    result = check(volumes)
    spacing = [each for each in result["problems"] if each["kind"] == "spacing"]
    assert [each["files"] for each in spacing] == [["subject-003/T1.nii.gz"], ["subject-004/T2.nii.gz"]]
    assert "(3 x 2 x 2 against 2 x 2 x 2 mm)" in spacing[0]["what"]
    planes = problem(result, "planes")
    assert planes["files"] == ["subject-004/T2.nii.gz"] and "5 axial, 1 coronal" in planes["what"]


def test_patients_of_both_domains_and_missing_partners_are_counted(volumes):
    (volumes / "subject-005" / "T2.nii.gz").unlink()
    result = check(volumes)
    assert problem(result, "pairs")["files"] == ["subject-005/T1.nii.gz"]
    for number in range(1, 6):
        shutil.rmtree(volumes / f"subject-{number:03d}")
    alone = problem(check(volumes), "same-patient")
    assert alone["severity"] == "note" and "a patient gives" in alone["what"]


def test_two_groups_one_folder_one_file_and_nothing_are_checked_too(tmp_path):
    for number, image in enumerate(HEADS.values()):
        save(tmp_path / "pets" / ("cats" if number % 2 else "dogs") / f"{number:02d}.png", image)
    result = check(tmp_path / "pets")
    assert set(result["domains"]) == {"cats", "dogs"} and problem(result, "domains")["severity"] == "note"
    result = check(tmp_path / "pets" / "cats")
    assert result["domains"]["images"]["images"] == 14 and kinds(result, "error") == []
    result = check(tmp_path / "pets" / "cats" / "03.png")
    assert result["images"] == 1 and kinds(result) == ["source"] and result["files"][0]["shape"] == [64, 64]
    (tmp_path / "empty").mkdir()
    for name, words in (("empty", "holds no images"), ("nowhere", "does not exist")):
        with pytest.raises(UserError, match=words):
            check(tmp_path / name)


def test_a_table_is_checked_by_what_it_names(volumes):
    rows = [
        f"{path.relative_to(volumes.parent).as_posix()},{path.name[:2]},{path.parent.name}"
        for path in sorted(volumes.rglob("*.nii.gz"))
    ]
    table = volumes.parent / "scans.csv"
    table.write_text("\n".join(["path,domain,patient", *rows]), "utf-8")
    result = check(table)
    assert result["source"]["name"] == "manifest" and result["patients"] == 6 and result["problems"] == []
    assert result["domains"]["T2"]["files"] == 6
    table.write_text("path,domain,patient\nnowhere.nii,T1,p1\n", "utf-8")
    with pytest.raises(UserError, match=r"nowhere\.nii"):
        check(table)


def test_a_recipe_decides_how_images_are_used(pictures, tiny_recipe, tmp_path):
    import tomli_w

    def checked(**data):
        tiny_recipe["data"] |= data
        (tmp_path / "recipe.toml").write_text(tomli_w.dumps(tiny_recipe), "utf-8")
        return check(pictures, recipe=tmp_path / "recipe.toml")

    result = checked(source="folders", unpair=False, split={"folds": 50})
    assert result["recipe"] == str(tmp_path / "recipe.toml") and kinds(result, "error") == ["split"]
    assert "14 patients cannot be dealt out to 50 folds" in problem(result, "split")["what"]
    both = problem(checked(split={"test": 0.2, "validation": 0.1}), "same-patient")
    assert both["severity"] == "error" and "data.same_patient = true" in both["remedy"]
    assert checked(same_patient=True)["problems"] == []


@pytest.mark.parametrize("name", ["t1t2_course", "ct_mri", "brainix_dicom"])
def test_real_folders_raise_no_alarm(shared_data, name):
    if name == "brainix_dicom":
        pytest.importorskip("pydicom")
    result = check(shared_data / name)
    assert kinds(result, "error") == [] and "contrast" not in kinds(result)
    assert kinds(result) == [] or name == "brainix_dicom"


def test_a_sagittal_picture_among_axial_ones_is_told(shared_data, tmp_path):
    head = np.asarray(nib.load(shared_data / "templates" / "canonical" / "avg152T1.nii").dataobj, np.float32) * 4
    for number in range(16):
        save(tmp_path / "T1" / f"{number:02d}.png", np.rot90(head[:, :, 30 + 2 * number] / head.max() * 900))
        save(tmp_path / "T2" / f"{number:02d}.png", np.rot90(900 - head[:, :, 30 + 2 * number] / head.max() * 700))
    save(tmp_path / "T1" / "side.png", np.rot90(head[40] / head.max() * 900))
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
    found = list(wrong_contrast([item], [domain, "other"]))
    assert bool(found) == told and all(item.name in each["what"] for each in found)
