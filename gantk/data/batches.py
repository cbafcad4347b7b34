"""From records to batches: which image comes when is a function of the step alone, so a resume needs no memory."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from gantk.data.fit import Fit
from gantk.data.records import Record
from gantk.method import Batch


class ImageSet:
    """The images of one domain as the networks see them: (C, *size) in network intensities."""

    def __init__(self, records: Sequence[Record], intensity, size: tuple[int, ...], fit: str, memory: float = 8.0):
        self.records, self.intensity, self.size, self.fit = list(records), intensity, tuple(size), fit
        self._kept: dict[int, Tensor] = {}
        self._room = int(memory * 2**30)  # bytes left for decoded images

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Tensor:
        """One image, decoded at most once where memory allows."""
        if index in self._kept:
            return self._kept[index]
        image = prepare(self.records[index].read(), self.intensity, self.size, self.fit)
        if image.nbytes <= self._room:
            self._room -= image.nbytes
            self._kept[index] = image
        return image

    def gather(self, indices: Sequence[int]) -> Tensor:
        """A batch (N, C, *size)."""
        return torch.stack([self[index] for index in indices])


def prepare(pixels: np.ndarray, intensity, size: tuple[int, ...], fit: str) -> Tensor:
    """Native pixels (C, *spatial) as a network sees them: brought to `size`, then to network intensities."""
    fitted = Fit(pixels.shape[1:], size, fit).forward(pixels)
    return torch.from_numpy(np.ascontiguousarray(intensity.forward(fitted), dtype=np.float32))


class Batches:
    """Training batches by step. Each domain is shuffled anew every epoch; paired methods take a[i] with b[i].

    The order is a function of (seed, epoch): no state to save. `rank` of `world` processes each take their share of
    the global batch, so that N ranks of batch B see what one process of batch N * B would.
    """

    def __init__(self, sets: dict[str, ImageSet], batch: int, seed: int, paired: bool, rank: int = 0, world: int = 1):
        self.sets, self.batch, self.seed, self.paired = sets, batch, seed, paired
        self.rank, self.world = rank, world
        self._orders: dict[tuple[str, int], list[int]] = {}
        self._ahead: tuple[int, object] | None = None  # the next step's batch, being decoded
        self._pool = ThreadPoolExecutor(1)

    @property
    def steps_per_epoch(self) -> int:
        """Steps that show the larger domain once."""
        return max(1, -(-max(map(len, self.sets.values())) // (self.batch * self.world)))

    def at(self, step: int) -> Batch:
        """The batch of that step, on the host; the next one is decoded meanwhile."""
        ahead = self._ahead
        now = ahead[1].result() if ahead is not None and ahead[0] == step else self._gather(step)
        self._ahead = (step + 1, self._pool.submit(self._gather, step + 1))
        return now

    def _gather(self, step: int) -> Batch:
        first = (step * self.world + self.rank) * self.batch
        return Batch({name: self.sets[name].gather(self._indices(name, first)) for name in self.sets})

    def _indices(self, name: str, first: int) -> list[int]:
        count = len(self.sets[name])
        places = range(first, first + self.batch)
        return [self._order(name, place // count)[place % count] for place in places]

    def _order(self, name: str, epoch: int) -> list[int]:
        stream = 0 if self.paired else sorted(self.sets).index(name)
        key = (name, epoch)
        if key not in self._orders:
            for old in [k for k in self._orders if k[0] == name and k[1] < epoch - 1]:
                del self._orders[old]
            rng = np.random.default_rng([self.seed, stream, epoch])
            self._orders[key] = rng.permutation(len(self.sets[name])).tolist()
        return self._orders[key]


def augmented(batch: Batch, augments: Sequence, paired: bool) -> Batch:
    """The batch after random changes, drawn from torch's global generator; pairs move together, brightness apart."""
    for augment in augments:
        if paired and augment.geometric:
            names = list(batch)
            together = augment(torch.cat([batch[name] for name in names], dim=1))
            parts = together.split([batch[name].shape[1] for name in names], dim=1)
            batch = Batch(zip(names, parts, strict=True))
        else:
            batch = Batch({name: augment(image) for name, image in batch.items()})
    return batch
