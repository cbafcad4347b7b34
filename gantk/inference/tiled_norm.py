"""An image through a network in tiles whose norms take the whole image's statistics, gathered pass by pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from gantk.inference.layer_trace import Call, Traced, Unfit
from gantk.inference.receptive_field import Requirements, SmallMaps, Split, TileAnswers, sides
from gantk.inference.windows import Tile
from gantk.nets.kernels import CHANNELS_LAST
from gantk.nets.statistics import Moments, moments, normalised


class TiledNorms(TileAnswers):
    """An image (1, C, *size) through a network in tiles of `window` pixels a side: `run()` is (1, D, *size), float32.

    A pass runs every tile up to the first layer that needs to know more of the image than a tile shows: the statistics
    of a norm, or a small map that is made of large ones. The inner parts of the tiles bring it, and the next pass goes
    on behind it. The last one goes to the end. `batch` tiles go at once.
    """

    def __init__(
        self, needs: Requirements, split: Split, image: Tensor, parts: Sequence[Tile], window: Sequence[int], batch: int
    ):
        super().__init__(needs.calls, split, window)
        self.traced: Traced = needs.traced
        self.place, self.image, self.parts, self.batch = needs.place, image, parts, batch
        self.whole = SmallMaps(needs.calls, split.level, tuple(image.shape[2:]))
        self.moments: dict[int, Moments] = {}  # of norms, by the number of their call
        self.target: int | None = None  # the call that makes the small map to be gathered next
        self.now: Sequence[Tile] = ()  # the tiles of this call
        self.found: tuple[int, Moments | Tensor] | None = None  # what this pass gathers

    def run(self) -> Tensor:
        """All passes; Unfit where the network takes another course than when it was tried."""
        self._small_maps()
        norms = sum(call.groups is not None and not self.split.small(call) for call in self.calls)
        for _ in range(norms + len(self.split.gathered) + 1):
            output = self._pass()
            if output is not None:
                return output
            number, gathered = self.found
            if number == self.target:
                self.whole.gathered[number] = gathered
                self._small_maps()
            else:
                self.moments[number] = gathered
        raise Unfit("its layers come in another order each time")

    def _small_maps(self) -> None:
        """Compute the small maps for the whole image, as far as they can be."""
        if self.split.level < math.inf:
            self.target = self.whole.run(self.traced, self.image.shape[1])
            if self.target is None:
                self.whole.gathered.clear()  # all that is needed of them is in the crops

    def _pass(self) -> Tensor | None:
        """The output; None: `found` holds what the pass gathered instead."""
        self.found, output = None, None
        for first in range(0, len(self.parts), self.batch):
            self.now = self.parts[first : first + self.batch]
            self.rows = len(self.now)
            try:
                made = self.traced(self.place(torch.cat([self.image[(..., *tile.box)] for tile in self.now])), self)
            except _Reached:
                continue
            made = made.float().cpu().numpy()
            output = np.zeros((1, made.shape[1], *self.image.shape[2:]), np.float32) if output is None else output
            for tile, part in zip(self.now, made, strict=True):
                tile.write(output[0], part, blended=False)
        return None if output is None else torch.from_numpy(output)

    def crop(self, number: int, place: int, arg: Tensor) -> Tensor:
        crop = self.whole.crops.get((number, place))
        if crop is None:
            return arg
        factors = self.split.crops[number, place]
        return torch.cat([crop[(..., *tile.scaled(factors))] for tile in self.now])

    def gather(self, number: int, call: Call, made: Callable[[], Tensor]) -> None:
        if number != self.target:
            return
        y = made()
        if self.found is None:
            last = CHANNELS_LAST[y.ndim - 2]
            form = last if y.is_contiguous(memory_format=last) else torch.contiguous_format
            shape = (1, y.shape[1], *sides(self.whole.size, call))
            self.found = number, torch.empty(shape, dtype=y.dtype, device=y.device, memory_format=form)
        for tile, inner in zip(self.now, self._inner(call, y), strict=True):
            self.found[1][(0, slice(None), *tile.scaled(call.factors, inner=True))] = inner[0]
        raise _Reached

    def norm(self, number: int, call: Call, x: Tensor) -> Tensor:
        if number in self.moments:
            return normalised(call.part, x, self.moments[number])
        for inner in self._inner(call, x):
            part = moments(inner, call.groups)
            self.found = number, part if self.found is None else self.found[1] + part
        raise _Reached

    def _inner(self, call: Call, x: Tensor) -> Iterator[Tensor]:
        if len(x) != len(self.now):
            raise Unfit(f"{type(call.part).__name__} sees {len(x)} images where there are {len(self.now)}")
        for tile, image in zip(self.now, x.split(1), strict=True):
            yield image[(..., *tile.within(call.factors))]


class _Reached(Exception):
    """A tile has come as far as what is known takes it."""
