"""What folders and files are called decides what a recipe's domains are, whose images they are, and
who is held out.
"""

import random
import re

import numpy as np
import pytest
from PIL import Image
from volumes import volume

from gantk import Data, checked_recipe
from gantk.catalog.patients import reading_of
from gantk.errors import UserError

# ---- domains


SPLITS = {"train": 8, "val": 2, "test": 3}
NAMED = {  # a path by kind (CT, MR), split, number; T1 and T2 of a recipe are then none of them
    "two folders": "{k}/{n}.png",
    "patients in splits": "{s}/p{n}/scan_{k}.png",
}
NAMELESS = {
    "trainA": ("{s}{a}/{n}.png", "A (testA, trainA, valA) and B (testB, trainB, valB)"),
    "A and B": ("{a}/{s}/{n}.png", "A (A) and B (B)"),
    "animals": ("{w}/{n}.png", "A (horses) and B (zebras)"),
    "side by side": ("{s}/{n}.png", "called A and B"),
}


def draw(root, layout):
    """Tiny pictures of CT and MR, no two alike, with what else lies in folders."""
    for b, kind in enumerate(("CT", "MR")):
        known = {"k": kind, "a": "AB"[b], "w": ("horses", "zebras")[b]}
        for place, (split, count) in enumerate(SPLITS.items()):
            for n in range(10 * place, 10 * place + count):
                name = layout.format(s=split, n=n, **known)
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shape = (16, 32) if layout == "{s}/{n}.png" else (16, 16)
                noise = np.random.default_rng([b, n]).integers(0, 255, shape, dtype=np.uint8)
                Image.fromarray(noise).save(root / name)

    for junk in (".DS_Store", "Thumbs.db", "README.txt", "._1.png"):
        (root / junk).write_bytes(b"junk")

    return root


def data_of(recipe, path, *settings):
    loaded, model = checked_recipe(recipe, path, ["data.size=[16,16]", *settings], None)
    data = Data(model.data, model.method.target)
    given = {
        name: len({record.key for record in part if record.domain != "b"})
        for name, part in data.splits.items()
    }
    return data.table.domains, given, loaded.remarks, data.images_in_words


@pytest.mark.parametrize("name", NAMED)
def test_a_contrast_missing_in_the_recipe_is_an_error(tmp_path, name):
    path = draw(tmp_path, NAMED[name])
    domains, given, remarks, found = data_of("cyclegan_ct_mr", path)

    assert domains == ("CT", "MR")
    assert not remarks
    whose = "of 13 patients" if "p{n}/" in NAMED[name] else ", patients unknown"
    assert found == f"CT: 13 images{whose}; MR: 13 images{whose}".replace("imagesof", "images of")

    if "{s}" in NAMED[name]:
        assert given == {"train": 8, "validation": 2, "test": 3}

    with pytest.raises(UserError) as error:
        data_of("dualgan_t1t2", path)

    renamed = re.findall(r"--set '(data\.domains=[^']+)'", str(error.value))
    mapped = re.findall(r'--set (data\.source\.[ab])="(\w+)"', str(error.value))

    assert renamed == ['data.domains=["CT", "MR"]']
    assert len(mapped) == 2
    assert data_of("dualgan_t1t2", path, *renamed)[:3] == (("CT", "MR"), given, [])
    assert data_of("dualgan_t1t2", path, *map("=".join, mapped))[:3] == (("T1", "T2"), given, [])


@pytest.mark.parametrize("name", NAMELESS)
def test_names_that_say_nothing_become_a_and_b_with_a_note(tmp_path, name):
    layout, called = NAMELESS[name]
    domains, given, (remark,), _ = data_of("dualgan_t1t2", draw(tmp_path, layout))

    assert domains == ("A", "B")
    assert called in remark
    assert given == {"train": 8, "validation": 2, "test": 3} or "{s}" not in layout
    (kept,) = re.findall("--set '(.*?)'", remark)
    assert data_of("dualgan_t1t2", tmp_path, kept)[:3] == (("T1", "T2"), given, [])


# names below a folder; those in brackets are neither T1 nor T2, or beside a better one of the same
# patient


def test_a_domain_that_no_name_says_is_an_error_whose_ways_work(tmp_path):
    for p, c in np.ndindex(5, 4):
        volume(tmp_path / f"Dataset7/imagesTr/S_0{p}_000{c}.nii", 10 * p + c, shape=(8, 8, 8))

    with pytest.raises(
        UserError, match="which images .*imagesTr.*--set data.source.a=WORD .*_0001"
    ):
        data_of("dualgan_t1t2", tmp_path)

    ways = ("data.source.name=nifti", "data.source.a=*_0000*", "data.source.b=*_0001*")

    assert (
        "T1: 5 volumes (20 slices from 25 to 75 % of each) of 5 patients; T2: 5 vol"
        in data_of("dualgan_t1t2", tmp_path, *ways)[3]
    )


# ---- patients


STACK = range(3, 20)
ONE = range(1, 5001)
SAYS = {
    "a word for a person": [f"sub-{p:02d}_{i}" for p in range(3) for i in STACK],
    "a word, one image each": [f"case{p:03d}" for p in range(60)],
    "the word slice": [f"BraTS20_Training_{p:03d}_slice_{i}" for p in (1, 2, 7) for i in STACK],
    "patient and date": [f"TCGA_CS_{4940 + p}_{19960909 + p}_{i}" for p in range(6) for i in STACK],
    "number and number": [f"p{p:02d}_{i:03d}" for p in range(1, 7) for i in STACK],
    "one number, slices last": [f"{p}{i:03d}" for p in (2, 20, 21, 32) for i in STACK],
    "every fifth slice": [f"{p}{5 * i:03d}" for p in (4, 5, 6, 7) for i in STACK],
}
MAY = {
    "two of them": [f"{p}_{i:03d}" for p in (1, 2) for i in STACK],
    "three stacks in one number": [f"{p}{i:03d}" for p in (32, 33, 34) for i in STACK],
    "years": [f"{year}_{i}" for year in (2019, 2020) for i in range(40)],
    "visits of patients": [
        f"{p}_{visit}_{i:03d}" for p in range(8) for visit in (1, 2) for i in STACK
    ],
}
SAYS_NONE = {
    "running": [str(i) for i in ONE],
    "running, padded": [f"img{i:05d}" for i in ONE],
    "running from 1000": [str(i) for i in range(1000, 1700)],
    "running with a hole": [f"Image #{i}" for i in (*range(70, 101), *range(111, 126))],
    "in brackets": [f"image ({i})" for i in range(50)],
    "classes": [f"{name}_{i:04d}" for name in ("Tr-gl", "Tr-me") for i in range(50)],
    "one patient": [f"patient7_{i:03d}" for i in STACK],
    "some of many": [f"{i:05d}" for i in random.Random(0).sample(range(10_000), 300)],
    "words": ["left", "right", "top"],
}


@pytest.mark.parametrize("name", [*SAYS, *MAY, *SAYS_NONE])
def test_names_carry_patients_or_may_or_do_not(name):
    found = reading_of(names := (SAYS | MAY | SAYS_NONE)[name])
    assert (found and found.sure) is (True if name in SAYS else False if name in MAY else None)

    if name in SAYS or "visits" in name:  # both visits of one stay together
        images = {"a word, one image each": 1, "visits of patients": 2 * len(STACK)}.get(
            name, len(STACK)
        )
        assert len(set(found.patients)) == len(names) // images
