"""A data source that misaligns the training pairs of another source, to measure how much a method
loses by that.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial
from typing import Annotated

import numpy as np
from pydantic import Field

from gantk import ImageSource, Record
from gantk.data.split import SplitTable, split_records
from gantk.errors import UserError
from gantk.plugin.spec import Seed, Source

Pixels = Annotated[float, Field(ge=0, le=256)]
CONTROL_POINTS = 4  # points along each side at which the smooth part of a field is drawn


class Misaligned(ImageSource):
    """Registered pairs of another source, in which the second image of each training pair is
    shifted, rotated and bent.

    Each pair has its own displacement field with a mean length of `pixels`, the same in every epoch
    and for every method. Validation and test images are unchanged. This source splits the records
    itself, like data.split with its defaults. Do not use `folds` or a split file, which would
    replace that split.
    """

    def __init__(
        self,
        domains: tuple[str, ...],
        dims: int,
        size: tuple[int, ...],
        *,
        source: Source = "phantom",  # source of the pairs, such as { name = "files", path = "scans" }
        pixels: Pixels = 4.0,  # mean displacement, in pixels of data.size; 0: none
        seed: Seed = 0,  # seed of the displacement fields
    ):
        self.parts = [source(domains, dims, size)]
        self.size = tuple(size)
        self.pixels = pixels
        self.seed = seed

    def records(self) -> list[Record]:
        """The records of the wrapped source with their splits; UserError where it has no registered
        pairs.
        """
        found = self.parts[0].records()
        if not any(record.pair and record.domain == "b" for record in found):
            raise UserError(
                "'misaligned' moves the second image of registered pairs, but its source has no"
                " pairs",
                where="data.source.source",
                remedy="use a source with pairs, such as 'phantom'",
            )

        sets, _ = split_records(found, SplitTable())
        return [self._in(name, record) for name, records in sets.items() for record in records]

    def _in(self, name: str, one: Record) -> Record:
        one = replace(one, split=name)
        if name != "train" or one.domain != "b" or not self.pixels:
            return one

        warped = partial(self._warp_image, one.pair or one.key)
        mask = one.mask and partial(warped, one.mask, 1)
        return replace(one, read=partial(warped, one.read, 3), mask=mask, file=None)

    def _warp_image(self, key: str, read, order: int) -> np.ndarray:
        """Read (C, *spatial) and warp it by the field drawn for `key`, by splines of `order`, edges
        repeated.

        Images by cubic ones: linear interpolation blurs targets, which alone costs a network 0.7
        dB, wherever they lie.
        """
        from scipy.ndimage import map_coordinates

        image = read()
        scale = max(side / shown for side, shown in zip(image.shape[1:], self.size, strict=True))
        rng = np.random.default_rng([self.seed, *hashlib.sha256(key.encode()).digest()[:8]])
        field = self.pixels * scale * drawn_field(rng, image.shape[1:])
        places = np.indices(image.shape[1:], dtype=np.float32) + field
        moved = [map_coordinates(each, places, order=order, mode="nearest") for each in image]
        return np.stack(moved).astype(np.float32)


def drawn_field(rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    """Draw a displacement field (dims, *size) of mean length 1 pixel: shift, turn and smooth bend
    in equal parts.

    The turn is about the middle; a volume is turned about one axis, drawn at random.
    """
    from scipy.ndimage import map_coordinates

    dims = len(size)
    middle = np.mgrid[tuple(slice((1 - side) / 2, side / 2) for side in size)]
    shift = np.broadcast_to(rng.standard_normal(dims).reshape(-1, *[1] * dims), middle.shape)
    one, other = rng.permutation(dims)[:2]
    turn = np.zeros_like(middle)
    turn[one] = middle[other]
    turn[other] = -middle[one]
    points = np.mgrid[tuple(slice(0, CONTROL_POINTS - 1, side * 1j) for side in size)]
    bend = np.stack(
        [
            map_coordinates(rng.standard_normal([CONTROL_POINTS] * dims), points, mode="nearest")
            for _ in size
        ]
    )
    field = sum(each / np.sqrt(np.square(each).sum(0).mean()) for each in (shift, turn, bend))
    return (field / np.sqrt(np.square(field).sum(0)).mean()).astype(np.float32)
