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
    return path


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
    dot = np.zeros((64, 64))
    dot[30:32, 30:33] = 600
    save(pictures / "T2/subject-005/slice.png", dot)
    Picture.fromarray(np.uint16(HEADS["a", "subject-002"] * 40)).save(pictures / "T1/subject-002/slice.png")
    colour = Picture.open(pictures / "T2/subject-006/slice.png").convert("RGB")
    colour.save(pictures / "T2/subject-006/slice.png")
    result = check(pictures)
    errors = [each for each in result["problems"] if each["kind"] == "unreadable"]
    assert [each["files"] for each in errors] == [["T1/subject-001/slice.png"], ["T2/subject-002/slice.png"]]
    assert all(each["severity"] == "error" and each["remedy"] for each in errors)
    assert result["images"] == 28 and "2 cannot be read" in result["summary"]["files"]
    assert problem(result, "constant")["files"] == ["T1/subject-004/slice.png"]
    assert problem(result, "empty")["files"] == ["T2/subject-005/slice.png"]
    assert problem(result, "scale")["files"] == problem(result, "type")["files"] == ["T1/subject-002/slice.png"]
    channels = problem(result, "channels")
    assert channels["severity"] == "error" and channels["files"] == ["T2/subject-006/slice.png"]
    assert result["split"]["by"] == "patient", "a mixture of channels is said, and the rest goes on"


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
    for one, other in (("T1", "T2"), ("T2", "T1")):
        number = "003" if one == "T1" else "007"
        save(
            pictures / one / f"subject-{number}" / "slice.png", HEADS[{"T1": "b", "T2": "a"}[one], f"subject-{number}"]
        )
        shutil.rmtree(pictures / other / f"subject-{number}")
    found = [each for each in check(pictures)["problems"] if each["kind"] == "contrast"]
    assert sorted(each["files"][0] for each in found) == ["T1/subject-003/slice.png", "T2/subject-007/slice.png"]
    assert all(len(each["files"]) == 1 and each["severity"] == "warning" for each in found)
    assert "look" in found[0]["what"] and "T2" in found[0]["what"]


def test_copies_are_named_and_a_leak_where_they_stand_on_two_sides(pictures):
    for number, ((letter, subject), image) in enumerate(HEADS.items()):
        where = "test" if subject > "subject-010" else "val" if subject > "subject-008" else "train"
        where += letter.upper()
        save(pictures.parent / "sets" / where / f"{number:02d}.png", image)
    sets = pictures.parent / "sets"
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
    image = np.asarray(nib.load(volumes / "subject-003" / "T1.nii.gz").dataobj)
    volume(volumes / "subject-003" / "T1.nii.gz", image, spacing=(2, 2, 3))
    thick = {"T2": (2, 2, 6), "T1": (2, 2, 2)}
    for number in range(6):
        place = volumes / f"subject-{number:03d}" / "T2.nii.gz"
        other = np.asarray(nib.load(place).dataobj)
        volume(place, other, spacing=(2, 6, 2) if number == 4 else thick["T2"])
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


def test_files_without_names_that_mean_anything_are_told_to_be_two_groups(tmp_path):
    for number, image in enumerate(HEADS.values()):
        save(tmp_path / ("cats" if number % 2 else "dogs") / f"{number:02d}.png", image)
    result = check(tmp_path)
    assert set(result["domains"]) == {"cats", "dogs"} and kinds(result) == ["domains"]
    assert problem(result, "domains")["severity"] == "note"


def test_one_folder_one_file_and_nothing_are_checked_too(tmp_path):
    for number, image in enumerate(list(HEADS.values())[:12]):
        save(tmp_path / "x" / f"{number:02d}.png", image)
    result = check(tmp_path / "x")
    assert result["domains"]["images"]["images"] == 12 and "error" not in {p["severity"] for p in result["problems"]}
    result = check(tmp_path / "x" / "03.png")
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

    tiny_recipe["data"] |= {"source": "folders", "unpair": False, "split": {"folds": 50}}
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(tomli_w.dumps(tiny_recipe), "utf-8")
    result = check(pictures, recipe=recipe)
    assert result["recipe"] == str(recipe) and kinds(result, "error") == ["split"]
    assert "14 patients cannot be dealt out to 50 folds" in problem(result, "split")["what"]
    tiny_recipe["data"]["split"] = {"test": 0.2, "validation": 0.1}
    recipe.write_text(tomli_w.dumps(tiny_recipe), "utf-8")
    both = problem(check(pictures, recipe=recipe), "same-patient")
    assert both["severity"] == "error" and "data.same_patient = true" in both["remedy"]
    tiny_recipe["data"]["same_patient"] = True
    recipe.write_text(tomli_w.dumps(tiny_recipe), "utf-8")
    assert check(pictures, recipe=recipe)["problems"] == []


@pytest.mark.parametrize("name", ["t1t2_course", "ct_mri", "brainix_dicom"])
def test_real_folders_raise_no_alarm(shared_data, name):
    if name == "brainix_dicom":
        pytest.importorskip("pydicom")
    result = check(shared_data / name)
    assert kinds(result, "error") == [] and "contrast" not in kinds(result)
    assert kinds(result) == [] or name == "brainix_dicom"


def test_a_swapped_real_slice_is_found(shared_data, tmp_path):
    shutil.copytree(shared_data / "t1t2_course", tmp_path / "course")
    images = sorted((tmp_path / "course" / "Tr2" / "TrainT2").glob("*.png"))
    shutil.copy(images[20], tmp_path / "course" / "Tr1" / "TrainT1" / "Image #900.png")
    images[20].unlink()
    result = check(tmp_path / "course")
    assert problem(result, "contrast")["files"] == ["Tr1/TrainT1/Image #900.png"]
    assert "is no image in the column 't2_path'" in problem(result, "source")["what"], "the CSV lists what has gone"
    (tmp_path / "course" / "PAIRS.csv").unlink()
    result = check(tmp_path / "course")
    assert problem(result, "contrast")["files"] == ["Tr1/TrainT1/Image #900.png"] and kinds(result, "error") == []


def test_a_sagittal_picture_among_axial_ones_is_told(shared_data, tmp_path):
    head = np.asarray(nib.load(shared_data / "templates" / "canonical" / "avg152T1.nii").dataobj, np.float32) * 4
    for number in range(16):
        save(tmp_path / "T1" / f"{number:02d}.png", np.rot90(head[:, :, 30 + 2 * number] / head.max() * 900))
        save(tmp_path / "T2" / f"{number:02d}.png", np.rot90(900 - head[:, :, 30 + 2 * number] / head.max() * 700))
    save(tmp_path / "T1" / "side.png", np.rot90(head[40] / head.max() * 900))
    assert problem(check(tmp_path), "planes")["files"] == ["T1/side.png"]


def dicom_like(domain, description="", says="", echo=None):
    item = Inspected(
        Scan(Path("x"), (Path("x"),), f"{domain}/{description or echo}"), {"description": description or None}
    )
    item.facts |= {"echo_time": echo, "inversion_time": None, "modality": "MR"}
    item.domains, item.header_says = [domain], says
    return item


@pytest.mark.parametrize(
    "item, told",
    [
        (dicom_like("T1", "Ax T2 TSE", "t2", 100.0), True),
        (dicom_like("T1", "Ax T1 +C", "t1ce", 12.0), False),
        (dicom_like("T1", echo=98.0), True),
        (dicom_like("T2", echo=14.0), True),
        (dicom_like("MR", "Head", "ct"), True),
        (dicom_like("MR", "Ax T2", "t2", 98.0), False),
    ],
)
def test_headers_speak_against_a_domain(item, told):
    found = list(wrong_contrast([item], item.domains + ["other"]))
    assert bool(found) == told and all(item.name in each["what"] for each in found)
