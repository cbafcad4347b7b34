"""2.5-D: a slice with its neighbours as channels, taken from its own set alone."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from threading import Lock

import numpy as np
from torch import Tensor

from gantk.data.items import Record
from gantk.errors import UserError

CACHE = 512 * 2**20  # bytes of slices that are kept for their neighbours


class Stacks:
    """Knows which slice lies beside which: within one domain, subject and folder, by `position`.

    Built of all slices before they are split, so that two slices between which some were left out are no neighbours.
    Slices without a position are a UserError.
    """

    def __init__(self, records: Sequence[Record], neighbours: int):
        without = [record for record in records if record.position is None]
        if without:
            raise UserError(
                f"{len(without)} of {len(records)} images have no place in a stack: the first is '{without[0].key}'",
                where="data.neighbours",
                remedy="set data.neighbours = 0, or use a source of volumes or of numbered slices",
            )
        self.neighbours = neighbours
        stacks: dict[tuple, list[Record]] = defaultdict(list)
        for record in records:
            stacks[record.domain, record.subject, record.key.rpartition("/")[0]].append(record)
        self._place: dict[tuple[str, str], tuple[tuple, int]] = {}
        for name, stack in stacks.items():
            for rank, record in enumerate(sorted(stack, key=lambda one: one.position)):
                self._place[record.domain, record.key] = (name, rank)
        self._slices = _Slices()

    def of(self, records: Sequence[Record]) -> list[Record]:
        """The records of one set with their neighbours: 2k + 1 slices, the first lowest, each with its own channels.

        Where a neighbour is not in the set, the slice nearest to it on the way stands in for it. Masks stay those of
        the middle slice.
        """
        there = {self._place[record.domain, record.key]: record for record in records}
        return [self._with_neighbours(record, there) for record in records]

    def _with_neighbours(self, record: Record, there: dict[tuple, Record]) -> Record:
        name, rank = self._place[record.domain, record.key]
        below, above = [record], [record]
        for distance in range(1, self.neighbours + 1):
            below.append(there.get((name, rank - distance), below[-1]))
            above.append(there.get((name, rank + distance), above[-1]))
        return replace(record, read=partial(self._read, tuple([*below[:0:-1], record, *above[1:]])))

    def _read(self, slices: tuple[Record, ...]) -> np.ndarray:
        """float32 ((2k + 1) C, H, W)."""
        images = [self._slices.read(record) for record in slices]
        if len({image.shape for image in images}) > 1:
            shapes = ", ".join(f"{image.shape} in '{record.key}'" for record, image in zip(slices, images, strict=True))
            raise UserError(f"neighbouring slices differ in size: {shapes}", where="data.neighbours")
        return np.concatenate(images)


class _Slices:
    """The slices read last: each is wanted by all its neighbours. Safe to share between threads."""

    def __init__(self):
        self._kept: OrderedDict[tuple[str, str], np.ndarray] = OrderedDict()
        self._room, self._lock = CACHE, Lock()

    def read(self, record: Record) -> np.ndarray:
        key = (record.domain, record.key)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        image = record.read()
        with self._lock:
            if key not in self._kept:
                self._kept[key] = image
                self._room -= image.nbytes
            while self._room < 0:
                self._room += self._kept.popitem(last=False)[1].nbytes
        return image


def middle(images: Tensor, neighbours: int) -> Tensor:
    """The middle slice's channels of (N, C, *size) images that carry so many neighbours on each side."""
    return images.chunk(2 * neighbours + 1, dim=1)[neighbours]
