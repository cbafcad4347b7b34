"""Batches: the images of each step, in an order set by (seed, step). Threads read them ahead."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, field
from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gantk.data.intensity import IntensityMapping
from gantk.data.preparation import Preparation, Record
from gantk.machine.cores import use_one_thread
from gantk.method import Batch, Companions

BATCHES_AHEAD_PER_WORKER = 2  # batches that are read ahead, for each worker
WINDOWS = 0x70617463  # random stream for the places of windows; the streams that shuffle are others


class ImageSet:
    """The images of one domain as the networks see them: (C, *size) in network intensities.
    Thread-safe.
    """

    def __init__(
        self,
        records: Sequence[Record],
        intensity: IntensityMapping,  # of the domain
        preparation: Preparation,  # how records become images
        memory: float = 8.0,  # GiB of prepared images that are kept
        *,
        # batches hold a random window of this size; None: whole images
        patch: tuple[int, ...] | None = None,
        masks: bool = False,  # batches carry lesion masks
        classes: Sequence[str] = (),  # batches carry labels, as indices into these
        weights: Sequence[float] = (),  # relative frequency of each image; (): all equal
    ):
        self.records = list(records)
        self.preparation = preparation
        self._lock = Lock()
        self._memory = int(memory * 2**30)  # bytes
        self.free_memory()
        self.size = preparation.size
        self.patch = tuple(patch or preparation.size)
        self.intensity = intensity
        self.masks = masks
        self.classes = tuple(classes)
        # see Method.companions
        self.companions: Companions | None = None
        self.weights = np.asarray(weights, dtype=np.float64).tobytes()

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Tensor:
        """One image, prepared at most once where memory allows."""
        return self.image_and_mask(index)[0]

    def image_and_mask(self, index: int) -> tuple[Tensor, Tensor]:
        """An image with its lesion mask, (1, *size) from 0 to 1; the mask takes no memory where
        there is none.
        """
        image, mask = self._kept_or_made(index, lambda: self._prepare(index))
        return image, mask

    def free_memory(self) -> None:
        """Let go of the images that are kept; they are prepared again when they are used."""
        with self._lock:
            self._kept: dict[Any, tuple[Tensor, ...]] = {}
            self._free_bytes = self._memory

    def _kept_or_made(self, key: Any, make: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """The tensors kept under `key`, else those of `make`, which are kept where memory allows."""
        kept = self._kept.get(key)
        if kept is not None:
            return kept

        tensors = make()
        nbytes = sum(tensor.untyped_storage().nbytes() for tensor in tensors)
        with self._lock:
            # another thread may have made them too
            if key not in self._kept and nbytes <= self._free_bytes:
                self._free_bytes -= nbytes
                self._kept[key] = tensors

        return tensors

    def companion(self, index: int, sets: Mapping[str, ImageSet]) -> Tensor:
        """The companions of an image, see `Method.companions`; computed at most once where memory
        allows.
        """
        find = self.companions
        assert find is not None
        key = "companion", index
        (companion,) = self._kept_or_made(key, lambda: (find(index, sets),))
        return companion

    def _prepare(self, index: int) -> tuple[Tensor, Tensor]:
        record = self.records[index]
        image = torch.from_numpy(self.preparation.image(record, self.intensity))
        mask = self.preparation.mask(record) if self.masks else None
        if mask is None:  # of a patient without a file of a mask: all pixels count as outside
            return image, torch.zeros(1).expand(1, *self.size)
        return image, torch.from_numpy(mask)


@dataclass(eq=False)
class Batches:
    """Training batches by step. Each domain is shuffled again in every epoch; paired methods get
    a[i] with b[i].

    The order depends only on (seed, epoch), and the place of a random window only on (seed, position
    in the order). So there is no state to save, and `workers` does not change the batches. Each
    `rank` of `world` processes reads its share: N ranks of batch B see the images of one process of
    batch N * B.
    """

    sets: dict[str, ImageSet]
    batch: int
    seed: int
    paired: bool
    rank: int = 0
    world: int = 1
    _: KW_ONLY
    workers: int = 2  # threads that read ahead; 0: `at` reads each batch
    end: int | None = None  # the first step that is not read ahead
    # data.order: position -> indices; None: shuffled
    chosen: Callable[[int], Mapping[str, int]] | None = field(default=None, init=False)
    # by step
    _ahead: dict[int, Future[Batch]] = field(default_factory=dict, init=False)
    _pool: ThreadPoolExecutor | None = field(default=None, init=False)

    @property
    def steps_per_epoch(self) -> int:
        """Steps that show the larger domain once."""
        return max(1, -(-max(map(len, self.sets.values())) // (self.batch * self.world)))

    def at(self, step: int) -> Batch:
        """The batch of a step, on the host; raises errors of its reading. The next batches are read
        meanwhile.
        """
        if not self.workers:
            return self._gather(step)
        if step not in self._ahead:  # the first step, or not the next one
            self.close()

        self._pool = self._pool or ThreadPoolExecutor(
            self.workers, thread_name_prefix="gantk-reader", initializer=use_one_thread
        )
        last = step + BATCHES_AHEAD_PER_WORKER * self.workers
        last = last if self.end is None else min(last, self.end - 1)
        for wanted in range(step, max(step, last) + 1):
            if wanted not in self._ahead:
                self._ahead[wanted] = self._pool.submit(self._gather, wanted)

        return self._ahead.pop(step).result()

    def close(self) -> None:
        """Stop reading ahead; `at` starts it again."""
        self._ahead.clear()
        pool = self._pool
        self._pool = None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)

    def _gather(self, step: int) -> Batch:
        first = (step * self.world + self.rank) * self.batch
        parts = defaultdict(list)
        for name, images in self.sets.items():
            for position in range(first, first + self.batch):
                index = (
                    self.chosen(position)[name] if self.chosen else self.image_at(name, position)
                )
                image, mask = images.image_and_mask(index)
                window = self._window(name, position)
                parts[name].append(image.numpy()[window])
                if images.companions is not None:
                    companion = images.companion(index, self.sets)
                    parts[f"near_{name}"].append(companion.numpy()[window])

                if images.masks:
                    parts[f"mask_{name}"].append(mask.numpy()[window])
                if images.classes and name == next(iter(self.sets)):
                    parts["label"].append(images.classes.index(images.records[index].label))

        # By numpy, which copies in this thread only: torch would use threads that the training step
        # needs.
        return Batch({name: torch.from_numpy(np.stack(arrays)) for name, arrays in parts.items()})

    def image_at(self, name: str, position: int) -> int:
        """The index of a domain's image at a position of the order that shuffles each epoch."""
        images = self.sets[name]
        weights = next(iter(self.sets.values())).weights if self.paired else images.weights
        epoch, place = divmod(position, len(images))
        return int(order(self.seed, self._stream(name), epoch, len(images), weights)[place])

    def _stream(self, name: str) -> int:
        """The random stream of a domain; registered images share one."""
        return 0 if self.paired else sorted(self.sets).index(name)

    def _window(self, name: str, position: int) -> tuple:
        """The random window at a position of the order, as slices; registered images share it."""
        images = self.sets[name]
        if images.patch == images.size:
            return (...,)

        rng = np.random.default_rng([self.seed, WINDOWS, self._stream(name), position])
        window: list[Any] = [...]
        for side, shown in zip(images.size, images.patch, strict=True):
            start = int(rng.integers(side - shown + 1))
            window.append(slice(start, start + shown))

        return tuple(window)


@lru_cache(maxsize=8)  # this epoch and the next, of two domains, in training and elsewhere
def order(seed: int, stream: int, epoch: int, count: int, weights: bytes = b"") -> np.ndarray:
    """The indices of `count` images in an epoch's order; with `weights` as often as these say
    (systematic sampling).
    """
    rng = np.random.default_rng([seed, stream, epoch])
    shuffled = rng.permutation(count)
    ends = np.cumsum(np.frombuffer(weights))
    if not weights:
        return shuffled
    return np.searchsorted(
        ends[:-1] / ends[-1] * count, rng.random() + np.arange(count), side="right"
    )[shuffled]
