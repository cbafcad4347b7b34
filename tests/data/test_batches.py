"""Batches are the same whatever workers, ranks and way to the device; their images learn from the
training split.
"""

from functools import partial

import numpy as np
import pytest
import torch
from volumes import FROM_NOISE, load, volume

from gantk import Batches, Record
from gantk.data.batches import ImageSet
from gantk.data.intensity import Window
from gantk.data.preparation import Preparation, neighbouring_slices
from gantk.data.split import SplitTable, split_records

SIZE = (9, 7)


def picture(number):
    """Every pixel another value, and every image apart from the others."""
    return (np.arange(np.prod(SIZE), dtype=np.float32) + 1e3 * number).reshape(1, *SIZE)


def image_set(count, memory=8.0, letter="image", options=(), **pictures):
    members = [
        Record(
            letter,
            f"p{n}",
            f"{letter}{n:02d}",
            partial(picture, n, **pictures),
            mask=lambda n=n: picture(n) % 2,
            label="ny"[n % 2],
        )
        for n in range(count)
    ]
    line = Window(low=0.0, high=1.0, range=(0.0, 1.0))
    return ImageSet(members, line, Preparation(members, SIZE, "pad"), memory, **dict(options))


def sets(memory=8.0, counts=(11, 7), **options):
    options |= {"masks": True}
    return {
        letter: image_set(count, memory, letter, options)
        for letter, count in zip("ab", counts, strict=True)
    }


def same(one, other):
    """Whether two batches have the same tensors under the same names."""
    if one.keys() != other.keys():
        return False
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("memory", [8.0, 1e-9])
@pytest.mark.parametrize("count", [1, 3], ids=["alone", "ranks"])
def test_batches_do_not_depend_on_workers_memory_or_ranks(workers, memory, count):
    options = dict(patch=(5, 4), classes=("n", "y"))
    plain = Batches(sets(**options), 3, 5, paired=False, workers=1)
    ranks = [
        Batches(sets(memory, **options), 3 // count, 5, False, rank, count, workers=workers)
        for rank in range(count)
    ]
    for step in (*range(9), 4, 30, 31, 2):  # over several epochs, and back
        whole = plain.at(step)
        parts = [rank.at(step) for rank in ranks]
        assert all(set(each) == {"a", "b", "mask_a", "mask_b", "label"} for each in (whole, *parts))
        assert same(whole, {name: torch.cat([part[name] for part in parts]) for name in whole})

    for each in (plain, *ranks):
        each.close()


def test_an_epoch_shows_the_larger_domain_once():
    unequal = {"a": image_set(4), "b": image_set(11)}
    assert Batches(unequal, 2, 0, False, workers=0).steps_per_epoch == 6


def test_each_epoch_shows_every_image_once_in_another_order():
    batches = Batches({"image": image_set(12)}, 4, 0, False, workers=0)
    assert batches.steps_per_epoch == 3

    def epoch(number):
        steps = range(3 * number, 3 * number + 3)
        return torch.cat([batches.at(step)["image"][:, 0, 0, 0] for step in steps]).tolist()

    everyone = [1e3 * n for n in range(12)]

    assert sorted(epoch(0)) == everyone
    assert sorted(epoch(1)) == everyone
    assert epoch(0) != epoch(1)


PATCHES = {"patch": (5, 4), "counts": (7, 7)}


def test_patches_of_pairs_and_masks_are_of_one_place():
    batch = Batches(sets(**PATCHES), 4, 0, paired=True, workers=0).at(0)
    assert batch["a"].shape == (4, 1, 5, 4)
    assert batch["mask_a"].shape == (4, 1, 5, 4)

    offsets = torch.from_numpy(picture(0))[0, :5, :4]
    for image in batch["a"]:
        first = image[0, 0, 0]
        assert torch.equal(image[0], first + offsets), "contiguous"

    assert torch.equal(batch["a"], batch["b"])
    assert torch.equal(batch["mask_a"], batch["a"] % 2)


# ---- a recipe's data: neighbouring slices, each scan's own intensities, leaks


SPLIT = {"test": 0.25, "validation": 0.25, "by": "patient"}


def save(path, number, gain=1.0, turn=0):
    """A volume of noise around a block, that of another number elsewhere."""
    rng = np.random.default_rng([number, turn])
    values = np.abs(rng.normal(0, 4, (14, 16, 12)))
    block = 1 + rng.random((7, 8, 8))
    values[4:11, 4:12, 2:10] += 100 * gain * block
    volume(path, values=values.astype(np.float32), affine=np.eye(4))


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Eight patients' volumes of one contrast, each from a scanner with a gain of its own."""
    monkeypatch.setenv("GANTK_CACHE", str(tmp_path / "cache"))
    for number in range(8):
        save(tmp_path / "study" / f"p{number}.nii", number, 1 + number)
    return tmp_path / "study"


def images(path, **options):
    table = {"domains": ("MR",), "split": SPLIT} | options
    return load({"name": "images", "path": str(path)}, FROM_NOISE, **table)


KINDS = ["percentile", "zscore", {"name": "minmax", "per": "volume"}, "nyul"]
KINDS += [{"name": "percentile", "per": "volume"}]


def held_and_trained(data):
    """Paths of the held-out images, and those of the images trained on."""
    held_out = data.splits["validation"] + data.splits["test"]
    held = {record.path for record in held_out}
    trained = {record.path for record in data.training}
    return held, trained


@pytest.mark.parametrize("intensity", KINDS, ids=str)
def test_intensities_are_learnt_from_the_training_split_alone(study, intensity):
    data = images(study, intensity=intensity)
    learnt = data.intensity_state()
    held, trained = held_and_trained(data)

    assert len(held) == 4
    assert len(trained) == 4
    assert not held & trained

    for path in held:
        save(path, int(path.name[1]), gain=1e4, turn=1)

    held_out_changed = images(study, intensity=intensity)

    assert held_and_trained(held_out_changed)[1] == trained
    assert held_out_changed.intensity_state() == learnt

    save(min(trained), 0, gain=1e4, turn=1)
    training_changed = images(study, intensity=intensity)

    assert training_changed.intensity_state() != learnt


@pytest.mark.parametrize("neighbours", [0, 1])
def test_per_volume_slices_of_a_scan_share_one_mapping(study, neighbours):
    data = images(study, intensity={"name": "percentile", "per": "volume"}, neighbours=neighbours)
    training = data.training_sets()["image"]
    mapping = data.intensity["image"]
    for number, record in enumerate(training.records):
        image = training[number]
        scan = record.scan()
        expected = mapping.of(scan).forward(scan[:, int(record.position)])
        middle = data.centre(image[None])[0].numpy()[:, :, 1:15]  # 16 x 14 pixels stand in 16 x 16
        np.testing.assert_allclose(middle, expected, atol=1e-6)
        assert np.array_equal(data.image(record), image)

    brightest = [float(data.image(record).max()) for record in data.splits["test"]]

    assert len(brightest) > 4
    assert 0.5 < min(brightest) < max(brightest) < 2, "whatever the scanner's gain"


# ---- neighbouring slices


def slices(subject, count, channels=1):
    """Slice i holds i everywhere, and a tenth more in each further channel."""
    offsets = 0.1 * np.arange(channels, dtype=np.float32)[:, None, None] + np.zeros(
        (8, 8), np.float32
    )
    return [
        Record("a", subject, f"{subject}/{i:03d}", partial(np.add, offsets, i), position=float(i))
        for i in range(count)
    ]


def middles(records, members, neighbours):
    """The values in the middle of each channel of each member's image."""
    preparation = Preparation(records, (8, 8), "pad")
    preparation.stacks = neighbouring_slices(records, [members], neighbours)
    return [
        [round(float(value), 1) for value in preparation.to_size(record)[:, 4, 4]]
        for record in members
    ]


def test_neighbouring_slices_are_stacked_slice_by_slice():
    records = slices("p", 5)
    assert middles(records, records, 1) == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 4]]
    assert middles(records, records, 2)[1] == [0, 0, 1, 2, 3]
    contrasts = slices("p", 3, channels=2)
    assert middles(contrasts, contrasts, 1)[1] == [0, 0.1, 1, 1.1, 2, 2.1]


def test_no_slice_looks_across_a_split_a_subject_or_a_gap():
    records = slices("p", 40) + slices("q", 40)
    splits, _ = split_records(records, SplitTable(by="block"))
    seen = set()
    for name, members in splits.items():
        own = {(record.subject, record.position) for record in members}
        for record, values in zip(members, middles(records, members, 1), strict=True):
            below, here, above = values
            assert (record.subject, below) in own
            assert (record.subject, above) in own
            assert here == record.position
            assert here - below in (0, 1)
            assert above - here in (0, 1)
            seen.add((name, here - below, above - here))

    assert {("test", 1, 1), ("train", 1, 1), ("train", 1, 0), ("train", 0, 1)} <= seen


def test_a_label_is_that_of_its_image():
    batches = Batches(sets(classes=("n", "y"), masks=False), 3, 5, paired=False, workers=0)
    for step in range(6):
        batch = batches.at(step)
        numbers = (batch["a"][:, 0, 0, 0] / 1e3).round().long()

        assert batch["label"].tolist() == (numbers % 2).tolist()
