"""From records to batches: which image comes when is a function of the step alone, so a resume needs no memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from gantk.data.intensity import to_network
from gantk.data.items import Record
from gantk.data.preparation import Preparation
from gantk.data.resample import Resize
from gantk.machine.runtime import Runtime
from gantk.method import Batch
from gantk.nets.kernels import CHANNELS_LAST

AHEAD = 2  # batches that are read ahead, for each worker
WINDOWS = 0x70617463  # the stream of random numbers that places windows, apart from those that shuffle
Room = Callable[[tuple[int, ...], torch.dtype], Tensor]  # makes the memory that a batch is put into


class ImageSet:
    """The images of one domain as the networks see them: (C, *size) in network intensities. Safe between threads."""

    def __init__(
        self,
        records: Sequence[Record],
        intensity,
        size: tuple[int, ...],
        fit: str,
        memory: float = 8.0,
        *,
        patch: tuple[int, ...] | None = None,  # what batches show of an image: a random window of this size
        masks: bool = False,  # batches carry lesion masks
        classes: Sequence[str] = (),  # batches carry labels, as indices into these
        channels: int | None = None,  # of every image; None: nobody knows before one is read
        preparation: Preparation | None = None,  # how records become images; None: without a cache
    ):
        self.records, self.size, self.fit = list(records), tuple(size), fit
        self.preparation = preparation or Preparation(records, size, fit)
        self.patch, self.masks, self.classes = patch and tuple(patch), masks, tuple(classes)
        self.channels = channels
        self._kept: dict[int, tuple[Tensor, Tensor | None]] = {}
        self._room = int(memory * 2**30)  # bytes left for prepared images
        self._lock = Lock()
        self._intensity = intensity

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Tensor:
        """One image, prepared at most once where memory allows."""
        return self.prepared(index)[0]

    @property
    def intensity(self):
        """The domain's mapping; another one makes all images anew."""
        return self._intensity

    @intensity.setter
    def intensity(self, mapping) -> None:
        with self._lock:
            self._intensity = mapping
            self._room += sum(_nbytes(*kept) for kept in self._kept.values())
            self._kept.clear()

    def mask(self, index: int) -> Tensor:
        """The image's lesion mask, (1, *size) from 0 to 1; all 0 where it has none."""
        return self.prepared(index)[1]

    def gather(self, indices: Sequence[int]) -> Tensor:
        """A batch (N, C, *size)."""
        return torch.stack([self[index] for index in indices])

    def prepared(self, index: int) -> tuple[Tensor, Tensor]:
        """An image with its mask, which takes no memory where there is none."""
        image, mask = self._prepared(index)
        return image, torch.zeros(1).expand(1, *self.size) if mask is None else mask

    def _prepared(self, index: int) -> tuple[Tensor, Tensor | None]:
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        record, mapping = self.records[index], self._intensity
        image = torch.from_numpy(self.preparation.image(record, mapping))
        mask = self.preparation.mask(record) if self.masks else None
        mask = None if mask is None else torch.from_numpy(mask)
        with self._lock:
            nbytes = _nbytes(image, mask)
            if nbytes <= self._room and index not in self._kept and mapping is self._intensity:
                self._room -= nbytes
                self._kept[index] = image, mask
        return image, mask


def _nbytes(image: Tensor, mask: Tensor | None) -> int:
    return image.nbytes + (0 if mask is None else mask.nbytes)


def prepare(pixels: np.ndarray, intensity, size: tuple[int, ...], fit: str) -> Tensor:
    """Native pixels (C, *spatial) as a network sees them: brought to `size`, then to network intensities.

    Of several contrasts, one that is NaN (a patient lacks it) becomes black.
    """
    return torch.from_numpy(to_network(pixels, intensity, Resize(pixels.shape[1:], size, fit)))


class Batches:
    """Training batches by step. Each domain is shuffled anew every epoch; paired methods take a[i] with b[i].

    The order is a function of (seed, epoch), the place of a random window one of (seed, place in the order): no state
    to save, and the same batches whatever the number of `workers`, the threads that read ahead. `rank` of `world`
    processes each take their share of the global batch, so that N ranks of batch B see what one process of batch N * B
    would. No step from `end` on is read ahead.

    A batch is written once, into memory that `room` makes in the thread that calls `at`: the readers ask nothing of a
    device.
    """

    def __init__(
        self,
        sets: dict[str, ImageSet],
        batch: int,
        seed: int,
        paired: bool,
        rank: int = 0,
        world: int = 1,
        *,
        workers: int = 2,  # threads that read ahead; 0: every batch is read when it is asked for
        end: int | None = None,
    ):
        self.room: Room = _ordinary  # to be replaced where batches are wanted in another kind of memory
        self.sets, self.batch, self.seed, self.paired = sets, batch, seed, paired
        self.rank, self.world, self.workers, self.end = rank, world, workers, end
        self._orders: dict[tuple[str, int], list[int]] = {}
        self._lock = Lock()
        self._ahead: dict[int, Future[Batch]] = {}  # by step
        self._pool: ThreadPoolExecutor | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Steps that show the larger domain once."""
        return max(1, -(-max(map(len, self.sets.values())) // (self.batch * self.world)))

    def at(self, step: int) -> Batch:
        """The batch of that step, on the host; those of the next steps are read meanwhile.

        What goes wrong while a batch is read ahead is raised at its own step.
        """
        if not self.workers:
            return self._gather(step, self._rooms())
        if step not in self._ahead:  # the first step, or not the one after the last
            self._drop()
        last = step + AHEAD * self.workers
        for wanted in range(step, last + 1 if self.end is None else max(step + 1, min(last + 1, self.end))):
            if wanted not in self._ahead:
                self._pool = self._pool or ThreadPoolExecutor(self.workers, thread_name_prefix="gantk-reader")
                self._ahead[wanted] = self._pool.submit(self._gather, wanted, self._rooms())
        return self._ahead.pop(step).result()

    def ready(self, step: int) -> bool:
        """Whether that step's batch has been read without a mistake: `at` would not wait."""
        future = self._ahead.get(step)
        return future is not None and future.done() and future.exception() is None

    def close(self) -> None:
        """Stop reading ahead; `at` starts it again."""
        self._drop()
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)

    def _drop(self) -> None:
        for future in self._ahead.values():
            future.cancel()
        self._ahead.clear()

    def _rooms(self) -> Batch:
        """Memory for a batch, as far as it is known what will be in it."""
        rooms = Batch()
        for name, images in self.sets.items():
            sides = images.patch or images.size
            if images.channels is not None:
                rooms[name] = self.room((self.batch, images.channels, *sides), torch.float32)
            if images.masks:
                rooms[f"mask_{name}"] = self.room((self.batch, 1, *sides), torch.float32)
            if images.classes and "label" not in rooms:
                rooms["label"] = self.room((self.batch,), torch.int64)
        return rooms

    def _gather(self, step: int, rooms: Batch) -> Batch:
        first = (step * self.world + self.rank) * self.batch
        parts: dict[str, list[np.ndarray]] = {}
        for name, images in self.sets.items():
            indices = self._indices(name, first)
            windows = [self._window(name, place) for place in range(first, first + self.batch)]
            shown = [images.prepared(index) for index in indices]
            parts[name] = [image.numpy()[window] for (image, _), window in zip(shown, windows, strict=True)]
            if images.masks:
                masks = zip(shown, windows, strict=True)
                parts[f"mask_{name}"] = [mask.numpy()[window] for (_, mask), window in masks]
            if images.classes and "label" not in parts:
                parts["label"] = [np.int64(images.classes.index(images.records[i].label)) for i in indices]
        # By numpy, which copies in this thread alone: torch would call up threads that the training step needs.
        return Batch({name: _stacked(arrays, rooms.get(name)) for name, arrays in parts.items()})

    def _window(self, name: str, place: int) -> tuple:
        """Which part of the image at this place of the order is shown: the same part of registered images."""
        images = self.sets[name]
        if images.patch is None or images.patch == images.size:
            return (...,)
        rng = np.random.default_rng([self.seed, WINDOWS, self._stream(name), place])
        starts = [int(rng.integers(side - shown + 1)) for side, shown in zip(images.size, images.patch, strict=True)]
        return (slice(None), *(slice(at, at + shown) for at, shown in zip(starts, images.patch, strict=True)))

    def _indices(self, name: str, first: int) -> list[int]:
        count = len(self.sets[name])
        places = range(first, first + self.batch)
        return [self._order(name, place // count)[place % count] for place in places]

    def _stream(self, name: str) -> int:
        return 0 if self.paired else sorted(self.sets).index(name)

    def _order(self, name: str, epoch: int) -> list[int]:
        key = (name, epoch)
        with self._lock:
            if key not in self._orders:
                for old in [k for k in self._orders if k[0] == name and k[1] < epoch - 1]:
                    del self._orders[old]
                rng = np.random.default_rng([self.seed, self._stream(name), epoch])
                self._orders[key] = rng.permutation(len(self.sets[name])).tolist()
            return self._orders[key]


def _ordinary(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype)


def _stacked(arrays: list[np.ndarray], room: Tensor | None) -> Tensor:
    if room is None:
        return torch.from_numpy(np.stack(arrays))
    np.stack(arrays, out=room.numpy())
    return room


class Lane(Protocol):
    """A way to the device beside the one that computes."""

    def room(self, shape: tuple[int, ...], dtype: torch.dtype, memory_format: torch.memory_format) -> Tensor:
        """Host memory that the device can fetch by itself."""

    def send(self, batch: Batch) -> tuple[Batch, object]:
        """Begin to copy, without a wait: the batch on the device, and what to `receive` it by."""

    def receive(self, batch: Batch, sent: object) -> None:
        """What is computed from now on waits for the copy, on the device."""


class Feed:
    """The batches of a training on its device, in its memory format.

    On CUDA with `pin`, readers write into pinned host memory; a stream of its own copies a batch as soon as it is read,
    mostly while the step before it computes. Elsewhere readers write what the step uses: nothing is copied.

    Args:
        batches: what to feed; from now on they are made in memory that suits the device.
        runtime: where to.
        dims: 2 or 3.
        pin: whether copies may overlap the step.
        lane: takes the place of CUDA's; None: `CudaLane` on CUDA, else none.
    """

    def __init__(self, batches: Batches, runtime: Runtime, dims: int, pin: bool = True, lane: Lane | None = None):
        self.batches, self.runtime, self.dims = batches, runtime, dims
        cuda = runtime.device.type == "cuda"
        self.lane = (lane or (CudaLane(runtime.device) if cuda else None)) if pin else None
        self._sent: tuple[int, Batch, object] | None = None  # the step whose copy was begun early
        batches.room = self._room

    def at(self, step: int) -> Batch:
        """That step's batch; what went wrong while it was read is raised here. Never waits for the device."""
        if self.lane is None:
            return Batch({name: self.runtime.place(x, self.dims) for name, x in self.batches.at(step).items()})
        (_, batch, sent), self._sent = self._begun(step), None
        if self.batches.ready(step + 1):
            self._sent = self._begun(step + 1)
        self.lane.receive(batch, sent)
        return batch

    def close(self) -> None:
        """Let go of what was read and copied ahead; `at` starts again."""
        self._sent = None
        self.batches.close()

    def _begun(self, step: int) -> tuple[int, Batch, object]:
        if self._sent is not None and self._sent[0] == step:
            return self._sent
        return step, *self.lane.send(self.batches.at(step))

    def _room(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        inside = self.runtime.channels_last and len(shape) == self.dims + 2
        memory_format = CHANNELS_LAST[self.dims] if inside else torch.contiguous_format
        if self.lane is None:
            return torch.empty(shape, dtype=dtype, memory_format=memory_format)
        return self.lane.room(shape, dtype, memory_format)


class CudaLane:
    """Pinned memory and a stream beside the current one."""

    def __init__(self, device: torch.device):
        self.device, self._stream = device, torch.cuda.Stream(device)

    def room(self, shape: tuple[int, ...], dtype: torch.dtype, memory_format: torch.memory_format) -> Tensor:
        """Pinned memory; torch keeps it and hands it out again once the copy from it is done."""
        return torch.empty(shape, dtype=dtype, pin_memory=True, memory_format=memory_format)

    def send(self, batch: Batch) -> tuple[Batch, torch.cuda.Event]:
        """Copy on the other stream, in the memory format that the batch has."""
        with torch.cuda.stream(self._stream):
            there = Batch({name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()})
            return there, self._stream.record_event()

    def receive(self, batch: Batch, sent: torch.cuda.Event) -> None:
        """The current stream waits, and owns the memory until it is done with it."""
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(sent)
        for tensor in batch.values():
            tensor.record_stream(stream)
