"""What folders and files are called decides what a recipe's domains are, and who is held out."""

import re

import numpy as np
import pytest
from PIL import Image

from gantk.data.dataset import Data
from gantk.errors import UserError
from gantk.recipe.load import checked_recipe

SPLITS = {"train": 8, "val": 2, "test": 3}
NAMED = {  # a path by kind (CT, MR), split, number; T1 and T2 of a recipe are then none of them
    "two folders": "{k}/{n}.png",
    "split first": "{s}/{k}/{n}.png",
    "split last": "{k}/{s}/{n}.png",
    "glued": "{s}_{k}/{n}.png",
    "glued behind": "{k}_{s}/{n}.png",
    "upper case": "{S}ING/{l}/{n}.PNG",
    "nnU-Net": "images{t}/{k}_{n}.png",
    "patients": "p{n}/{k}/1.png",
    "patients in splits": "{s}/p{n}/scan_{k}.png",
    "file names": "{n}_{k}.png",
    "MRI": "{s}/{i}/{n}.png",
    "beside others": "{k}/{n}.png labels/{n}.png masks/{n}.png",
    "Windows": "Study 1 (copy)/{k} images/IMG {n}.png",
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
        known = {"k": kind, "l": kind.lower(), "i": ("CT", "MRI")[b], "a": "AB"[b], "w": ("horses", "zebras")[b]}
        for place, (split, count) in enumerate(SPLITS.items()):
            for n in range(10 * place, 10 * place + count):
                known |= {"s": split, "S": split.upper(), "t": split[:2].title().replace("Te", "Ts"), "n": n}
                for name in layout.format(**known).split(" ") if "labels" in layout else [layout.format(**known)]:
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
    given = {name: len({record.key for record in part if record.domain != "b"}) for name, part in data.splits.items()}
    return data.table.domains, given, loaded.remarks, data.found


@pytest.mark.parametrize("name", NAMED)
def test_a_contrast_that_the_recipe_lacks_is_an_error_with_two_ways_out(tmp_path, name):
    path = draw(tmp_path, NAMED[name])
    domains, given, remarks, found = data_of("cyclegan_ct_mr", path)
    assert domains == ("CT", "MR") and not remarks
    whose = "of 13 patients" if "p{n}/" in NAMED[name] else ", patients unknown"
    assert found == f"CT: 13 images{whose}; MR: 13 images{whose}".replace("imagesof", "images of")
    if any(part in NAMED[name] for part in ("{s}", "{S}", "{t}")):
        assert given == {"train": 8, "validation": 2, "test": 3}
    with pytest.raises(UserError) as error:
        data_of("dualgan_t1t2", path)
    renamed = re.findall(r"--set '(data\.domains=[^']+)'", str(error.value))
    mapped = re.findall(r'--set (data\.source\.[ab])="(\w+)"', str(error.value))
    assert renamed == ['data.domains=["CT", "MR"]'] and len(mapped) == 2
    assert data_of("dualgan_t1t2", path, *renamed)[:3] == (("CT", "MR"), given, [])
    assert data_of("dualgan_t1t2", path, *map("=".join, mapped))[:3] == (("T1", "T2"), given, [])


@pytest.mark.parametrize("name", NAMELESS)
def test_names_that_say_nothing_become_a_and_b_with_a_note(tmp_path, name):
    layout, called = NAMELESS[name]
    domains, given, (remark,), _ = data_of("dualgan_t1t2", draw(tmp_path, layout))
    assert domains == ("A", "B") and called in remark
    assert given == {"train": 8, "validation": 2, "test": 3} or "{s}" not in layout
    (kept,) = re.findall("--set '(.*?)'", remark)
    assert data_of("dualgan_t1t2", tmp_path, kept)[:3] == (("T1", "T2"), given, [])
