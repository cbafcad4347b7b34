"""Classes come from folders, reach the batch as numbers, and copies of one picture never stand on two sides."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import draw_pictures

from gantk.data.augment import augmented
from gantk.data.batches import Batches
from gantk.data.dataset import Data
from gantk.data.sources.folders import Images
from gantk.data.split.leakage import check_leakage
from gantk.data.split.split import SETS, split_records
from gantk.errors import UserError
from gantk.method import Method
from gantk.recipe.tables import DataTable


class FromNoise(Method):
    """A method that reads one domain."""

    reads = ("image",)


def table(path, **options):
    source = {"name": "images", "path": str(path)} | options.pop("source", {})
    split = {"test": 0.2, "validation": 0.2, "by": "image"}
    keys = {"domains": ("MR",), "size": (32, 32), "split": split} | options
    return DataTable.model_validate_json(json.dumps({"source": source, **keys}))


@pytest.fixture
def classes(tmp_path):
    draw_pictures(tmp_path / "yes", 12, seed=1)
    draw_pictures(tmp_path / "no", 8, seed=2)
    return tmp_path


def test_the_first_folder_is_the_class_where_folders_are_no_numbers(classes):
    records = Images(("MR",), 2, (32, 32), path=str(classes)).records()
    assert Counter(record.label for record in records) == {"yes": 12, "no": 8}
    assert all(record.key.startswith(record.label) for record in records) and {r.subject for r in records} == {""}
    (classes / "yes").rename(classes / "patient1")
    (classes / "no").rename(classes / "patient2")
    assert {r.label for r in Images(("MR",), 2, (32, 32), path=str(classes)).records()} == {None}


def test_patients_below_classes_stay_patients_and_are_not_divided(tmp_path):
    for number in range(6):
        draw_pictures(tmp_path / "ill" / f"p{number}", 2, seed=number)
        draw_pictures(tmp_path / "well" / f"p{number}", 2, seed=100 + number)
    records = Images(("MR",), 2, (32, 32), path=str(tmp_path)).records()
    assert {r.subject for r in records} == {f"p{n}" for n in range(6)} and {r.label for r in records} == {"ill", "well"}
    assert split_records(records, validation=0.2)[0].by == "patient"


def test_one_class_can_be_kept_and_an_unknown_one_is_named(classes):
    kept = Images(("MR",), 2, (32, 32), path=str(classes), only="no").records()
    assert len(kept) == 8 and {record.label for record in kept} == {"no"}
    with pytest.raises(UserError, match=r"class 'yess'.*no, yes.*Did you mean 'yes'\?"):
        Images(("MR",), 2, (32, 32), path=str(classes), only="yess").records()


def test_every_class_is_in_every_set(classes):
    records = Images(("MR",), 2, (32, 32), path=str(classes)).records()
    for by in ("image", "block"):
        splits, _ = split_records(records, test=0.2, validation=0.2, by=by, gap=0)
        assert all({record.label for record in splits[name]} == {"yes", "no"} for name in SETS), by


def test_labels_reach_the_batch_as_indices_of_sorted_classes(classes):
    data = Data.load(table(classes, labels=True), FromNoise)
    assert data.classes == ("no", "yes") and any("classes" in line and "yes" in line for line in data.description())
    batches = Batches(data.training_sets(), 4, 0, paired=False)
    batch, records = batches.at(3), batches.sets["image"].records
    indices = batches._indices("image", 12)
    assert batch["label"].dtype == torch.int64 and batch["label"].shape == (4,)
    assert [data.classes[i] for i in batch["label"]] == [records[i].label for i in indices]
    assert torch.equal(augmented(batch, [], False)["label"], batch["label"])
    plain = Data.load(table(classes), FromNoise)
    assert plain.classes == () and set(Batches(plain.training_sets(), 4, 0, False).at(0)) == {"image"}


def test_a_missing_label_is_counted_and_named(classes):
    draw_pictures(classes, 2, seed=9)
    with pytest.raises(UserError, match=r"2 of 22 images have no label: the first is 'slice-00.png'.*data\.labels"):
        Data.load(table(classes, labels=True), FromNoise)
    Data.load(table(classes), FromNoise)


@pytest.mark.parametrize("by", ["image", "block", "auto"])
def test_copies_of_a_picture_stay_on_one_side(classes, by):
    for number in range(8):
        shutil.copy(classes / "yes" / f"slice-{number:02d}.png", classes / "yes" / f"z-copy-{number}.png")
    records = Images(("MR",), 2, (32, 32), path=str(classes)).records()
    for seed in range(5):
        splits, how = split_records(records, test=0.2, validation=0.2, by=by, gap=1, seed=seed)
        check_leakage(splits)
        assert by == "image" or "copies" in how or sum(map(len, splits.values())) > 0
        if by == "image":
            assert sum(map(len, splits.values())) == 28


def test_the_split_of_a_set_without_copies_is_what_it_was(classes):
    records = Images(("MR",), 2, (32, 32), path=str(classes), only="yes").records()
    splits, _ = split_records(records, test=0.25, validation=0.0, by="image", seed=3)
    order = np.random.default_rng(3).permutation(12)[:3]
    assert {record.key for record in splits["test"]} == {records[i].key for i in order}


def test_the_tumour_set_has_two_classes_and_no_leak(shared_data):
    folder = shared_data / "tumour_yes_no"
    split = {"test": 0.2, "validation": 0.1, "by": "image"}
    data = Data.load(table(folder, labels=True, split=split, source={"channels": 1}), FromNoise)
    assert data.classes == ("no", "yes") and data.leaks() is None
    assert sum(map(len, data.slices.values())) == 253


def test_copies_that_are_all_there_is_are_refused_and_not_left_out(classes):
    for path in (classes / "no").iterdir():
        path.unlink()
    files = sorted((classes / "yes").iterdir())
    for path in files[1:]:
        shutil.copy(files[0], path)
    records = Images(("MR",), 2, (32, 32), path=str(classes)).records()
    with pytest.raises(UserError, match="not apart: image 'yes/slice-"):
        check_leakage(split_records(records, test=0.2, validation=0.2, by="block", gap=1)[0])
