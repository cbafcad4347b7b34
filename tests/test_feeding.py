"""Feeding: every batch reaches the step whole, in the right memory format, copied once, and at its own step."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from test_batches import broken_at, partial, readers, records, sets

from gantk.data import batches as feeding
from gantk.data.batches import Batches, CudaLane, Feed, ImageSet
from gantk.data.intensity import Window
from gantk.errors import UserError
from gantk.machine.runtime import Runtime, start
from gantk.method import Batch
from gantk.recipe.load import load_recipe
from gantk.training.assemble import assemble
from gantk.training.loop import Training

CPU = Runtime(torch.device("cpu"), "fp32", channels_last=True)


class SlowLane:
    """Copies that are not there before they are received: a step that does not wait computes with NaN."""

    def __init__(self):
        self.calls, self.rooms, self.number = [], [], itertools.count()

    def room(self, shape, dtype, memory_format):
        self.rooms.append(torch.empty(shape, dtype=dtype, memory_format=memory_format))
        return self.rooms[-1]

    def send(self, batch):
        assert all(any(image is room for room in self.rooms) for image in batch.values()), "all of it is pinned"
        sent = next(self.number)
        self.calls.append(("send", sent))
        there = {name: torch.full_like(x, -1 if x.dtype == torch.int64 else torch.nan) for name, x in batch.items()}
        return Batch(there), (sent, batch)

    def receive(self, batch, sent):
        self.calls.append(("receive", sent[0]))
        for name, tensor in batch.items():
            tensor.copy_(sent[1][name])


def made(workers, end=None, **options):
    return Batches(sets(channels=1, classes=("no", "yes"), **options), 3, 5, False, workers=workers, end=end)


def read_ahead(batches):
    """Wait until all that was asked for has been read."""
    for future in list(batches._ahead.values()):
        future.exception()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("lane", [None, SlowLane])
@pytest.mark.parametrize("patch", [None, (5, 4)])
def test_the_same_batches_arrive_whatever_the_way(workers, lane, patch):
    plain, batches = made(0, patch=patch), made(workers, patch=patch)
    feed = Feed(batches, CPU, 2, lane=lane and lane())
    for step in (*range(6), 2, 30, 31):
        one, other = plain.at(step), feed.at(step)
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
        read_ahead(batches)
    feed.close()


def test_the_next_batch_is_on_its_way_before_the_step_begins():
    batches, lane = made(1, end=4), SlowLane()
    feed = Feed(batches, CPU, 2, lane=lane)
    for step in range(4):
        if step:
            read_ahead(batches)
        feed.at(step)
    both = [(kind, step) for step in range(1, 4) for kind in ("receive", "send")]
    # the first is asked for before anything has been read; after it each is sent ahead
    assert lane.calls[0] == ("send", 0) and sorted(lane.calls) == sorted([("send", 0), ("receive", 0), *both])
    for step in (2, 3):
        assert lane.calls.index(("send", step)) < lane.calls.index(("receive", step - 1))
    feed.close()


def test_a_batch_that_is_not_read_yet_is_not_waited_for():
    batches, lane = made(1), SlowLane()
    batches.ready = lambda step: False
    feed = Feed(batches, CPU, 2, lane=lane)
    for step in range(3):
        feed.at(step)
    assert lane.calls == [(kind, step) for step in range(3) for kind in ("send", "receive")]
    feed.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_is_raised_at_the_step_that_needs_the_image(workers):
    images = ImageSet(records(8, partial(broken_at, 5)), Window(low=0.0, high=1.0), (9, 7), "pad", 1e-9, channels=1)
    batches = Batches({"image": images}, 1, 3, False, workers=workers, end=8)
    feed = Feed(batches, CPU, 2, lane=SlowLane())
    failed = []
    for step in range(8):
        read_ahead(batches)
        try:
            feed.at(step)
        except UserError:
            failed.append(step)
    assert failed == [step for step in range(8) if batches._indices("image", step) == [5]]
    feed.close()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("channels_last", [False, True])
def test_readers_write_in_the_memory_format_of_the_step(dims, channels_last, monkeypatch):
    size = (6, 5, 4)[:dims]
    some = records(4, lambda n: torch.rand(2, *size).numpy())
    images = ImageSet(some, Window(), size, "pad", channels=2)
    runtime = Runtime(torch.device("cpu"), "fp32", channels_last)
    monkeypatch.setattr(torch.Tensor, "contiguous", None)  # nobody copies once more
    batches = Batches({"image": images}, 2, 0, False, workers=0)
    batch, made = Feed(batches, runtime, dims).at(0), []
    batches.room = lambda shape, dtype: made.append(torch.empty(shape, dtype=dtype)) or made[-1]
    last = torch.channels_last if dims == 2 else torch.channels_last_3d
    assert batch["image"].is_contiguous(memory_format=last if channels_last else torch.contiguous_format)
    assert torch.equal(batch["image"], batches.at(0)["image"])


def test_on_the_cpu_the_step_uses_what_the_reader_wrote():
    batches, rooms = made(0), []
    feed = Feed(batches, CPU, 2)
    make = batches.room
    batches.room = lambda *kind: rooms.append(make(*kind)) or rooms[-1]
    batch = feed.at(0)
    assert {x.data_ptr() for x in batch.values()} == {room.data_ptr() for room in rooms}


def test_close_lets_go_of_everything_and_at_starts_again():
    batches, lane = made(2), SlowLane()
    feed = Feed(batches, CPU, 2, lane=lane)
    first = feed.at(0)
    read_ahead(batches)
    feed.at(1)
    feed.close()
    assert feed._sent is None and not batches._ahead and not readers()
    assert torch.equal(feed.at(0)["a"], first["a"])
    feed.close()


def test_images_of_another_shape_are_refused_and_not_stretched():
    some = [*records(1), *records(2, lambda n: torch.rand(3, 9, 7).numpy())[1:]]
    images = ImageSet(some, Window(low=0.0, high=1.0), (9, 7), "pad", channels=3)
    with pytest.raises(ValueError, match="shape"):
        Batches({"image": images}, 2, 0, False, workers=0).at(0)
    with pytest.raises(ValueError, match="shape"):
        Batches({"image": ImageSet(records(1), Window(), (9, 7), "pad", channels=3)}, 1, 0, False, workers=0).at(0)


class FakeCuda:
    """torch.cuda as far as the lane needs it: notes what happens on which stream, in order."""

    def __init__(self):
        self.log, self.current = [], "main"

    def Stream(self, device):  # noqa: N802 (torch's name)
        return SimpleNamespace(name="side", record_event=lambda: self.log.append(("event", "side")) or "copied")

    def current_stream(self, device):
        return SimpleNamespace(wait_event=lambda event: self.log.append(("wait", self.current, event)), name="main")

    def stream(self, stream):
        cuda = self

        class Inside:
            def __enter__(self):
                self.before, cuda.current = cuda.current, stream.name

            def __exit__(self, *_):
                cuda.current = self.before

        return Inside()


def test_the_lane_copies_beside_the_step_and_the_step_waits_for_it_alone(monkeypatch):
    cuda, asked = FakeCuda(), []
    monkeypatch.setattr(feeding.torch, "cuda", cuda)
    monkeypatch.setattr(feeding.torch, "empty", lambda shape, **options: asked.append(options))
    lane = CudaLane(torch.device("cuda", 1))
    lane.room((1, 1, 4, 4), torch.float32, torch.channels_last)
    assert asked == [{"dtype": torch.float32, "pin_memory": True, "memory_format": torch.channels_last}]

    class Image:
        def to(self, device, non_blocking):
            assert device == torch.device("cuda", 1) and non_blocking
            cuda.log.append(("copy", cuda.current))
            return self

        def record_stream(self, stream):
            cuda.log.append(("used on", stream.name))

    batch, sent = lane.send({"a": Image()})
    lane.receive(batch, sent)
    assert cuda.log == [("copy", "side"), ("event", "side"), ("wait", "main", "copied"), ("used on", "main")]


def test_pin_can_be_switched_off_and_is_for_cuda_alone(monkeypatch):
    monkeypatch.setattr(feeding, "CudaLane", lambda device: "a lane")
    cuda = Runtime(torch.device("cuda", 0), "fp32", True)
    assert Feed(made(0), cuda, 2).lane == "a lane" and Feed(made(0), cuda, 2, pin=False).lane is None
    assert Feed(made(0), CPU, 2).lane is None


def test_a_training_is_fed_as_its_recipe_says():
    model = load_recipe("cyclegan_t1t2_64").override(["data.pin=false", "data.workers=0", "data.source.subjects=6"])
    training = Training(assemble(model.check(), start("cpu", "fp32")), run=None)
    assert training.feed.lane is None
    stage = training.parts.method.stages(1)[0]
    batch = training.batch_at(0, stage)
    assert set(batch) >= {"a", "b"} and batch["a"].is_contiguous(memory_format=torch.channels_last)
