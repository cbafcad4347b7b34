"""Unpaired training uses one domain of each patient, or all pictures where only names tell patients."""

import re

import numpy as np
import pytest
from PIL import Image as Picture
from volumes import UNPAIRED, load

from gantk import check
from gantk.data.description import describe

PATIENTS = range(6)
BY_NAME = "{side}/sub-0{patient}_slice-{slice}.png"
BY_FOLDER = "{side}/patient{patient}/{slice}.png"
FOLDERS_A_AND_B = ("trainA", "trainB")
FOLDERS_OF_CONTRASTS = ("T1", "T2")
WHOLE = "are used. Pairs are known by their file names"
HALF = "one contrast of each patient"


def pictures(folder, sides, pattern):
    """Two slices of six patients in each of two folders."""
    rng = np.random.default_rng(0)
    for side in sides:
        for patient in PATIENTS:
            for place in range(2):
                path = folder / pattern.format(side=side, patient=patient, slice=place)
                path.parent.mkdir(parents=True, exist_ok=True)
                Picture.fromarray(rng.integers(0, 255, (16, 16), np.uint8)).save(path)
    return folder


@pytest.mark.parametrize(
    ("sides", "pattern", "source", "table", "images", "note"),
    [
        (FOLDERS_A_AND_B, BY_NAME, {}, {}, 24, WHOLE),
        (FOLDERS_A_AND_B, BY_NAME, {"patient": "names"}, {}, 12, HALF),
        (FOLDERS_A_AND_B, BY_NAME, {"patient": "sub-([0-9]+)"}, {}, 12, HALF),
        (FOLDERS_A_AND_B, BY_FOLDER, {}, {}, 12, HALF),
        (FOLDERS_OF_CONTRASTS, BY_NAME, {}, {}, 24, WHOLE),
        (FOLDERS_OF_CONTRASTS, BY_FOLDER, {}, {}, 12, HALF),
        (FOLDERS_OF_CONTRASTS, BY_NAME, {}, {"unpair": True}, 12, HALF),
        (FOLDERS_OF_CONTRASTS, BY_NAME, {}, {"unpair": False, "same_patient": True}, 24, ""),
    ],
)
def test_images_that_unpaired_training_uses(sides, pattern, source, table, images, note, tmp_path):
    """Images, whether patients are known, settings -> training images, and what is said of them."""
    domains = ("A", "B") if sides == FOLDERS_A_AND_B else sides
    split = {"test": 0.0, "validation": 0.0}
    path = pictures(tmp_path, sides, pattern)
    options = {"name": "files", "path": str(path)} | source
    data = load(options, UNPAIRED, domains=domains, split=split, **table)

    said = [line for line in describe(data) if re.search("are used|one contrast of", line)]
    assert len(data.training) == images
    assert data.leaks() is None
    assert [note in line for line in said] == ([True] if note else [])
    recorded = data.split_json().splits.consequences  # what the report shows beside the verdict
    assert any(WHOLE in line for line in recorded) == (note == WHOLE)


@pytest.mark.parametrize(
    ("held_out", "table", "counts", "warns"),
    [
        (
            0.0,
            {},
            "T1: 6 images of 3 patients; T2: 6 images of 3 patients for training (one",
            False,
        ),
        (0.5, {}, "T1: 4 images of 2 patients; T2: 2 images of 1 patient for training (one", True),
        (
            0.5,
            {"unpair": False, "same_patient": True},
            "T1: 6 images of 3 patients; T2: 6 images of 3 patients for training, at",
            False,
        ),
    ],
)
def test_domains_of_few_patients_are_warned_of(held_out, table, counts, warns, tmp_path):
    path = pictures(tmp_path, FOLDERS_OF_CONTRASTS, BY_FOLDER)
    split = {"test": held_out, "validation": 0.0}
    source = {"name": "files", "path": str(path)}
    lines = describe(load(source, UNPAIRED, domains=FOLDERS_OF_CONTRASTS, split=split, **table))

    assert any(line.startswith("data") and counts in line for line in lines)
    warnings = [line for line in lines if line.startswith("warning")]
    few = [line for line in warnings if "sees T1 and T2 of fewer than 3 patients" in line]
    assert ["data.unpair = false and data.same_patient = true" in line for line in few] == [
        True
    ] * warns


@pytest.mark.parametrize(("unpair", "told"), [("auto", True), ("true", False)])
def test_a_check_with_a_recipe_tells_of_partners(unpair, told, tmp_path):
    path = pictures(tmp_path, FOLDERS_OF_CONTRASTS, BY_NAME)
    settings = [f"data.unpair={unpair}", "data.size=[16, 16]"]
    found = check(path, recipe="cyclegan_t1t2_64", set=settings)
    assert any(WHOLE in problem["what"] for problem in found["problems"]) == told
