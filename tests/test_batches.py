"""Reading ahead: the same batches whatever the number of workers, errors at their own step, nothing left behind."""

import gc
import os
import subprocess
import sys
import threading
from functools import partial

import numpy as np
import pytest
import torch

from gantk.data.batches import AHEAD, Batches, ImageSet
from gantk.data.intensity import Window
from gantk.data.items import Record
from gantk.data.preparation import Preparation
from gantk.errors import UserError

SIZE = (9, 7)
LINE = {"low": 0.0, "high": 1.0, "range": (0.0, 1.0)}


def picture(number):
    return np.full((1, *SIZE), number, np.float32)


def spot(number):
    return (np.arange(np.prod(SIZE), dtype=np.float32) == number).reshape(1, *SIZE).astype(np.float32)


def records(count, read=picture, letter="a"):
    return [
        Record(
            letter, f"p{n}", f"{letter}{n:02d}", partial(read, n), mask=partial(spot, n), label="no" if n % 2 else "yes"
        )
        for n in range(count)
    ]


def sets(counts=(11, 7), memory=8.0, read=picture, **options):
    return {
        letter: ImageSet(records(count, read, letter), Window(**LINE), SIZE, "pad", memory, masks=True, **options)
        for letter, count in zip("ab", counts, strict=True)
    }


def readers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("gantk-reader")]


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("memory", [8.0, 1e-9])
def test_batches_do_not_depend_on_the_workers(workers, memory):
    options = dict(patch=(5, 4), classes=("no", "yes"))
    plain = Batches(sets(**options), 3, 5, paired=False, workers=1)
    batches = Batches(sets(memory=memory, **options), 3, 5, paired=False, workers=workers)
    for step in (*range(9), 4, 30, 31, 2):  # over several epochs, and back
        one, other = plain.at(step), batches.at(step)
        assert one.keys() == other.keys() == {"a", "b", "mask_a", "mask_b", "label"}
        assert all(torch.equal(one[name], other[name]) for name in one)
    batches.close()
    plain.close()


def test_ranks_with_workers_show_together_what_one_process_would():
    whole = Batches(sets(), 4, 1, False, workers=0)
    ranks = [Batches(sets(), 2, 1, False, rank, 2, workers=2) for rank in range(2)]
    for step in range(6):
        parts = [rank.at(step) for rank in ranks]
        for name, images in whole.at(step).items():
            assert torch.equal(images, torch.cat([part[name] for part in parts]))
    for rank in ranks:
        rank.close()


def broken_at(wrong, number):
    if number == wrong:
        raise UserError(f"image {number} is broken", where="here")
    return picture(number)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_is_raised_as_itself_at_the_step_that_needs_the_image(workers):
    images = ImageSet(records(8, partial(broken_at, 5)), Window(**LINE), SIZE, "pad", 1e-9)
    batches = Batches({"image": images}, 1, 3, False, workers=workers)
    order = [batches._indices("image", step)[0] for step in range(8)]
    for step in range(8):
        if order[step] == 5:
            with pytest.raises(UserError, match=r"image 5 is broken.*\(here\)"):
                batches.at(step)
        else:
            assert float(batches.at(step)["image"].max()) == order[step]
    batches.close()


def test_only_a_few_batches_are_read_ahead():
    read, workers, batch = [], 2, 3
    images = ImageSet(records(60, lambda n: read.append(n) or picture(n)), Window(**LINE), SIZE, "pad")
    batches = Batches({"image": images}, batch, 0, False, workers=workers)
    batches.at(0)
    list(batches._ahead.values())[-1].result()
    batches.close()
    expected = {n for step in range(1 + AHEAD * workers) for n in batches._indices("image", step * batch)}
    assert set(read) == expected and len(read) == (1 + AHEAD * workers) * batch
    assert not batches._ahead


def test_nothing_is_read_beyond_the_last_step():
    read = []
    images = ImageSet(records(60, lambda n: read.append(n) or picture(n)), Window(**LINE), SIZE, "pad")
    batches = Batches({"image": images}, 1, 0, False, workers=2, end=3)
    for step in range(3):
        batches.at(step)
    batches.close()
    assert len(read) == 3
    assert batches.at(7)["image"].shape == (1, 1, *SIZE), "what is asked for is read all the same"
    batches.close()
    assert len(read) == 4


def test_without_workers_the_caller_reads():
    seen = set()
    images = ImageSet(records(6, lambda n: seen.add(threading.get_ident()) or picture(n)), Window(**LINE), SIZE, "pad")
    Batches({"image": images}, 2, 0, False, workers=0).at(0)
    assert seen == {threading.get_ident()} and not readers()


def test_readers_end_with_their_batches():
    assert not readers()
    batches = Batches(sets(), 2, 0, False, workers=3)
    batches.at(0)
    assert 1 <= len(readers()) <= 3
    batches.close()
    assert not readers()
    again = batches.at(1)
    assert readers() and torch.equal(again["a"], Batches(sets(), 2, 0, False, workers=0).at(1)["a"])
    threads = readers()
    for future in batches._ahead.values():
        future.result()
    del batches, future
    gc.collect()
    for thread in threads:
        thread.join(timeout=60)
    assert not readers(), "nobody has to call close"


LEAVE = """
import numpy as np
from gantk.data.batches import Batches, ImageSet
from gantk.data.intensity import Window
from gantk.data.items import Record

records = [Record("a", "", str(n), lambda n=n: np.full((1, 8, 8), n, np.float32)) for n in range(9)]
batches = Batches({"a": ImageSet(records, Window(), (8, 8), "pad")}, 1, 0, False, workers=2)
batches.at(0)
raise SystemExit(3)
"""


def test_a_process_that_reads_ahead_ends():
    done = subprocess.run(
        [sys.executable, "-c", LEAVE], env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, timeout=600
    )
    assert done.returncode == 3 and not done.stderr


def test_images_are_prepared_once_where_memory_allows():
    read = []
    images = ImageSet(records(5, lambda n: read.append(n) or picture(n)), Window(**LINE), SIZE, "pad", masks=True)
    batches = Batches({"image": images}, 5, 0, False, workers=2)
    for step in range(4):
        batches.at(step)
    batches.close()
    batches.at(9)
    batches.close()
    assert len(images._kept) == 5
    before = len(read)
    batches.at(20)
    batches.close()
    assert len(read) == before


def test_another_mapping_makes_all_images_anew():
    images = ImageSet(records(3), Window(**LINE), SIZE, "pad", memory=3 * 9 * 7 * 4 / 2**30)
    assert [float(images[n].max()) for n in range(3)] == [0, 1, 2] and images._room == 0
    images.intensity = Window(low=0.0, high=2.0, range=(0.0, 1.0))
    assert [float(images[n].max()) for n in range(3)] == [0, 0.5, 1] and images._room == 0


def test_a_mask_is_that_of_its_image_and_zero_where_there_is_none():
    some = records(2)
    images = ImageSet([some[0], Record("a", "", "plain", partial(picture, 4))], Window(**LINE), SIZE, "pad", masks=True)
    image, mask = images.prepared(0)
    assert float(image.max()) == 0 and mask.sum() == 1 and mask.flatten()[0] == 1
    assert images.mask(1).shape == (1, *SIZE) and not images.mask(1).any()


def volume(seed):
    rng = np.random.default_rng(seed)
    return (rng.random((1, 4, *SIZE)) * (100, 900, 4000)[seed]).astype(np.float32)


def of_scans(stacked=True):
    """Four slices of each of three scans of different scanners."""
    found = []
    for seed in range(3):
        for plane in range(4):
            read = partial(lambda seed, plane: volume(seed)[:, plane], seed, plane)
            scan = {"scan": partial(volume, seed), "scan_key": f"s{seed}"} if stacked else {}
            found.append(Record("a", f"s{seed}", f"s{seed}/plane-{plane}", read, position=float(plane), **scan))
    return found


def test_slices_are_mapped_by_the_scan_that_they_belong_to():
    from gantk.data.intensity import MinMax

    mapping = MinMax(per="volume")
    mapping.fit([volume(seed) for seed in range(3)])
    some = of_scans()
    images = ImageSet(some, mapping, SIZE, "pad")
    for record, image in zip(some, (images[n] for n in range(12)), strict=True):
        expected = mapping.of(record.scan()).forward(record.read())
        np.testing.assert_array_equal(image.numpy(), expected)
    alone = ImageSet(of_scans(stacked=False), mapping, SIZE, "pad")
    assert all(float(alone[n].min()) == -1 and float(alone[n].max()) == pytest.approx(1) for n in range(12))


def test_a_scan_is_measured_once_for_all_its_slices():
    from gantk.data.intensity import MinMax

    measured = []

    class Counting(MinMax, name="counting"):
        def measure(self, pixels):
            measured.append(pixels.shape)
            return super().measure(pixels)

    mapping = Counting(per="volume")
    mapping.settle([[0.0, 1.0]])
    some = of_scans()
    preparation = Preparation(some, SIZE, "pad")
    for record in some * 2:
        preparation.image(record, mapping)
    assert measured == [(1, 4, *SIZE)] * 3
    del Counting.kinds["counting"]
