"""The image pool (Shrivastava et al. 2017): what it gives, what it keeps, and that it resumes exactly."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gantk.method import Batch, Geometry
from gantk.plugin.spec import bind
from gantk.testing.recorded import Recording, host_reads
from gantk.training.pool import ImagePool


def numbered(first: int, count: int) -> torch.Tensor:
    """Images (count, 1, 2, 2), each filled with its own number."""
    return torch.arange(first, first + count, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).clone()


def ids(images: torch.Tensor) -> list[int]:
    assert torch.equal(images, images[:, :, :1, :1].expand_as(images))  # no image is mixed from two
    return images[:, 0, 0, 0].int().tolist()


batches = st.lists(st.integers(1, 5), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(capacity=st.integers(1, 6), sizes=batches, seed=st.integers(0, 999))
def test_no_image_is_lost_doubled_or_invented(capacity, sizes, seed):
    torch.manual_seed(seed)
    pool = ImagePool(capacity, 1, (2, 2))
    shown, returned = 0, []
    for size in sizes:
        batch = numbered(shown, size)
        out = pool(batch)
        assert out.shape == batch.shape and torch.equal(batch, numbered(shown, size))
        shown += size
        returned += ids(out)
        stored = ids(pool.images[: int(pool.count)])
        assert len(set(stored)) == len(stored) == min(capacity, shown)
        assert max(returned) < shown
        # an image is either on its way out, or kept for later, or (while the pool fills) both
        assert set(returned) | set(stored) == set(range(shown))


@settings(max_examples=30, deadline=None)
@given(capacity=st.integers(1, 5), sizes=batches, more=batches, seed=st.integers(0, 999))
def test_a_restored_pool_goes_on_with_the_same_images(capacity, sizes, more, seed):
    pool, other = ImagePool(capacity, 1, (2, 2)), ImagePool(capacity, 1, (2, 2))
    torch.manual_seed(seed)
    for number, size in enumerate(sizes):
        pool(numbered(10 * number, size))
    other.load_state_dict({name: tensor.clone() for name, tensor in pool.state_dict().items()})
    results = []
    for each in (pool, other):
        torch.manual_seed(seed + 1)
        results.append([each(numbered(1000 + 10 * number, size)) for number, size in enumerate(more)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert torch.equal(pool.images, other.images) and pool.count == other.count


@settings(max_examples=30, deadline=None)
@given(capacity=st.integers(0, 5), sizes=batches, seed=st.integers(0, 999))
def test_a_batch_is_the_same_as_its_images_one_by_one(capacity, sizes, seed):
    whole, single = ImagePool(capacity, 1, (2, 2)), ImagePool(capacity, 1, (2, 2))
    shown = 0
    for size in sizes:
        batch = numbered(shown, size)
        torch.manual_seed(seed + shown)
        out = whole(batch)
        torch.manual_seed(seed + shown)
        assert torch.equal(out, torch.cat([single(image[None]) for image in batch]))
        shown += size


def one_by_one(images: list, drawn: list[int], stored: list, capacity: int) -> list:
    """What a pool gives for these images, worked out as the paper says it; `stored` is changed."""
    given = []
    for image, number in zip(images, drawn, strict=True):
        if len(stored) < capacity:
            stored.append(image)
        elif number < capacity:
            image, stored[number] = stored[number], image
        given.append(image)
    return given


@pytest.mark.parametrize("batch", [1, 3])
def test_a_graph_can_hold_it(batch):
    graph, eager = ImagePool(4, 1, (4, 4)), ImagePool(4, 1, (4, 4))
    images, recording = torch.zeros(batch, 1, 2, 2), Recording()
    torch.manual_seed(0)
    out = recording.record(lambda: graph(images))
    torch.manual_seed(0)
    assert host_reads(lambda: eager(images)) == []
    for step in range(1, 12):  # from an empty pool to a full one
        images.copy_(numbered(10 * step, batch))
        torch.manual_seed(step)
        recording.replay()
        torch.manual_seed(step)
        assert torch.equal(out, eager(images))
        assert torch.equal(graph.images, eager.images) and graph.count == eager.count == min(4, batch * (step + 1))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_memory_format_is_kept(channels_last, batch):
    kept = torch.channels_last if channels_last else torch.contiguous_format
    pool, images = ImagePool(2, 3, (4, 5)).to(memory_format=kept), []
    for step in range(6):
        images.append(torch.rand(batch, 3, 4, 5).contiguous(memory_format=kept))
        out = pool(images[-1])
        assert out.is_contiguous(memory_format=kept) and pool.images.is_contiguous(memory_format=kept)
        assert all(any(torch.equal(one, image) for image in torch.cat(images)) for one in out), step


def test_discriminators_are_shown_what_the_pool_gives_and_generators_are_not():
    """The pool is between the two phases: real images never pass it, nor do the fakes that teach the generators."""
    part = {"width": 4, "depth": 2, "name": "unet"}
    options = {
        "name": "dualgan",
        "generator": part,
        "discriminator": {"name": "patchgan", "receptive_field": 16},
        "pool": 2,
    }
    method = bind("method", options)(Geometry(2, (16, 16), {"a": 1, "b": 1}))
    mark = 0.125
    method.pool_b.forward = lambda images: torch.full_like(images, mark)
    shown = []
    method.d_b.register_forward_pre_hook(lambda module, args: shown.extend(args[0].detach()))
    batch = Batch(a=torch.rand(2, 1, 16, 16), b=torch.rand(2, 1, 16, 16))
    generators, discriminators = method.phases()
    generators.loss(batch)
    assert not any(bool((image == mark).all()) for image in shown)
    shown.clear()
    discriminators.loss(batch)
    assert sum(bool((image == mark).all()) for image in shown) == 2
    assert sum(torch.equal(image, real) for image in shown for real in batch["b"]) == 2


def test_half_of_the_images_are_exchanged_once_it_is_full():
    torch.manual_seed(0)
    pool = ImagePool(50, 1, (2, 2))
    pool(numbered(0, 50))
    given = ids(pool(numbered(50, 1000)))
    same = sum(image == 50 + place for place, image in enumerate(given))
    assert 440 < same < 560  # 500 +- 4 standard deviations
    assert len(set(given)) == len(given)
