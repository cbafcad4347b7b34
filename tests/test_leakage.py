"""Leakage: who or what stands on both sides of a split is named, and slices that are merely neighbours are not."""

import zlib
from functools import partial

import numpy as np
import pytest
from PIL import Image as Picture
from scipy.ndimage import zoom

from gantk.data.dataset import Data
from gantk.data.items import Record
from gantk.data.phantom.source import Phantom
from gantk.data.sources.folders import Images
from gantk.data.split.leakage import check_leakage
from gantk.data.split.near_duplicates import near_copies, see
from gantk.data.split.split import split_records
from gantk.errors import UserError
from gantk.recipe.load import load_recipe


def pixels(number):
    return np.full((1, 8, 8), number, np.float32) + np.arange(8, dtype=np.float32)


def stack(count, domain="a", subject=""):
    """Slices of one subject in order, with pixels of their own."""
    read = (partial(pixels, zlib.crc32(f"{domain}{subject}{i}".encode()) % 2**22) for i in range(count))
    return [Record(domain, subject, f"{subject}/{domain}{i:03d}", one, position=float(i)) for i, one in enumerate(read)]


def study(patients, slices=2):
    return [
        record
        for number in range(patients)
        for domain in "ab"
        for record in stack(slices, domain, subject=f"p{number:02d}")
    ]


def heads(subjects=6, slices=2, size=64):
    return Phantom(("T1", "T2"), 2, (size, size), subjects=subjects, slices=slices).records()


def unknown(records):
    """The same images of which nobody knows whose they are."""
    return [Record(r.domain, "", r.key, r.read, position=float(i)) for i, r in enumerate(records)]


def test_the_same_patient_on_two_sides_is_listed():
    records = study(6)
    splits = {"train": records[:6], "validation": [], "test": records[6:] + records[:1]}
    with pytest.raises(UserError, match="patient 'p00'.*train.*test"):
        check_leakage(splits)


def test_the_same_pixels_on_two_sides_are_listed_whatever_their_names():
    splits, _ = split_records(stack(40), by="block")
    copied = Record("a", "", "copy.png", splits["train"][0].read, position=99.0)
    with pytest.raises(UserError, match=f"{splits['train'][0].key}' = 'copy.png"):
        check_leakage(splits | {"test": [*splits["test"], copied]})


def test_empty_images_are_no_leak():
    blank = [Record("a", "", f"{i}", partial(np.zeros, (1, 8, 8), np.float32), position=float(i)) for i in range(40)]
    check_leakage(split_records(blank, by="block")[0])


def test_ten_leaks_are_listed_and_the_others_counted():
    records = study(20)
    with pytest.raises(UserError, match="and 30 more") as error:
        check_leakage({"train": records, "validation": [], "test": records[::4]}, near=False)
    assert str(error.value).count("patient '") == 10


CHANGES = {
    "rescaled": lambda image: image * 3 + 40,
    "smaller": lambda image: zoom(image, (1, 0.9, 0.9), order=1),
    "shifted": lambda image: np.roll(image, 1, 2),
    "rounded": lambda image: np.round(image / image.max() * 200),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_near_copy_in_another_patient_is_named(change):
    records = heads()
    splits, _ = split_records(records)
    stolen = splits["train"][3]
    copy = Record(stolen.domain, "new", "new/scan.png", lambda: CHANGES[change](stolen.read()), position=0.0)
    leaky = splits | {"test": [*splits["test"], copy]}
    says = f"image '{stolen.key}' in train is a near copy of 'new/scan.png' in test"
    with pytest.raises(UserError, match=says) as error:
        check_leakage(leaky)
    assert str(error.value).count("near copy") == 1 and "--allow-leakage" in str(error.value)
    check_leakage(leaky, near=False)


@pytest.mark.parametrize("options", [{}, {"gap": 0}, {"by": "image"}, {"gap": 0, "blocks": 4, "seed": 3}])
def test_neighbouring_slices_of_a_stack_are_no_leak_even_where_patients_are_unknown(options):
    phantom = Phantom(("T1", "T2"), 2, (64, 64), subjects=1, slices=40)
    splits, _ = split_records(unknown(phantom.records()), **{"by": "block"} | options)
    check_leakage(splits)


def test_a_copy_among_the_slices_of_a_stack_is_found():
    records = [r for r in heads(1, 40) if r.domain == "a"]
    copy = Record("a", "", "again.png", lambda: np.roll(records[20].read(), 1, 1) * 2, position=3.5)
    seen = [see(record) for record in [*unknown(records), copy]]
    assert [(seen[i].name, seen[j].name) for i, j, _ in near_copies(seen, apart=False)] == [
        (records[20].key, "again.png")
    ]


def test_every_image_is_read_once():
    counts = {}

    def read(key, image):
        counts[key] = counts.get(key, 0) + 1
        return image

    records = [Record(r.domain, r.subject, r.key, partial(read, (r.domain, r.key), r.read())) for r in heads(5)]
    check_leakage(split_records(records)[0])
    assert set(counts.values()) == {1} and len(counts) == len(records)


def test_nothing_is_read_where_nothing_is_held_out():
    records = [Record("a", "", f"{i}", partial(pytest.fail, "it was read")) for i in range(4)]
    check_leakage({"train": records, "validation": [], "test": []})


def test_a_patient_in_both_domains_of_unpaired_training_is_an_error_unless_the_recipe_says_so():
    records = study(8)
    splits, _ = split_records(records)
    check_leakage(splits)
    trained = sorted({record.subject for record in splits["train"]})
    with pytest.raises(UserError, match=f"{len(trained)} patients give.*'{trained[0]}', '{trained[1]}'") as error:
        check_leakage(splits, same_patient=False)
    assert error.value.where == "data.same_patient" and "data.unpair" in error.value.remedy
    one_each = [r for r in splits["train"] if (r.domain == "a") == (int(r.subject[1:]) % 2 == 0)]
    check_leakage(splits | {"train": one_each}, same_patient=False)


def test_unknown_patients_are_in_no_two_domains():
    check_leakage(split_records(stack(40) + stack(40, "b"), by="block")[0], same_patient=False)


def test_both_leaks_are_told_at_once():
    records = study(6)
    with pytest.raises(UserError, match="patient 'p05' in train and test.*patient 'p01' in both domains of train"):
        check_leakage({"train": records, "validation": [], "test": records[-2:]}, same_patient=False)


@pytest.fixture
def pictures_with_copies(tmp_path):
    """Twelve heads as pictures of unknown people, of which every second one is there again, smaller and brighter."""
    for number, record in enumerate(r for r in heads(12, 1, 96) if r.domain == "a"):
        image = record.read()[0] / 4
        Picture.fromarray(np.uint8(image.clip(0, 255))).save(tmp_path / f"{number:02d}.png")
        if number % 2:
            small = zoom(image, 0.9, order=1).clip(0, 200) * 1.2
            Picture.fromarray(np.uint8(small)).save(tmp_path / f"{(number + 6) % 12:02d}-again.png")
    return tmp_path


@pytest.mark.parametrize("by", ["image", "block"])
@pytest.mark.parametrize("seed", range(3))
def test_near_copies_of_unknown_people_are_kept_on_one_side(pictures_with_copies, by, seed):
    records = Images(("MR",), 2, (96, 96), path=str(pictures_with_copies)).records()
    assert len(records) == 18
    splits, how = split_records(records, by=by, test=0.25, validation=0.1, gap=0, seed=seed)
    check_leakage(splits)
    assert len(splits["test"]) >= (4 if by == "image" else 2) and splits["train"]
    if by == "image":
        assert sum(map(len, splits.values())) == 18, "they change sides, and none is lost"


def test_near_copies_share_a_fold(pictures_with_copies):
    records = Images(("MR",), 2, (96, 96), path=str(pictures_with_copies)).records()
    tested = []
    for fold in range(3):
        splits, _ = split_records(records, by="image", folds=3, fold=fold, validation=0)
        check_leakage(splits)
        tested += [record.key for record in splits["test"]]
    assert sorted(tested) == sorted(record.key for record in records)


def test_real_stacks_split_by_blocks_or_at_random_are_no_leak(shared_data):
    from gantk.data.sources.folders import Folders

    records = Folders(("T1", "T2"), 2, (96, 96), path=str(shared_data / "t1t2_course")).records()
    for options in ({}, {"by": "image"}, {"gap": 0}):
        check_leakage(split_records(records, **options)[0], same_patient=False)


def test_real_patients_are_not_alike(shared_data):
    from gantk.data.sources.folders import Folders

    path = str(shared_data / "ct_mri")
    records = Folders(("CT", "MR"), 2, (96, 96), path=path, patient=r"(\d+)\d{3}\.png").records()[::2]
    seen = [see(record) for record in records]
    assert len({each.subject for each in seen}) == 6 and near_copies(seen, apart=False) == []


def test_copies_of_the_web_are_found(shared_data):
    records = Images(("MR",), 2, (96, 96), path=str(shared_data / "tumour_yes_no"), channels=1, only="no").records()
    seen = [see(record) for record in records]
    found = {(seen[i].name, seen[j].name) for i, j, _ in near_copies(seen, apart=False)}
    assert ("no/N16.jpg", "no/N17.jpg") in found and 15 <= len(found) <= 40


def test_drawn_heads_are_no_copies_of_each_other_however_alike_their_skulls_are():
    """Rings of bone: in CT the detail of two different subjects is alike enough to look like a copy."""
    recipe = load_recipe("cyclegan_ct_mr").override(["data.size=[96, 96]"], "cpu")
    data = Data.load(recipe.check().data, recipe.check().method.target)
    assert data.leaks() is None
