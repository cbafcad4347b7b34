"""What a training step sees of an image: windows that depend on the step alone, slices with their own neighbours."""

import json
from functools import partial

import numpy as np
import pytest
import torch

from gantk.data.batches import Batches, ImageSet
from gantk.data.dataset import Data
from gantk.data.intensity import Window
from gantk.data.items import Record
from gantk.data.preparation import Preparation, stacked
from gantk.data.split import split_records
from gantk.errors import UserError
from gantk.method import Method
from gantk.recipe.tables import DataTable


def ramp(number, shape):
    """Every voxel another value, and every image apart from the others."""
    return (np.arange(np.prod(shape), dtype=np.float32) + 1e4 * number).reshape(1, *shape)


def sets(size, patch, count=5):
    window, found = Window(low=0.0, high=1.0, range=(0.0, 1.0)), {}
    for letter in "ab":
        masks = [partial(lambda n: (ramp(n, size) % 2).astype(np.float32), n) for n in range(count)]
        records = [Record(letter, "", f"{n}", partial(ramp, n, size), mask=mask) for n, mask in enumerate(masks)]
        found[letter] = ImageSet(records, window, size, "pad", patch=patch, masks=True)
    return found


@pytest.mark.parametrize("size, patch", [((12, 16), (5, 7)), ((6, 8, 10), (3, 4, 5))], ids=["2-D", "3-D"])
def test_a_step_shows_windows_that_pairs_and_masks_share_and_unpaired_images_do_not(size, patch):
    images = sets(size, patch)
    batch = Batches(images, 4, 0, paired=True).at(0)
    assert batch["a"].shape == batch["mask_a"].shape == (4, 1, *patch) and images["a"][0].shape == (1, *size)
    offsets = torch.from_numpy(ramp(0, size))[(0, *(slice(side) for side in patch))]
    for image in batch["a"]:
        assert torch.equal(image[0], image.flatten()[0] + offsets), "a window is a contiguous part of one image"
    assert torch.equal(batch["a"], batch["b"]) and torch.equal(batch["mask_a"], batch["a"] % 2)
    apart = Batches(sets(size, patch), 4, 0, paired=False).at(2)
    assert not torch.equal(apart["a"] % 1e4, apart["b"] % 1e4) and torch.equal(apart["mask_b"], apart["b"] % 2)


def test_windows_are_a_function_of_the_step():
    size, patch = (12, 16), (5, 7)
    forwards = Batches(sets(size, patch), 3, 7, paired=False)
    seen = [forwards.at(step) for step in range(6)]
    for step in (5, 0, 3):
        again = Batches(sets(size, patch), 3, 7, paired=False).at(step)
        assert all(torch.equal(again[name], seen[step][name]) for name in again)
    assert len({float(image.flatten()[0]) % 1e4 for batch in seen for image in batch["a"]}) > 9, "windows move"
    assert not torch.equal(Batches(sets(size, patch), 3, 8, False).at(0)["a"] % 1e4, seen[0]["a"] % 1e4)


def slices(subject, count, channels=1):
    """Slice i holds i everywhere, and a tenth more in each further channel."""

    def read(i):
        return np.full((channels, 8, 8), i, np.float32) + 0.1 * np.arange(channels, dtype=np.float32)[:, None, None]

    return [Record("a", subject, f"{subject}/{i:03d}", partial(read, i), position=float(i)) for i in range(count)]


def middles(records, members, neighbours):
    """The values in the middle of each channel of each member's image."""
    preparation = Preparation(records, (8, 8), "pad")
    preparation.stacks = stacked(records, [members], neighbours)
    return [[round(float(value), 1) for value in preparation.to_size(record)[:, 4, 4]] for record in members]


def test_a_slice_comes_with_its_neighbours_slice_major_with_contrasts_inside():
    records, contrasts = slices("p", 5), slices("p", 3, channels=2)
    assert middles(records, records, 1) == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 4]]
    assert middles(records, records, 2)[1] == [0, 0, 1, 2, 3]
    assert middles(contrasts, contrasts, 1)[1] == [0, 0.1, 1, 1.1, 2, 2.1]
    unordered = [Record("a", "p", f"p/{i}", partial(ramp, i, (8, 8))) for i in range(3)]
    with pytest.raises(UserError, match=r"3 of 3 images have no place in a stack.*p/0.*data\.neighbours"):
        stacked(unordered, [unordered], 1)


def test_no_slice_looks_across_a_split_a_subject_or_a_gap():
    records, seen = slices("p", 40) + slices("q", 40), set()
    splits, _ = split_records(records, test=0.2, validation=0.1, by="block", gap=2)
    for name, members in splits.items():
        own = {(record.subject, record.position) for record in members}
        for record, (below, here, above) in zip(members, middles(records, members, 1), strict=True):
            assert {(record.subject, below), (record.subject, above)} <= own
            assert here == record.position and here - below in (0, 1) and above - here in (0, 1)
            seen.add((name, here - below, above - here))
    assert {("test", 1, 1), ("train", 1, 1), ("train", 1, 0), ("train", 0, 1)} <= seen


@pytest.mark.parametrize("paired", [True, False])
def test_data_with_neighbours_keep_pairs_masks_and_the_middle(paired):
    def load(neighbours):
        source = {"name": "phantom", "subjects": 6, "slices": 4, "lesions": 2}
        tables = {"source": source, "domains": ("T1", "T2"), "size": (24, 24), "mask": True, "neighbours": neighbours}
        table = DataTable.model_validate_json(json.dumps(tables | {"split": {"test": 0.2, "validation": 0.2}}))
        return Data.load(table, type("Some", (Method,), {"paired": paired}))

    data, plain = load(1), load(0)
    assert data.channels == {"a": 3, "b": 3} and plain.channels == {"a": 1, "b": 1}
    batch, single = (Batches(one.training_sets(), 6, 0, paired).at(0) for one in (data, plain))
    assert batch["a"].shape == (6, 3, 24, 24) and batch["mask_a"].shape == (6, 1, 24, 24)
    for name in "ab":
        assert torch.equal(data.centre(batch[name]), single[name])
        assert torch.equal(batch[f"mask_{name}"], single[f"mask_{name}"])
    for pair in data.pairs("test"):
        assert pair["a"].position == pair["b"].position and data.image(pair["a"]).shape == (3, 24, 24)
    assert data.leaks() is None and data.intensity_state() == plain.intensity_state()
    assert data.split_json() == plain.split_json()
