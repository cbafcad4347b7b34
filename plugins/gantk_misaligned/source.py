"""A data source whose training pairs do not lie on each other: how much a method loses by that, measured."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial
from typing import Annotated

import numpy as np
from pydantic import Field

from gantk.data.preparation import Record
from gantk.data.resample import SamplingGrid
from gantk.data.split import split_records
from gantk.errors import UserError
from gantk.plugin.spec import Seed, Source

Pixels = Annotated[float, Field(ge=0, le=256)]
Held = Annotated[float, Field(gt=0, lt=1)]
CONTROL = 4  # points along each side at which the smooth part of a field is drawn


class Misaligned:
    """Registered pairs of another source, the second image of each training pair moved: shifted, turned and bent.

    Each has one move of its own, the same at every epoch and for every method; in the mean over its pixels it is
    `pixels` long. Validation and test images stay as they are: this source divides the records itself, as data.split
    does by its defaults, so that `folds` and a split file, which would overrule it, are not for it.
    """

    def __init__(
        self,
        domains: tuple[str, ...],
        dims: int,
        size: tuple[int, ...],
        *,
        source: Source = "phantom",  # where the pairs come from: { name = "nifti", path = "scans" }
        pixels: Pixels = 4.0,  # mean length of a move, in pixels of data.size; 0: none
        test: Held = 0.2,  # share that training never sees
        validation: Held = 0.1,  # share that is scored while training
        seed: Seed = 0,  # of the moves
    ):
        self.part, self.size, self.pixels, self.seed = source(domains, dims, size), tuple(size), pixels, seed
        self.shares, self.asks = {"test": test, "validation": validation}, ""

    def sees(self, view: SamplingGrid) -> None:
        """Volumes are sliced along this plane, at this spacing; computed heads are drawn as they are."""
        if hasattr(self.part, "sees"):
            self.part.sees(view)

    def records(self) -> list[Record]:
        """The records of the source, each with its set; UserError where they are no registered pairs."""
        if hasattr(self.part, "asks"):
            self.part.asks = self.asks
        found = self.part.records()
        if not any(one.pair and one.domain == "b" for one in found):
            what = "'misaligned' moves the second image of registered pairs, and this source has none"
            raise UserError(what, where="data.source.source", remedy="use a source of pairs, such as 'phantom'")
        sets, _ = split_records(found, **self.shares)
        return [self._in(name, one) for name, records in sets.items() for one in records]

    def _in(self, name: str, one: Record) -> Record:
        if name != "train" or one.domain != "b" or not self.pixels:
            return replace(one, split=name)
        mask = one.mask and partial(self._moved, one.pair or one.key, one.mask)
        return replace(one, split=name, read=partial(self._moved, one.pair or one.key, one.read), mask=mask)

    def _moved(self, key: str, read) -> np.ndarray:
        """What `read` gives, (C, *spatial), linearly sampled where the key's own field points to; edges repeated."""
        from scipy.ndimage import map_coordinates

        image = read()
        scale = max(side / shown for side, shown in zip(image.shape[1:], self.size, strict=True))
        rng = np.random.default_rng([self.seed, *hashlib.sha256(key.encode()).digest()[:8]])
        field = self.pixels * scale * drawn_field(rng, image.shape[1:])
        places = np.indices(image.shape[1:], dtype=np.float32) + field
        return np.stack([map_coordinates(each, places, order=1, mode="nearest") for each in image]).astype(np.float32)


def drawn_field(rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    """A field (dims, *size) of mean length 1 pixel: in equal parts a shift, a turn about the middle and a smooth bend.

    A volume is turned about one axis of three, drawn too.
    """
    from scipy.ndimage import map_coordinates

    dims = len(size)
    middle = np.stack(np.meshgrid(*(np.arange(side) - (side - 1) / 2 for side in size), indexing="ij"))
    shift = np.broadcast_to(rng.standard_normal(dims).reshape(-1, *[1] * dims), middle.shape)
    one, other = rng.permutation(dims)[:2]
    turn = np.zeros_like(middle)
    turn[one], turn[other] = middle[other], -middle[one]
    points = np.stack(np.meshgrid(*(np.linspace(0, CONTROL - 1, side) for side in size), indexing="ij"))
    bend = np.stack([map_coordinates(rng.standard_normal([CONTROL] * dims), points, mode="nearest") for _ in size])
    field = sum(each / np.sqrt(np.square(each).sum(0).mean()) for each in (shift, turn, bend))
    return (field / np.sqrt(np.square(field).sum(0)).mean()).astype(np.float32)
