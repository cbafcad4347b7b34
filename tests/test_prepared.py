"""A recipe's data: learnt from the training split alone; neighbouring slices, each scan's own intensities, leaks."""

from functools import partial

import numpy as np
import pytest
import torch
from volumes import FROM_NOISE, PAIRED, UNPAIRED, load, volume

from gantk.data.batches import Batches
from gantk.data.preparation import Preparation, Record, stacked
from gantk.data.split import split_records
from gantk.errors import UserError

SPLIT = {"test": 0.25, "validation": 0.25, "by": "patient"}


def save(path, number, gain=1.0, turn=0):
    """A volume of noise around a block, that of another number elsewhere."""
    rng = np.random.default_rng([number, turn])
    values = np.abs(rng.normal(0, 4, (14, 16, 12)))
    values[4:11, 4:12, 2:10] += 100 * gain * (1 + rng.random((7, 8, 8)))
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


KINDS = ["percentile", {"name": "zscore", "foreground": True}, {"name": "minmax", "per": "image"}, "nyul"]
KINDS += [{"name": "percentile", "per": "volume", "foreground": "otsu"}]


@pytest.mark.parametrize("intensity", KINDS, ids=str)
def test_intensities_are_learnt_from_the_training_split_alone(study, intensity):
    data = images(study, intensity=intensity)
    learnt = data.intensity_state()
    held = {record.path for name in ("validation", "test") for record in data.splits[name]}
    trained = {record.path for record in data.training}
    assert len(held) == 4 and len(trained) == 4 and not held & trained
    for path in held:
        save(path, int(path.name[1]), gain=1e4, turn=1)
    poisoned = images(study, intensity=intensity)
    assert {r.path for r in poisoned.training} == trained and poisoned.intensity_state() == learnt
    save(min(trained), 0, gain=1e4, turn=1)
    assert images(study, intensity=intensity).intensity_state() != learnt


@pytest.mark.parametrize("neighbours", [0, 1])
def test_per_volume_all_slices_of_a_scan_share_its_line_in_training_and_when_held_out(study, neighbours):
    data = images(study, intensity={"name": "percentile", "per": "volume"}, neighbours=neighbours)
    sets, mapping = data.training_sets()["image"], data.intensity["image"]
    ends = [mapping.measure(scan) for scan in {record.scan_key: record.scan() for record in data.training}.values()]
    np.testing.assert_allclose(mapping.fitted, np.mean(ends, axis=0), rtol=1e-6)
    for record, image in zip(sets.records, (sets[n] for n in range(len(sets))), strict=True):
        own = mapping.of(record.scan())
        middle = data.centre(image[None])[0].numpy()[:, :, 1:15]  # 16 x 14 pixels stand in 16 x 16
        np.testing.assert_allclose(middle, own.forward(record.scan()[:, int(record.position)]), atol=1e-6)
        assert np.array_equal(data.image(record), image)
    tops = [float(data.image(record).max()) for record in data.splits["test"]]
    assert len(tops) > 4 and 0.5 < min(tops) < max(tops) < 2, "whatever the scanner's gain"


def test_what_a_source_cannot_give_is_explained(study):
    with pytest.raises(UserError, match=r"'T1\+T2' is 2 contrasts, and its images have 1 channel\..*data\.domains"):
        images(study, domains=("T1+T2",))
    with pytest.raises(UserError, match=r"'phantom' cannot show its images in another plane or spacing.*\(data\.plane"):
        load({"name": "phantom", "subjects": 4, "slices": 2}, plane="coronal")


# ---- neighbouring slices


def slices(subject, count, channels=1):
    """Slice i holds i everywhere, and a tenth more in each further channel."""
    offsets = 0.1 * np.arange(channels, dtype=np.float32)[:, None, None] + np.zeros((8, 8), np.float32)
    return [
        Record("a", subject, f"{subject}/{i:03d}", partial(np.add, offsets, i), position=float(i)) for i in range(count)
    ]


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
    unordered = [Record("a", "p", f"p/{i}", lambda: None) for i in range(3)]
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


@pytest.mark.parametrize("method", [PAIRED, UNPAIRED], ids=["paired", "unpaired"])
def test_data_with_neighbours_keep_pairs_masks_and_the_middle(method):
    source = {"name": "phantom", "subjects": 6, "slices": 4, "lesions": 2}
    data, plain = (load(source, method, neighbours=k, size=(24, 24), mask=True, split=SPLIT) for k in (1, 0))
    assert data.channels == {"a": 3, "b": 3} and plain.channels == {"a": 1, "b": 1}
    batch, single = (Batches(one.training_sets(), 6, 0, one.paired, workers=0).at(0) for one in (data, plain))
    assert batch["a"].shape == (6, 3, 24, 24) and batch["mask_a"].shape == (6, 1, 24, 24)
    for name in "ab":
        assert torch.equal(data.centre(batch[name]), single[name])
        assert torch.equal(batch[f"mask_{name}"], single[f"mask_{name}"])
    for pair in data.pairs("test"):
        assert pair["a"].position == pair["b"].position and data.image(pair["a"]).shape == (3, 24, 24)
    assert data.leaks() is None and data.intensity_state() == plain.intensity_state()
    assert data.split_json() == plain.split_json()
