"""`gantk data check`: good folders raise no alarm, and what is planted in them is found, named and
survived.
"""

import csv
import re
import shutil
from collections import defaultdict
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Picture
from tiny import phantom
from volumes import save_slice

from gantk import check
from gantk.data.check.findings import header_contradicts
from gantk.data.check.inspect import Inspected
from gantk.data.split import leakage, near_duplicates
from gantk.errors import UserError
from gantk.formats.image import Scan

CONTRAST = {"a": "T1", "b": "T2"}


@cache
def heads(*size: int, subjects: int = 14) -> dict[tuple[str, str], np.ndarray]:
    """The T1 and T2 images of heads, (64, 64) or (*size), by domain and subject."""
    size = size or (64, 64)
    one = {"slices": 1} if len(size) == 2 else {}
    records = phantom(("T1", "T2"), len(size), size, subjects=subjects, **one).records()
    return {(record.domain, record.subject): record.read()[0] for record in records}


@pytest.fixture
def pictures(tmp_path):
    """14 patients with a T1 and a T2 slice each, in folders named after the contrasts."""
    for (letter, subject), image in heads().items():
        save_slice(tmp_path / "data" / CONTRAST[letter] / subject / "slice.png", image)
    return tmp_path / "data"


def volume(path, image, spacing=(2.0, 2.0, 2.0), dtype=np.int16):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(image, dtype), np.diag([*spacing, 1.0])), path)


@pytest.fixture
def volumes(tmp_path):
    """6 patients with a T1 and a T2 volume each."""
    for (letter, subject), image in heads(24, 24, 24, subjects=6).items():
        volume(tmp_path / "data" / subject / f"{CONTRAST[letter]}.nii.gz", image)
    return tmp_path / "data"


def problem(result, kind):
    found = [each for each in result["problems"] if each["kind"] == kind]
    assert len(found) == 1, [each["what"] for each in result["problems"]]
    return found[0]


def named(result, *kinds):
    """What files each kind of problem names, one tuple a problem."""
    return {
        kind: [tuple(each["files"]) for each in result["problems"] if each["kind"] == kind]
        for kind in kinds
    }


def test_a_good_tree_of_volumes_has_no_problem_and_its_facts(volumes):
    result = check(volumes)
    one = result["files"][0]
    facts = {
        "shape": [24] * 3,
        "spacing": [2.0] * 3,
        "plane": "any",
        "dtype": "int16",
        "channels": 1,
        "domains": ["T1"],
        "patient": "subject-000",
        "constant": False,
    }
    # drawn heads are as alike as slices of one
    problems = [each for each in result["problems"] if "look like slices" not in each["what"]]

    assert problems == []
    assert result["patients"] == 6
    assert {name: one[name] for name in facts} == facts
    assert one["min"] < one["mean"] < one["max"]
    assert {name for each in result["files"] for name in each["split"]} == {
        "train",
        "validation",
        "test",
    }


def test_what_is_wrong_with_single_volumes_is_named(volumes):
    def path_of(patient, contrast):
        return volumes / f"subject-00{patient}" / f"{contrast}.nii.gz"

    broken = np.pad([[[np.nan]]], ((3, 20),) * 3, constant_values=1.0)
    volume(path_of(1, "T1"), broken, dtype=np.float32)
    for patient in range(6):
        path = path_of(patient, "T2")
        spacing = (2, 6, 2) if patient == 4 else (2, 2, 6)
        volume(path, np.asarray(nib.load(path).dataobj), spacing)

    result = check(volumes)

    assert named(result, "not-finite", "spacing", "planes") == {
        "not-finite": [("subject-001/T1.nii.gz",)],
        "spacing": [("subject-004/T2.nii.gz",)],
        "planes": [("subject-004/T2.nii.gz",)],
    }


def test_a_mask_that_is_named_as_a_scan_is_told(volumes):
    path = volumes / "subject-002" / "T2.nii.gz"
    volume(path, np.asarray(nib.load(path).dataobj) > 500)
    use = ["data.domains=['T1', 'T2']"]
    as_map = [*use, "data.intensity={name='domains', b={name='label_map', classes=2}}"]

    assert named(check(volumes, set=use), "masks") == {"masks": [("subject-002/T2.nii.gz",)]}
    assert named(check(volumes, set=as_map), "masks") == {"masks": []}


# a contrast agent may make T1 as bright as T2, so looks do not tell them apart
@pytest.mark.parametrize(("t1", "is_told"), [("T1", True), ("T1CE", False), ("T1Gd", False)])
def test_a_picture_of_the_other_contrast_is_told_by_its_looks(pictures, t1, is_told):
    for one, other, letter, subject in (
        ("T1", "T2", "b", "subject-003"),
        ("T2", "T1", "a", "subject-007"),
    ):
        save_slice(pictures / one / subject / "slice.png", heads()[letter, subject])
        shutil.rmtree(pictures / other / subject)

    (pictures / "T1").rename(pictures / t1)
    found = named(check(pictures), "contrast")["contrast"]

    assert found == [("T1/subject-003/slice.png", "T2/subject-007/slice.png")][: int(is_told)]


def test_visits_and_masks_of_bids_are_counted(tmp_path):
    for (letter, subject), image in heads(24, 24, 24, subjects=6).items():
        number = int(subject[-3:])
        name = f"sub-{number // 2}_ses-{('pre', 'post')[number % 2]}"
        folder = tmp_path / name.replace("_", "/") / "anat"
        volume(folder / f"{name}_{CONTRAST[letter]}w.nii.gz", image)
        volume(folder / f"{name}_mask.nii.gz", image > 300)

    for settings, where, counted in (
        ([], "layout", "6 left out (masks)"),
        (["data.source.mask=mask"], "masks", "6 files"),
    ):
        result = check(tmp_path, set=settings)
        assert (
            "6 volumes (72 slices from 25 to 75 % of each) of 3 patients"
            in (result["summary"]["domains"])
        )
        assert counted in result["summary"][where]
        assert "contrast" not in {each["kind"] for each in result["problems"]}


def test_few_training_images_are_told(pictures):
    result = check(pictures)
    count = result["split"]["train"] // 2
    assert f"only {count} training images" in result["summary"]["few"]


def test_slices_count_as_training_images(volumes):
    result = check(volumes)
    assert result["split"]["train"] >= 40
    assert "few" not in result["summary"]


@pytest.mark.parametrize(
    ("percentile", "hollow", "kinds"),
    [(97, 0, []), (30, 0, ["lesions", "outlines"]), (97, 12, ["outlines"]), (97, 3, ["outlines"])],
)
def test_masks_of_the_head_and_outlines_are_told(tmp_path, percentile, hollow, kinds):
    for (letter, subject), image in heads(24, 24, 24, subjects=4).items():
        volume(tmp_path / subject / f"{CONTRAST[letter]}.nii.gz", image)
        inside = image > np.percentile(image[image > 0], percentile)
        if percentile > 90:
            inside[:] = False
            inside[4 : hollow + 6, 4 : hollow + 6, 8:16] = True
            inside[5 : hollow + 5, 5 : hollow + 5] = False
        volume(tmp_path / subject / "seg.nii.gz", inside)

    unnamed = check(tmp_path)
    assert "--set data.source.mask=seg" in unnamed["summary"]["masks"]
    assert [each["kind"] for each in unnamed["problems"]] == [*filter("outlines".__eq__, kinds)]
    result = check(tmp_path, set=["data.source.mask=seg"])

    assert result["summary"]["masks"] == "4 files used as masks of lesions"
    found = [each["kind"] for each in result["problems"]]
    assert [kind for kind in found if kind in ("lesions", "outlines")] == kinds
    filled = check(tmp_path, set=["data.source.mask=seg", "data.fill_masks=true"])
    assert "outlines" not in [each["kind"] for each in filled["problems"]]


def save_in_splits(root, side_of):
    """The heads in folders of a split and a domain, by `side_of(subject)`."""
    for number, ((letter, subject), image) in enumerate(heads().items()):
        save_slice(root / f"{side_of(subject)}{letter.upper()}" / f"{number:02d}.png", image)


@pytest.mark.parametrize("exchanged", [False, True])
def test_test_domains_exchanged_as_a_whole_are_told(tmp_path, exchanged):
    save_in_splits(tmp_path, lambda subject: "test" if subject > "subject-012" else "train")
    if exchanged:
        (tmp_path / "testA").rename(tmp_path / "test")
        (tmp_path / "testB").rename(tmp_path / "testA")
        (tmp_path / "test").rename(tmp_path / "testB")

    told = {name for names in named(check(tmp_path), "contrast")["contrast"] for name in names}
    tested = {path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("test*/*")}
    assert len(tested) == 2
    assert told == (tested if exchanged else set())


def of_patient(patient, change):
    """Change the T2 of a patient alone."""
    return lambda domain, number, image: (
        change(image) if (domain, number) == ("b", patient) else image
    )


def exchanged(one, other):
    """Exchange the T2 of two patients."""
    partner = {one: other, other: one}
    return lambda domain, number, image: (
        heads()["b", f"subject-{partner.get(number, number):03d}"] if domain == "b" else image
    )


# (domain, number of the patient, image) -> image, and the patients that are named
PAIRS = {
    "as they are": (lambda domain, number, image: image, ()),
    "without anatomy": (lambda domain, number, image: image * (number not in (2, 5)), ()),
    "12 and 13 exchanged": (exchanged(12, 13), (12, 13)),
    "1 and 13 exchanged": (exchanged(1, 13), (1, 13)),
    "2 and 4 exchanged": (exchanged(2, 4), (2, 4)),
    "mirrored": (of_patient(12, np.fliplr), (12,)),
    "upside down": (of_patient(12, np.flipud), (12,)),
    "moved": (of_patient(12, lambda image: np.roll(image, 5, 1)), (12,)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_that_do_not_fit_are_named(tmp_path, name):
    change, patients = PAIRS[name]
    for (domain, subject), image in heads().items():
        number = int(subject[-3:])
        save_slice(tmp_path / CONTRAST[domain] / f"p{number}.png", change(domain, number, image))

    result = check(tmp_path, set=["data.split.test=0.3"])
    told = {file for files in named(result, "pairs")["pairs"] for file in files}
    assert told == {f"T1/p{number}.png" for number in patients}


@pytest.mark.parametrize("moved", [0, 7])
def test_pictures_of_the_same_heads_are_noticed(tmp_path, moved):
    for record in phantom(("T1", "T2"), 2, (64, 64), subjects=14, slices=2).records():
        number = 2 * int(record.subject[-3:]) + int(record.key[-3:])
        if moved and (number < 14) == (record.domain == "a"):
            continue
        first = 100 if record.domain == "b" else 10
        save_slice(tmp_path / CONTRAST[record.domain] / f"{first + number}.png", record.read()[0])
    result = check(tmp_path, layout="contrasts_pictures", table=tmp_path / "pairs.csv")
    said = result["summary"]["pairs"]
    assert said.startswith("none ")
    assert ("same heads" in said) != bool(moved)
    rows = csv.DictReader((tmp_path / "pairs.csv").read_text().splitlines())
    pairs = defaultdict(set)
    for row in rows:
        pairs[row["pair"]].add(int(Path(row["path"]).stem))
    if moved:
        assert [*pairs] == [""]
    else:
        right = [names for names in pairs.values() if max(names) - min(names) == 90]
        assert len(right) > 20 and len(right) == len([name for name in pairs if name])


def test_a_volume_that_is_mirrored_is_named(tmp_path):
    for (letter, subject), pixels in heads(32, 32, 32, subjects=4).items():
        moved = (letter, subject) == ("b", "subject-002")
        volume(tmp_path / subject / f"{CONTRAST[letter]}.nii.gz", pixels[::-1] if moved else pixels)

    result = check(tmp_path)
    (told,) = [each["what"] for each in result["problems"] if each["kind"] == "pairs"]
    assert "mirrored or upside down" in told
    assert "subject-002" in told


@pytest.mark.parametrize(("planes_apart", "blank"), [(0, ()), (1, ()), (1, (6,)), (4, ())])
def test_a_patient_whose_pairs_do_not_fit_is_named(tmp_path, planes_apart, blank):
    for record in phantom(("T1", "T2"), 2, (64, 64), subjects=5, slices=12).records():
        number = int(record.key[-3:])
        if record.subject == "subject-002" and record.domain == "b":
            number = (number + planes_apart) % 12
        folder = tmp_path / record.subject / CONTRAST[record.domain]
        shown = record.read()[0] * (record.subject != "subject-002" or number not in blank)
        save_slice(folder / f"{number:02d}.png", shown)

    result = check(tmp_path, pictures=tmp_path.with_suffix(".png"))
    told = [each["what"] for each in result["problems"] if each["kind"] == "pairs"]
    assert ["subject-002" in each for each in told] == [True] * bool(planes_apart)
    with Picture.open(tmp_path.with_suffix(".png")) as pairs:  # ten pairs below each other
        assert pairs.height > 5 * pairs.width
    in_test = "subject-002" in result["summary"]["held out"].partition("test: ")[2]
    of_patients = [each for each in told if "or show different slices" in each]
    assert all(("subject-002 in the test (" in each) == in_test for each in of_patients)
    assert result["summary"]["pairs"].startswith("60 by name; ")


@pytest.mark.parametrize(
    "change",
    [np.fliplr, np.flipud, np.rot90, np.transpose, lambda image: np.rot90(image, 2) * 1.2 + 9],
)
def test_mirrored_and_turned_copies_leak(tmp_path, change):
    save_in_splits(tmp_path, lambda subject: "test" if subject > "subject-010" else "train")
    kinds = {each["kind"] for each in check(tmp_path)["problems"]}
    assert "leak" not in kinds

    save_slice(tmp_path / "testA" / "98.png", change(heads()["a", "subject-001"]))
    result = check(tmp_path)
    first = [*heads()].index(("a", "subject-001"))
    near = f"'trainA/{first:02d}.png' in train is a near copy of 'testA/98.png' in test"
    assert near in problem(result, "leak")["what"]


def test_copies_are_named_and_leak_if_on_two_sides(tmp_path):
    side_of = {9: "val", 10: "val", 11: "test", 12: "test", 13: "test"}
    save_in_splits(tmp_path, lambda subject: side_of.get(int(subject[-3:]), "train"))

    assert "the patients are not known" in problem(check(tmp_path), "scores")["what"]

    shutil.copy(tmp_path / "trainA" / "00.png", tmp_path / "testA" / "98.png")
    save_slice(tmp_path / "testB" / "99.png", heads()["b", "subject-001"] * 1.3 + 20)
    result = check(tmp_path)

    assert problem(result, "copies")["files"] == ["testA/98.png", "trainA/00.png"]
    assert "testB/99.png" in problem(result, "near-copies")["files"]
    leak = problem(result, "leak")
    assert leak["severity"] == "error"
    assert "near copy of 'testB/99.png' in test" in leak["what"]


@pytest.mark.parametrize("name", ["t1t2_course", "ct_mri", "brainix_dicom", "facades"])
def test_real_folders_raise_no_alarm(shared_data, name):
    # its numbers may be patients and slices, or slices alone: data check asks
    settings = [r"data.source.patient=(\d+)\d{3}[.]"] if name == "ct_mri" else []
    problems = check(shared_data / name, set=settings)["problems"]
    alarms = {each["kind"] for each in problems if each["severity"] != "note"}
    pairs = [each["what"] for each in problems if each["kind"] == "pairs"]
    if name == "ct_mri":  # the slices of one of its patients show other planes
        assert "1 of 6 measured patients" in pairs[0]
        assert re.search(r": 32( in the test)? \(59% of 22 comparisons\)\.", pairs[0])
        # and the CT of another was exported with another window
        assert [each["files"] for each in problems if each["kind"] == "windows"] == [["20"]]
        alarms -= {"pairs", "windows"}
    assert alarms <= {"scores"} if name != "brainix_dicom" else "contrast" not in alarms


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("T1/{place:03d}.png", False),  # neighbours of test slices are left out of the training
        ("T1/{shuffled:03d}.png", True),
        ("T1/patient{shuffled:03d}.png", True),
        ("{side}A/{shuffled:03d}.png", True),
    ],
)
def test_slices_of_one_head_in_training_and_test_are_told(name, told, tmp_path):
    head = heads(96, 64, 64, subjects=1)["a", "subject-000"]
    order = np.random.default_rng(1).permutation(48)
    for place, shuffled in enumerate(order):
        side = "train" if shuffled % 4 else "test"
        path = tmp_path / name.format(place=place, shuffled=shuffled, side=side)
        save_slice(path, head[24 + place])

    problems = check(tmp_path)["problems"]
    assert sum("look like slices" in each["what"] for each in problems) == told


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
    facts = {
        "description": description,
        "echo_time": echo,
        "inversion_time": None,
        "modality": "MR",
    }
    item = Inspected(Scan(Path("x"), name="x/y"), facts, domains=[domain], header_says=says)

    assert header_contradicts(item) == told


# ---- tables of many rows


@pytest.fixture
def study(tmp_path):
    """`study(count)`: a table of so many noisy pictures, of ten patients, T1 and T2 in turn."""

    def make(count, side=16):
        with open(tmp_path / "table.csv", "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["path", "domain", "patient"])
            for number in range(count):
                path = tmp_path / f"{number:05d}.png"
                pixels = np.random.default_rng(number).integers(0, 255, (side, side))
                path.exists() or Picture.fromarray(pixels.astype(np.uint8)).save(path)
                table.writerow([path.name, ("T1", "T2")[number % 2], f"p{number // 2 % 10}"])

        return tmp_path / "table.csv"

    return make


def test_an_image_of_both_domains_is_told_from_one_stored_twice(study):
    table = study(8)
    pixels = (table.parent / "00000.png").read_bytes()
    (table.parent / "00002.png").write_bytes(pixels)
    assert "(" not in problem(check(table), "copies")["what"]
    (table.parent / "00001.png").write_bytes(pixels)
    assert "(1 group across domains)" in problem(check(table), "copies")["what"]


def test_very_large_sets_are_sampled_except_for_equal_files(study, monkeypatch):
    for module in (near_duplicates, leakage):
        monkeypatch.setattr(module, "MAX_ALL_COMPARED", 30)
    monkeypatch.setattr(near_duplicates, "SAMPLE_OF_LARGE_SET", 10)
    table = study(60)
    found = check(table)

    assert found["images"] == 60
    assert len(found["files"]) == 10
    assert found["problems"][-1]["kind"] == "sample"
    assert found["source"]["name"] == "manifest"
    assert found["patients"] == 10
    assert found["domains"]["T2"]["images"] == 30
    assert len(check(table, every=True)["files"]) == 60

    # of p0, for the patients on the other side of the split
    copy = (table.parent / "00000.png").read_bytes()
    for number in range(2, 20, 2):
        (table.parent / f"{number:05d}.png").write_bytes(copy)

    leaks = [problem["what"] for problem in check(table)["problems"] if problem["kind"] == "leak"]

    assert len(leaks) == 1
    assert "file '0" in leaks[0]


def test_a_recipe_uses_the_files_of_a_relative_path(volumes, monkeypatch):
    monkeypatch.chdir(volumes.parent)
    summary = check("data", recipe="cyclegan_t1t2")["summary"]
    assert summary["files"].startswith("12 nii.gz, ")


LAYOUTS = {
    "two images side by side": lambda one, other: np.hstack([one, other]),
    "three images side by side": lambda one, other: np.hstack([one, other, one]),
    "two images, one moved": lambda one, other: np.hstack([one, np.roll(other, 6, 1)]),
    "two images, one above the other": lambda one, other: np.vstack([one, other]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pictures_of_several_images_are_told(tmp_path, layout):
    for subject in {subject for _, subject in heads()}:
        pair = heads()["a", subject], heads()["b", subject]
        save_slice(tmp_path / f"{subject}.png", LAYOUTS[layout](*pair))

    settings = ["data.source.name=aligned", 'data.domains=["T1", "T2"]']
    told = named(check(tmp_path, set=settings), "pairs")["pairs"]
    assert len(told) == (layout != "two images side by side")


def test_a_pattern_without_a_patient_is_the_cause(tmp_path):
    for number in range(3):
        save_slice(tmp_path / f"{number}.png", np.zeros((16, 32)))

    told = check(tmp_path, set=[r"data.source.patient=patient_(\d+)"])["problems"]
    assert "finds no patient in '0.png'" in " ".join(each["what"] for each in told)


@pytest.mark.parametrize(
    ("modes", "settings", "recipe", "severities"),
    [
        ("LLLL", [], None, []),
        ("RLRL", [], None, ["note"]),
        ("RLRL", [], "dcgan_phantom", ["error"]),
        ("RLRL", [], "dcgan_tumour", []),  # sets data.channels
        ("RLRL", ["data.channels=3"], None, []),
    ],
)
def test_gray_and_colour_stop_only_a_recipe_of_neither(
    modes, settings, recipe, severities, tmp_path
):
    rng = np.random.default_rng(0)
    for number, mode in enumerate(modes):
        pixels = rng.integers(0, 255, (32, 32, 3), np.uint8)
        Picture.fromarray(pixels if mode == "R" else pixels[..., 0]).save(
            tmp_path / f"{number}.png"
        )

    problems = check(tmp_path, recipe=recipe, set=settings)["problems"]
    found = [each for each in problems if each["kind"] == "channels"]
    assert [each["severity"] for each in found] == severities
    assert all("data.channels" in each["remedy"] for each in found)


CT_UNITS = {
    "Hounsfield units": ([(1.0, 0.0)] * 6, 0),
    "one without its intercept": ([(1.0, 0.0)] * 5 + [(1.0, 1024.0)], 1),
    "stored numbers": ([(1.0, 1024.0)] * 6, 6),
    "0 to 1": ([(1 / 4096, 0.25)] * 6, 6),
}


@pytest.mark.parametrize("name", CT_UNITS)
def test_ct_without_hounsfield_units_is_told(tmp_path, name):
    scales, count = CT_UNITS[name]
    rng = np.random.default_rng(0)
    for number, (slope, offset) in enumerate(scales):
        values = rng.uniform(-1000, 1500, (12, 12, 12)) * slope + offset
        volume(tmp_path / f"p{number}" / "CT.nii.gz", values, dtype=np.float32)
        volume(tmp_path / f"p{number}" / "MR.nii.gz", rng.uniform(0, 900, (12, 12, 12)))

    found = [each for each in check(tmp_path)["problems"] if each["kind"] == "units"]
    assert sum(len(each["files"]) for each in found) == count


@pytest.mark.parametrize(
    ("folders", "domains", "said"),
    [
        (("seqA", "seqB"), [], "with 'seqA' as A, 'seqB' as B"),
        (("seqA", "seqB"), ['data.domains=["T1", "T2"]'], "with 'seqA' as T1, 'seqB' as T2"),
        (("A", "B"), [], ""),
    ],
)
def test_letters_that_are_taken_for_contrasts_are_named(folders, domains, said, tmp_path):
    for (letter, subject), image in heads(subjects=12).items():
        save_slice(tmp_path / folders["ab".index(letter)] / f"{subject[-2:]}.png", image)
    layout = check(tmp_path, set=domains)["summary"]["layout"]
    assert layout.partition(" by ")[2].partition(", ")[2] == said


def test_further_words_say_the_contrasts_of_a_layout(tmp_path):
    for (letter, subject), image in heads().items():
        save_slice(tmp_path / f"{subject}_K{letter}.png", image)

    words = ['data.words.T1=["Ka"]', 'data.words.T2=["Kb"]']
    found = check(tmp_path, set=words, layout="{patient}_{contrast}")

    assert {tuple(each["domains"]) for each in found["files"]} == {("T1",), ("T2",)}


ARCHIVE = """
from functools import partial
from pathlib import Path
import gantk, numpy
@gantk.hookimpl
def gantk_register(add): add.source("archive", Archive)
class Archive(gantk.ImageSource):
    def __init__(self, domains, dims, size, *, path: str = ""):
        self.domains, self.path = domains, path
    @classmethod
    def accepts(cls, path):
        return {"path": str(path)} if path.suffix == ".npz" else None
    def read(self, name, number):
        return numpy.load(self.path)[name][number][None]
    def records(self):
        return [gantk.Record(domain=x, subject=f"p{n}", key=f"{name}-{n}", pair=f"p{n}",
                             path=Path(self.path), read=partial(self.read, name, n))
                for x, name in zip("ab", self.domains)
                for n in range(len(numpy.load(self.path)[name]))]
"""


def test_a_plugin_reads_what_its_source_accepts(tmp_path, add_plugin):
    add_plugin("my-package", "archive", ARCHIVE)
    images = {name: [heads()[x, s] for x, s in heads() if x == y] for y, name in CONTRAST.items()}
    np.savez(tmp_path / "scans.npz", **images)
    with pytest.raises(
        UserError, match=r"source 'archive'.*--set 'data.domains=\[\"T1\", \"T2\"\]'"
    ):
        check(tmp_path / "scans.npz")

    found = check(tmp_path / "scans.npz", set=['data.domains=["T1", "T2"]'])
    assert found["problems"] == []
    assert found["summary"]["files"] == "1 npz, 28 images, 64 x 64"
    assert (
        found["summary"]["pairs"]
        == "14 registered; 14 measured: they fit better than images of other patients in 100% of comparisons"
        " (chance: 50%)"
    )


@pytest.mark.parametrize(
    ("written", "wrong", "says"),
    [
        ("{name}-{n}", "one", "2 records of the domain 'a' have the same key, 'one'"),
        ("return [gantk", "return 5, [gantk", "must return a list of gantk.Record"),
    ],
)
def test_wrong_records_are_the_fault_of_their_source(written, wrong, says, tmp_path, add_plugin):
    add_plugin("my-package", "archive", ARCHIVE.replace(written, wrong))
    np.savez(tmp_path / "scans.npz", T1=np.zeros((2, 64, 64)), T2=np.ones((2, 64, 64)))
    with pytest.raises(UserError, match=f"{says}.*archive.py(:[0-9]+)?, offered by my-package"):
        check(tmp_path / "scans.npz", set=['data.domains=["T1", "T2"]'])


@pytest.mark.parametrize("brighter", [0, 60])
def test_a_patient_of_another_window_is_named(tmp_path, brighter, gantk):
    for record in phantom(("T1", "T2"), 2, (64, 64), subjects=6, slices=3).records():
        shown = 120 * record.read()[0] / record.read().max()
        if record.subject == "subject-003" and record.domain == "a":
            shown = np.where(shown > 12, shown + brighter, shown)
        folder = tmp_path / record.subject / CONTRAST[record.domain]
        save_slice(folder / f"{record.key[-3:]}.png", shown)

    result = check(tmp_path)
    told = [each["files"] for each in result["problems"] if each["kind"] == "windows"]
    assert told == [["subject-003"]] * bool(brighter)
    assert result["settings"] == ['data.leave_out=["subject-003"]'] * bool(brighter)
    assert ("5 are left" in gantk("data", "check", tmp_path).out) == bool(brighter)


@pytest.mark.parametrize("white", [255, 240])
def test_bone_of_pictures_that_is_cut_off_is_told(tmp_path, white):
    rng = np.random.default_rng(0)
    for number in range(4):
        shown = rng.uniform(0, 800, (32, 32))
        shown[:4] = 4 * white
        save_slice(tmp_path / f"p{number}" / "CT.png", shown)
        save_slice(tmp_path / f"p{number}" / "MR.png", rng.uniform(0, 800, (32, 32)))

    told = check(tmp_path)["summary"]["CT"]
    assert told.startswith("8-bit pictures")
    assert ("In 4 of 4" in told) == (white == 255)
