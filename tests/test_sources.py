"""Folders of images become records of the right domain, split, patient, class, mask and pair; mistakes are named."""

import json
from collections import Counter

import numpy as np
import PIL.Image
import pytest
import torch

from gantk.data.batches import Batches
from gantk.data.batches import order as order_of
from gantk.data.dataset import Data
from gantk.data.sources.folders import Folders, Images
from gantk.data.sources.source import nothing_fits, source_for
from gantk.data.split import SETS, split_records
from gantk.errors import UserError
from gantk.method import Method
from gantk.recipe.tables import DataTable
from gantk_aligned.source import Aligned

SIZE = (32, 32)
PAIRED = type("Paired", (Method,), {"paired": True})
UNPAIRED = type("Unpaired", (Method,), {})
FROM_NOISE = type("FromNoise", (Method,), {"reads": ("image",)})


def draw(path, number=0, shape=(16, 16), lesion=False):
    """A picture with a white square whose place is the number, or with `lesion` the square's mask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng([number, len(path.name)]).integers(1, 99, shape, dtype=np.uint8)
    square = np.zeros(shape, np.uint8)
    square[number % 8 : number % 8 + 4, 2:6] = 3
    PIL.Image.fromarray(square if lesion else np.where(square > 0, 255, image).astype(np.uint8)).save(path)


def tree(root, *names, shape=(16, 16), number=0):
    for name in names:
        number += 1
        draw(root / name, number, shape)
    return root


def folders(path, domains=("T1", "T2"), dims=2, **options):
    return Folders(domains, dims, SIZE, path=str(path), **options).records()


def images(path, **options):
    return Images(("MR",), 2, SIZE, path=str(path), **options).records()


def keys(records, letter):
    return [record.key for record in records if record.domain == letter]


def by_pair(records):
    found: dict[str, dict[str, str]] = {}
    for record in records:
        if record.pair is not None:
            found.setdefault(record.pair, {})[record.domain] = record.key
    return sorted((pair["a"], pair["b"]) for pair in found.values() if len(pair) == 2)


def load(path, method=UNPAIRED, source=None, **options):
    split = {"test": 0.2, "validation": 0.2, "by": "image"}
    given = {"name": "folders", "path": str(path)} | (source or {})
    tables = {"source": given, "domains": ("T1", "T2"), "size": SIZE, "split": split} | options
    return Data(DataTable.model_validate_json(json.dumps(tables)), method)


# --- which image is of which domain, split and patient


def test_train_and_test_folders_of_a_and_b(tmp_path):
    tree(tmp_path, *(f"{split}{letter}/{n}.png" for split in ("train", "test", "val") for letter in "AB" for n in "12"))
    records = folders(tmp_path)
    assert keys(records, "a") == [f"{split}A/{n}.png" for split in ("test", "train", "val") for n in "12"]
    assert {(r.key.split("/")[0], r.split) for r in records if r.domain == "b"} == {
        ("trainB", "train"), ("testB", "test"), ("valB", "validation"),
    }  # fmt: skip
    assert {len(part) for part in split_records(records)[0].values()} == {4}
    tree(tmp_path / "alone", "trainA/1.png", "trainA/2.png", "trainB/1.png", "trainB/2.png")
    assert {record.split for record in folders(tmp_path / "alone")} == {None}, "that is left to the recipe"


@pytest.mark.parametrize(
    "first, second, domains",
    [
        ("T1", "T2", ("T1", "T2")), ("Tr1/TrainT1", "Tr2/TrainT2", ("T1", "T2")), ("MRI", "CT", ("MR", "CT")),
        ("x/mr_t1_weighted", "x/mr_t2_weighted", ("T1", "T2")), ("setA", "setB", ("horse", "zebra")),
        ("apples", "oranges", ("A fruit", "another")), ("T2", "T1", ("T2", "T1")), ("T1", "T1ce", ("T1", "T1ce")),
    ],
)  # fmt: skip
def test_folder_names_say_the_domain(tmp_path, first, second, domains):
    tree(tmp_path, f"{first}/1.png", f"{first}/2.png", f"{second}/5.png", f"{second}/6.png")
    records = folders(tmp_path, domains)
    assert keys(records, "a") == [f"{first}/1.png", f"{first}/2.png"]
    assert keys(records, "b") == [f"{second}/5.png", f"{second}/6.png"]


def test_folders_of_neither_domain_are_left_alone_and_what_nobody_understands_is_listed(tmp_path):
    tree(tmp_path / "x", *(f"{name}/{n}.png" for name in ("T1", "T2", "labels", "FLAIR") for n in "12"))
    assert len(folders(tmp_path / "x")) == 4
    tree(tmp_path / "y", *(f"{name}/{n}.png" for name in ("red", "green", "blue") for n in "12"))
    with pytest.raises(UserError, match="'blue', 'green', 'red'.*data.source.a"):
        folders(tmp_path / "y")


def test_numbered_folders_are_patients_and_file_names_then_say_the_domain(tmp_path):
    tree(tmp_path / "x", *(f"patient{p}/scan_{kind}.png" for p in range(6) for kind in ("T1", "T1C", "T2", "seg")))
    records = folders(tmp_path / "x")
    assert len(records) == 12 and by_pair(records)[0] == ("patient0/scan_T1.png", "patient0/scan_T2.png")
    assert {r.subject for r in records} == {f"patient{p}" for p in range(6)} and len(by_pair(records)) == 6
    tree(tmp_path / "y", *(f"{kind}/p{p}/{n}.png" for kind in ("T1", "T2") for p in range(3) for n in range(2)))
    assert {r.subject for r in folders(tmp_path / "y")} == {"p0", "p1", "p2"}
    tree(tmp_path / "z", *(f"{kind}/{n}.png" for kind in ("tumour", "healthy") for n in range(2)))
    assert {r.subject for r in images(tmp_path / "z")} == {""}


@pytest.mark.parametrize("pattern", [r"(p\d+)_", r"(x|T\d)/(?P<patient>p\d+)_", r"^(p\d)_\d$"])
def test_a_pattern_finds_the_patient_in_the_path_or_else_in_the_stem(tmp_path, pattern):
    tree(tmp_path, *(f"{kind}/p{p}_{n}.png" for kind in ("T1", "T2") for p in range(5) for n in range(2)))
    assert {record.subject for record in folders(tmp_path, patient=pattern)} == {f"p{p}" for p in range(5)}


@pytest.mark.parametrize(
    "options, says",
    [
        ({"patient": "("}, "no regular"),
        ({"patient": "abc"}, "0 groups"),
        ({"patient": "(q)"}, "finds no patient in 'T1/"),
        ({"a": "T1", "b": "z/*.png"}, "no images match"),
        ({"a": "T1"}, "both a and b"),
        ({"path": ""}, "path = "),
        ({"path": "nowhere"}, "not exist"),
        ({"domains": ("T1",)}, "'images'"),
        ({"pairs": "no.csv"}, "the CSV of pairs 'no.csv' does not exist"),
        ({"mask": "seg"}, "no file in .* is named 'seg'.*1.png.*data.source.mask"),
    ],
    ids=str,
)
def test_a_wrong_option_is_explained(tmp_path, options, says):
    tree(tmp_path, "T1/1.png", "T1/2.png", "T2/1.png", "T2/2.png")
    with pytest.raises(UserError, match=says):
        folders(options.pop("path", tmp_path), **options)


def test_explicit_folders_and_globs(tmp_path):
    tree(tmp_path, "x/1.png", "x/2.png", "y/deep/3.png", "y/deep/4.png", "y/5.jpg")
    for a, b in (("x", "y/deep"), ("x/*.png", "y/*/*.png"), (str(tmp_path / "x"), str(tmp_path / "y/deep"))):
        records = folders(tmp_path, a=a, b=b)
        assert keys(records, "a") == ["x/1.png", "x/2.png"] and keys(records, "b") == ["y/deep/3.png", "y/deep/4.png"]


# --- pairs


def test_equal_names_are_pairs_unless_they_are_few_or_switched_off(tmp_path):
    tree(tmp_path, *(f"{kind}/{n}.png" for kind in ("T1", "T2") for n in range(10)))
    assert len(by_pair(folders(tmp_path))) == 10 and not by_pair(folders(tmp_path, pairs="none"))
    for n in range(4):
        (tmp_path / f"T2/{n}.png").rename(tmp_path / f"T2/{n + 100}.png")
    assert not by_pair(folders(tmp_path))


def test_a_csv_of_pairs_is_found_wins_over_names_and_names_its_wrong_line(tmp_path):
    tree(tmp_path, *(f"{kind}/{n}.png" for kind in ("T1", "T2") for n in range(3)))
    (tmp_path / "notes.csv").write_text("who,what\nme,this\n")
    (tmp_path / "PAIRS.csv").write_text("no,t2,t1\n1,T2/2.png,T1/0.png\n2,T2/1.png,T1/1.png\n")
    assert by_pair(folders(tmp_path)) == [("T1/0.png", "T2/2.png"), ("T1/1.png", "T2/1.png")]
    for text, says in (
        ("a,b\nT1/0.png,T2/0.png\nT1/9.png,T2/1.png\n", "'T1/9.png' is no image.*line 3"),
        ("a,b\nT1/0.png,T2/0.png\nT1/0.png,T2/1.png\n", "'T1/0.png' is in two pairs.*line 3"),
        ("a,b\nx,y\n", "no two columns"),
    ):
        (tmp_path / "p.csv").write_text(text)
        with pytest.raises(UserError, match=says):
            folders(tmp_path, pairs="p.csv")


def test_paired_methods_get_complete_pairs_and_what_a_csv_does_not_list_was_left_out_on_purpose(tmp_path, pictures):
    pictures(tmp_path / "T1", 12, seed=1)
    pictures(tmp_path / "T2", 12, seed=2)
    rows = [f"T1/slice-{n:02d}.png,T2/slice-{n:02d}.png" for n in range(9)]
    (tmp_path / "pairs.csv").write_text("\n".join(["one,other", *rows]))
    data = load(tmp_path, PAIRED)
    assert sum(len(data.pairs(name)) for name in SETS) == 9
    sets = {name: [record.pair for record in own.records] for name, own in data.training_sets().items()}
    assert sets["a"] == sets["b"]
    (tmp_path / "pairs.csv").unlink()
    (tmp_path / "T2" / "slice-07.png").unlink()
    with pytest.raises(UserError, match="1 of 23 images have no partner: the first is 'T1/slice-07.png', which T2 lac"):
        load(tmp_path, PAIRED)
    assert sum(len(load(tmp_path).pairs(name)) for name in SETS) == 11, "the others are pairs to score with"


def test_side_by_side_pictures_are_registered_halves(tmp_path):
    for n, split in enumerate(("train", "train", "test", "test")):
        (tmp_path / split).mkdir(exist_ok=True)
        halves = [np.full((16, 16), value + n, np.uint8) for value in (50, 200)]
        PIL.Image.fromarray(np.hstack(halves)).save(tmp_path / split / f"{n}.png")
    for order, values in (("AB", {"a": 50, "b": 200}), ("BA", {"a": 200, "b": 50})):
        records = Aligned(("x", "y"), 2, SIZE, path=str(tmp_path), order=order).records()
        assert len(by_pair(records)) == 4 and {record.split for record in records} == {"train", "test"}
        first = {record.domain: record.read() for record in records if record.key == "train/0.png"}
        assert first["a"].shape == (1, 16, 16) and {letter: half.max() for letter, half in first.items()} == values
    draw(tmp_path / "train/odd.png", shape=(16, 33))
    odd = Aligned(("x", "y"), 2, SIZE, path=str(tmp_path)).records()
    with pytest.raises(UserError, match="33 pixels wide"):
        next(record for record in odd if record.key == "train/odd.png").read()


# --- classes


@pytest.fixture
def classes(tmp_path, pictures):
    pictures(tmp_path / "yes", 12, seed=1)
    pictures(tmp_path / "no", 8, seed=2)
    return tmp_path


def test_the_first_folder_is_the_class_and_patients_lie_below(classes):
    records = images(classes)
    assert Counter(record.label for record in records) == {"yes": 12, "no": 8} and {r.subject for r in records} == {""}
    assert {record.label for record in images(classes, only="no")} == {"no"}
    with pytest.raises(UserError, match=r"class 'yess'.*no, yes.*Did you mean 'yes'\?"):
        images(classes, only="yess")
    (classes / "yes").rename(classes / "patient1")
    (classes / "no").rename(classes / "patient2")
    assert {r.label for r in images(classes)} == {None}, "numbers are patients"
    tree(classes / "new", *(f"{kind}/p{n}/{i}.png" for kind in ("ill", "well") for n in range(6) for i in range(2)))
    records = images(classes / "new")
    assert {r.subject for r in records} == {f"p{n}" for n in range(6)} and {r.label for r in records} == {"ill", "well"}


def test_labels_reach_the_batch_as_indices_of_sorted_classes(classes, pictures):
    options = dict(source={"name": "images", "path": str(classes)}, domains=("MR",))
    data = load(classes, FROM_NOISE, labels=True, **options)
    assert data.classes == ("no", "yes") and any("classes" in line and "yes" in line for line in data.description())
    batches = Batches(data.training_sets(), 4, 0, paired=False)
    batch, records = batches.at(3), batches.sets["image"].records
    count = len(records)
    indices = [order_of(0, 0, place // count, count)[place % count] for place in range(12, 16)]
    assert batch["label"].dtype == torch.int64
    assert [data.classes[i] for i in batch["label"]] == [records[i].label for i in indices]
    pictures(classes, 2, seed=9)
    with pytest.raises(UserError, match=r"2 of 22 images have no label: the first is 'slice-00.png'.*data\.labels"):
        load(classes, FROM_NOISE, labels=True, **options)
    assert load(classes, FROM_NOISE, **options).classes == ()


# --- lesion masks


def lesions(records):
    """Where each record's mask starts, None without one."""
    return {(r.domain, r.key): r.mask and int(np.argmax(r.mask()[0].any(1))) for r in records}


@pytest.mark.parametrize(
    "name, masks",
    [
        ("seg", "p{n}/scan_seg.png"), ("seg", "p{n}/other-SEG-by-hand.png"), ("mask", "masks/p{n}/scan.png"),
        ("mask*", "p{n}/mask_scan.png"), ("*_roi.png", "p{n}/scan_roi.png"),
    ],
)  # fmt: skip
def test_a_mask_belongs_to_the_images_of_its_patient(tmp_path, name, masks):
    for n in range(5):
        draw(tmp_path / f"p{n}" / "scan_T1.png", n)
        draw(tmp_path / f"p{n}" / "scan_T2.png", n)
        if n != 3:
            draw(tmp_path / masks.format(n=n), n, lesion=True)
    kinds = {"a": "T1", "b": "T2"}
    expected = {(d, f"p{n}/scan_{kinds[d]}.png"): None if n == 3 else n for n in range(5) for d in "ab"}
    assert lesions(folders(tmp_path, mask=name)) == expected


def test_a_mask_on_another_grid_and_two_masks_of_one_image_are_named(tmp_path):
    for n in range(3):
        for kind in ("T1", "T2"):
            draw(tmp_path / f"p{n}" / f"{kind}.png", n)
        draw(tmp_path / f"p{n}" / "seg.png", n, shape=(16, 20) if n == 1 else (16, 16), lesion=True)
    with pytest.raises(UserError, match=r"p1/seg.png' is on another grid than .*p1/T1.png': 16 x 20 against 16 x 16"):
        folders(tmp_path, mask="seg")
    draw(tmp_path / "p0" / "seg_T1_T2.png", 0, lesion=True)
    with pytest.raises(UserError, match="p0/T1.png' has two masks"):
        folders(tmp_path, mask="seg")


# --- which source fits a path


SOURCE = """
from gantk import hookimpl

class Site:
    rank = {rank}

    @classmethod
    def accepts(cls, path):
        return {{"root": str(path)}} if (path / "site.txt").is_file() else None

@hookimpl
def gantk_register(add):
    add.source("site", Site)
    add.source("torn", "no_such_module:Source")
"""


@pytest.mark.parametrize("rank, found", [(0, "site"), (2, "folders")])
def test_a_third_partys_source_is_asked_by_its_rank_and_a_broken_one_is_passed_over(tmp_path, add_plugin, rank, found):
    tree(tmp_path / "data", "trainA/1.png", "trainB/1.png")
    (tmp_path / "data" / "site.txt").touch()
    add_plugin("My_Site", "my_site", SOURCE.format(rank=rank))
    assert source_for(tmp_path / "data")["name"] == found
    assert source_for(tmp_path / "data", own="site") == {"name": "site", "root": str(tmp_path / "data")}


def test_a_path_finds_its_source_or_a_message_of_what_is_there(tmp_path):
    two, side, one = tmp_path / "two", tmp_path / "side", tmp_path / "one"
    tree(two, "trainA/1.png", "trainB/1.png")
    tree(side, "train/1.png", "test/1.png", shape=(16, 32))
    tree(one, "1.png", "2.png")
    assert source_for(two) == {"name": "folders", "path": str(two)}
    assert source_for(side) == {"name": "aligned", "path": str(side)}
    assert source_for(one) == source_for(one, domains=1) == {"name": "images", "path": str(one)}
    assert source_for(two, domains=1)["name"] == "images"
    tree(tmp_path / "three", "CT/1.png", "MR/1.png", "labels/1.png")
    assert source_for(tmp_path / "three")["name"] == "folders", "two of three folders are domains by name"
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "a.txt").touch()
    (empty / "b.txt").touch()
    assert "does not exist" in nothing_fits(tmp_path / "x") and "is a file" in nothing_fits(empty / "a.txt")
    with pytest.raises(UserError, match="2 x .txt.*--data"):
        source_for(empty)
