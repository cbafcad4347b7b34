"""Folders of pictures become records of the right domain, split, patient, class, mask and pair;
mistakes are named.
"""

from collections import Counter
from contextlib import nullcontext
from itertools import product

import numpy as np
import PIL.Image
import pytest
import torch
from tiny import registered
from volumes import FROM_NOISE, PAIRED, UNPAIRED, load, pairs_of, records_of, volume

from gantk import Batches
from gantk.data.batches import order as order_of
from gantk.data.description import describe
from gantk.data.split import SETS
from gantk.errors import UserError

Aligned = registered("source", "aligned")
Files = registered("source", "files")
Manifest = registered("source", "manifest")

SPLIT = {"test": 0.2, "validation": 0.2, "by": "image"}


def tree(root, *names, shape=(16, 16), lesion=None):
    """Pictures of noise, or masks that begin in the row `lesion`."""
    for number, name in enumerate(names):
        image = np.random.default_rng(number).integers(1, 255, shape, dtype=np.uint8)
        if lesion is not None:
            image[:] = 0
            image[lesion : lesion + 4, 2:6] = 3
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(image).save(root / name)

    return root


def folders(path, domains=("T1", "T2"), **options):
    return records_of(Files, path, domains, **options)


# --- which image is of which domain, split and patient


@pytest.mark.parametrize(
    "options, says",
    [
        ({"patient": "("}, "not a valid regular"),
        ({"patient": "abc"}, "0 groups"),
        ({"patient": "(q)"}, "finds no patient in 'T1/"),
        ({"a": "T1", "b": "z/*.png"}, "no images match .*z/\\*.png'.*data.source.b"),
        ({"a": "T1", "b": "T*/1.png"}, "T1/1.png' belongs to both domains, T1 and T2"),
        ({"path": ""}, "path = "),
        ({"path": "nowhere"}, "not exist"),
        ({"domains": ("PET", "SWI")}, "fit no layout"),
        ({"mask": "seg"}, "no file in .* matches the mask name 'seg'.*1.png.*data.source.mask"),
    ],
    ids=str,
)
def test_a_wrong_option_is_explained(tmp_path, options, says):
    tree(tmp_path, *(f"{folder}/{n}.png" for folder in ("T1", "T2", "other") for n in "12"))
    options = dict(options)
    with pytest.raises(UserError, match=says):
        folders(options.pop("path", tmp_path), **options)


# --- pairs


def test_pairs_can_be_left_out_and_a_few_equal_names_are_none(tmp_path):
    tree(tmp_path, *(f"{kind}/{n}.png" for kind in ("T1", "T2") for n in range(10)))
    assert not pairs_of(folders(tmp_path, pairs="none"))
    for n in range(4):
        (tmp_path / f"T2/{n}.png").rename(tmp_path / f"T2/{n + 100}.png")

    assert not pairs_of(folders(tmp_path))


@pytest.mark.parametrize(
    ("one", "other", "registered"),
    [
        ((16, 16), (32, 32), True),
        ((200, 160), (201, 160), True),
        ((72, 64), (64, 72), False),
        ((72, 64), (72, 68), False),
    ],
)
def test_pictures_of_a_pair_have_one_aspect_ratio(tmp_path, one, other, registered):
    names = [f"{n}.png" for n in range(3)]
    tree(tmp_path, *(f"T1/{name}" for name in names), shape=one)
    tree(tmp_path, *(f"T2/{name}" for name in names), shape=other)

    source = Files(("T1", "T2"), 2, (16, 16), path=str(tmp_path))
    assert len(pairs_of(source.records())) == 3 * registered
    sizes = " against ".join(f"{rows} x {columns}" for rows, columns in (one, other))
    assert (
        registered
        or f"'T1/0.png' and 'T2/0.png' have one name, but their grids differ: {sizes}"
        in source.notes[0]
    )

    lines = [f"{kind}/{name},{kind}\n" for kind in ("T1", "T2") for name in names]
    (tmp_path / "scans.csv").write_text("path,domain\n" + "".join(lines))
    listed = Manifest(("T1", "T2"), 2, (16, 16), path=str(tmp_path / "scans.csv"), onto="a")
    assert len(pairs_of(listed.records())) == 3 * registered, "pictures have no place in space"


def test_paired_methods_get_complete_pairs_only(tmp_path, pictures):
    pictures(tmp_path / "T1", 12, seed=1)
    pictures(tmp_path / "T2", 12, seed=2)
    table = {"source": {"name": "folders", "path": str(tmp_path)}, "split": SPLIT}
    (tmp_path / "T2" / "slice-07.png").unlink()
    data = load(method=PAIRED, **table)

    sets = {
        name: [record.pair for record in own.records] for name, own in data.training_sets().items()
    }
    assert sets["a"] == sets["b"]
    assert sum(len(data.pairs(name)) for name in SETS) == 11, "one image alone is left out"
    assert not any("slice-07" in record.key for record in data.training)

    trained = [record.path for record in data.training if record.domain == "b"]
    for path in trained[:3]:
        path.unlink()
    for method in (PAIRED, UNPAIRED):
        data = load(method=method, **table)
        assert sum(len(data.pairs(name)) for name in SETS) == 8, "who lacks a contrast is left out"

    for path in (tmp_path / "T2").glob("slice-0[0-8].png"):
        path.unlink()
    with pytest.raises(UserError, match="of T1 and T2 have no partner. The first is 'T1/slice-00"):
        load(method=PAIRED, **table)


@pytest.fixture
def side_by_side(tmp_path):
    """Four pictures of a left half of about 50 and a right half of about 200."""
    for n, split in enumerate(("train", "train", "test", "test")):
        (tmp_path / split).mkdir(exist_ok=True)
        halves = [np.full((16, 16), value + n, np.uint8) for value in (50, 200)]
        PIL.Image.fromarray(np.hstack(halves)).save(tmp_path / split / f"{n}.png")
    return tmp_path


@pytest.mark.parametrize(
    ("options", "left", "patients"),
    [
        ({}, "a", [""]),
        ({"order": "BA", "patient": r"(\d)\."}, "b", ["0", "1", "2", "3"]),
        ({"patient": "^(t)"}, "a", ["t"]),
    ],
    ids=str,
)
def test_side_by_side_pictures_are_registered_halves(side_by_side, options, left, patients):
    records = records_of(Aligned, side_by_side, **options)
    assert len(pairs_of(records)) == 4
    assert {record.split for record in records} == {"train", "test"}
    assert sorted({record.subject for record in records}) == patients
    for record in records:
        assert record.read().shape == (1, 16, 16)
        assert (record.read().max() < 100) == (record.domain == left)


# --- classes


def test_labels_reach_the_batch_as_indices_of_sorted_classes(tmp_path, pictures):
    pictures(tmp_path / "yes", 12, seed=1)
    pictures(tmp_path / "no", 8, seed=2)
    table = dict(
        source={"name": "images", "path": str(tmp_path)},
        method=FROM_NOISE,
        domains=("MR",),
        split=SPLIT,
    )
    data = load(**table, labels=True)

    assert data.classes == ("no", "yes")
    assert any("classes" in line and "yes" in line for line in describe(data))

    batches = Batches(data.training_sets(), 4, 0, paired=False)
    batch = batches.at(0)
    records = batches.sets["image"].records

    assert batch["label"].dtype == torch.int64
    shown = order_of(0, 0, 0, len(records))[:4]
    assert [data.classes[i] for i in batch["label"]] == [records[i].label for i in shown]

    pictures(tmp_path, 2, seed=9)
    with pytest.raises(UserError, match="cannot be assigned"):
        load(**table, labels=True)


# --- lesion masks


@pytest.mark.parametrize(
    "name, masks",
    [
        ("seg", "p{n}/scan_seg.png"),
        ("seg", "p{n}/other-SEG-by-hand.png"),
        ("mask", "masks/p{n}/scan.png"),
        ("mask*", "p{n}/mask_scan.png"),
        ("*_roi.png", "p{n}/scan_roi.png"),
    ],
)
def test_a_mask_belongs_to_the_images_of_its_patient(tmp_path, name, masks):
    for n in range(5):
        tree(tmp_path, f"p{n}/scan_T1.png", f"p{n}/scan_T2.png")
        if n != 3:
            tree(tmp_path, masks.format(n=n), lesion=n)

    records = folders(tmp_path, mask=name)

    assert Counter(r.subject for r in records) == {f"p{n}": 2 for n in range(5)}

    for record in records:
        if record.subject == "p3":
            assert not record.mask
        else:
            first_row = np.argmax(record.mask()[0].any(1))
            assert f"p{first_row}" == record.subject


def test_masks_of_an_unknown_word_are_asked_for(tmp_path):
    """The first answer is the word of all images of no contrast; without one, how to say it."""
    for n in range(3):
        tree(tmp_path, f"p{n}/p{n}_T1.png", f"p{n}/p{n}_T2.png", f"p{n}/p{n}_gtv.png")
    with pytest.raises(UserError) as question:
        folders(tmp_path)
    command, gives = question.value.on_command_line().splitlines()[1:3]
    assert command.strip() == "--set data.source.mask=gtv"
    assert "T1 3, T2 3; 3 patients; 3 pairs; 3 masks" in gives
    assert question.value.answer("1") == ["--set", "data.source.mask=gtv"]
    assert all(record.mask for record in folders(tmp_path, mask="gtv"))

    with pytest.raises(UserError, match=r"Files found: 'p0_gtv.png', 'p1_gtv.png'"):
        folders(tmp_path, mask="lesion")

    tree(tmp_path, "p2/p2_scan.png")
    with pytest.raises(UserError) as question:
        folders(tmp_path)
    text = question.value.on_command_line()
    assert "mask=gtv" not in text
    assert "Masks of lesions are named by --set data.source.mask=WORD" in text


def test_a_mask_of_no_image_is_a_note(tmp_path):
    for n in range(3):
        tree(tmp_path, f"p{n}/T1.png", f"p{n}/T2.png")
    tree(tmp_path, "p0/seg.png", "p9/seg.png", lesion=3)
    source = Files(("T1", "T2"), 2, (16, 16), path=str(tmp_path), mask="seg")
    source.records()
    assert source.notes == ["1 mask left out, without an image: 'p9/seg.png'"]


def test_a_mask_on_another_grid_is_named(tmp_path):
    tree(tmp_path, "p0/T1.png", "p0/T2.png", "p1/T1.png", "p1/T2.png")
    tree(tmp_path, "p1/seg.png", shape=(16, 20), lesion=1)

    with pytest.raises(
        UserError,
        match=r"p1/seg.png' and its image .*p1/T1.png' are on different .*: 16 x 20 against 16 x 16",
    ):
        folders(tmp_path, mask="seg")

    tree(tmp_path, "p0/seg.png", "p0/seg_T1_T2.png", lesion=0)
    with pytest.raises(UserError, match="p0/T1.png' has two masks"):
        folders(tmp_path, mask="seg")


# --- one channel, whatever the files

ALL = {"test": 0.0, "validation": 0.0}  # of so few pictures none is held out


def test_data_channels_1_turns_colour_into_luminance(tmp_path):
    tree(tmp_path, *(f"{domain}/{number}.png" for domain in ("T1", "T2") for number in range(4)))
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[:, :8] = (200, 100, 50)
    for path in [*tmp_path.rglob("*.png")][1:]:  # beside a gray one
        PIL.Image.fromarray(picture).save(path)
    data = load({"name": "folders", "path": str(tmp_path)}, channels=1, split=ALL)
    luminance = 0.299 * 200 + 0.587 * 100 + 0.114 * 50  # ITU-R BT.601
    colours = [record.read() for record in data.training if (record.read()[0, :, 8:] == 0).all()]

    assert len(colours) == 7
    for gray in colours:
        np.testing.assert_allclose(gray[0, :, :8], luminance, rtol=1e-5)
    assert data.channels == {"a": 1, "b": 1}
    assert {record.read().shape for record in data.training} == {(1, 16, 16)}


@pytest.mark.parametrize("values", [None, np.uint8, np.uint16, np.float32])
def test_only_pictures_of_8_bits_become_colour(values, tmp_path):
    """What gray files hold, None: volumes; a result in colour fits into pictures of 8 bits alone."""
    suffix = {None: "nii.gz", np.float32: "tif"}.get(values, "png")
    for domain, number in product(("T1", "T2"), range(6)):
        pixels = np.random.default_rng(number).integers(0, 255, (16, 16))
        path = tmp_path / domain / f"{number}.{suffix}"
        path.parent.mkdir(exist_ok=True)
        if values is None:
            volume(path, values=pixels[..., None].astype(np.float32))
        else:
            PIL.Image.fromarray(pixels.astype(values)).save(path)

    source = {"name": "files", "path": str(tmp_path)}
    refused = pytest.raises(UserError, match="cannot be made a colour picture")
    with nullcontext() if values is np.uint8 else refused:
        data = load(source, channels=3, split=SPLIT)
        assert data.channels == {"a": 3, "b": 3}
