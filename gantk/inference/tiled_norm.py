"""One image through a network in tiles, pass by pass, until all that a tile must know of the whole image is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from gantk.inference.layer_trace import Call, Unfit, Watched
from gantk.inference.split_network import Cut, Place, Whole, checked, unknown
from gantk.inference.windows import Tile
from gantk.nets.kernels import CHANNELS_LAST
from gantk.nets.statistics import Moments, moments, normalised


class _Reached(Exception):
    """A tile has come as far as what is known takes it."""


class Passes:
    """An image (1, C, *size) on the host through a network, in tiles: `run()` gives (1, D, *size), float32.

    A pass runs every tile up to the first layer that needs to know more of the image than a tile shows: the statistics
    of a norm, or a small map that is made of large ones. The inner parts of the tiles bring it, and the next pass goes
    on behind it. The last one goes to the end.

    Args:
        parts: the tiles, `window` pixels a side.
        cut: which maps are computed for the whole image.
        exact: whether the inner parts are right, and just have to be laid side by side; else tiles are blended.
        batch: tiles per call.
        progress: told the share that is done, 0 to 1.
    """

    def __init__(
        self, watched: Watched, calls: Sequence[Call], cut: Cut, image: Tensor, parts: Sequence[Tile],
        window: tuple[int, ...], *, exact: bool, batch: int, place: Place, progress: Callable[[float], None],
    ):  # fmt: skip
        self.watched, self.calls, self.cut, self.image = watched, calls, cut, image
        self.parts, self.window, self.exact, self.batch = parts, window, exact, batch
        self.place, self.progress = place, progress
        self.size = tuple(image.shape[2:])
        self.moments: dict[int, Moments] = {}  # of norms, by the number of their call
        self.whole = Whole(calls, cut.level, self.size)
        self.target: int | None = None  # the call that makes the small map to be gathered next
        self.now: Sequence[Tile] = ()  # what a call sees
        self.found: tuple[int, Moments | Tensor] | None = None  # what this pass gathers
        norms = sum(call.groups is not None and not cut.small(call) for call in calls)
        self.passes = norms + len(cut.gathered) + 1

    def run(self) -> Tensor:
        self._see()
        for turn in range(self.passes):
            output = self._pass(turn)
            if output is not None:
                return output
            number, gathered = self.found
            if number == self.target:
                self.whole.gathered[number] = gathered
                self._see()
            else:
                self.moments[number] = gathered
        raise Unfit("its layers come in another order each time")

    def _see(self) -> None:
        """Compute the small maps for the whole image, as far as they can be."""
        if self.cut.level < math.inf:
            self.target = self.whole.run(self.watched, self.image.shape[1])
            if self.target is None:
                self.whole.gathered.clear()  # all that is needed of them is in the crops

    def _pass(self, turn: int) -> Tensor | None:
        """The output; None: `found` holds what the pass gathered instead."""
        self.found, output = None, None
        for first in range(0, len(self.parts), self.batch):
            self.now = self.parts[first : first + self.batch]
            try:
                done = self.watched(self.place(torch.cat([self.image[(..., *t.box)] for t in self.now])), self._answer)
            except _Reached:
                done = None
            if done is not None:
                done = done.float().cpu()
                output = done.new_zeros(1, done.shape[1], *self.size) if output is None else output
                self._put(output[0], done)
            self.progress((turn + (first + len(self.now)) / len(self.parts)) / self.passes)
        return output

    def _put(self, output: Tensor, done: Tensor) -> None:
        ones = (1,) * len(self.size)
        for tile, part in zip(self.now, done, strict=True):
            if self.exact:
                output[(..., *tile.inner)] = part[(..., *tile.within(ones))]
            else:
                for axis, weights in enumerate(tile.weights):
                    part = part * weights.reshape(-1, *ones[axis + 1 :])
                output[(..., *tile.box)] += part

    def _answer(self, number: int, part: nn.Module, forward: Callable, args: tuple) -> Tensor:
        call = checked(self.calls, number, part)
        if call.factors is None:
            return forward(*args)
        args = tuple(self._cropped(number, place, arg) for place, arg in enumerate(args))
        if number == self.target:
            self._gather(number, call, forward(*args))
            raise _Reached
        over = self.cut.idle and self.target is None and number < self.cut.gathered[-1]
        if over or self.cut.small(call):
            return unknown(call, len(self.now), self.window, args)
        if call.groups is None:
            return forward(*args)
        if number not in self.moments:
            self._sum(number, call, args[0])
            raise _Reached
        return normalised(part, args[0], self.moments[number])

    def _cropped(self, number: int, place: int, arg: object) -> object:
        """An argument, or, in the stead of a small map, what the tiles see of the whole image's."""
        if (number, place) not in self.whole.crops:
            return arg
        factors, crop = self.cut.crops[number, place], self.whole.crops[number, place]
        return torch.cat([crop[(..., *tile.scaled(factors))] for tile in self.now])

    def _gather(self, number: int, call: Call, y: Tensor) -> None:
        """The tiles' inner parts of a small map, put together."""
        if self.found is None:
            sides = [side // factor for side, factor in zip(self.size, call.factors, strict=True)]
            last = CHANNELS_LAST[y.ndim - 2]
            form = last if y.is_contiguous(memory_format=last) else torch.contiguous_format
            empty = torch.empty((1, y.shape[1], *sides), dtype=y.dtype, device=y.device, memory_format=form)
            self.found = number, empty
        for tile, inner in zip(self.now, self._inner(call, y), strict=True):
            self.found[1][(0, slice(None), *tile.scaled(call.factors, inner=True))] = inner[0]

    def _sum(self, number: int, call: Call, x: Tensor) -> None:
        """The tiles' inner parts of a norm's input, summed."""
        for inner in self._inner(call, x):
            part = moments(inner, call.groups)
            self.found = number, part if self.found is None else self.found[1] + part

    def _inner(self, call: Call, x: Tensor) -> Iterator[Tensor]:
        if len(x) != len(self.now):
            raise Unfit(f"{type(call.part).__name__} sees {len(x)} images where there are {len(self.now)}")
        for tile, image in zip(self.now, x.split(1), strict=True):
            yield image[(..., *tile.within(call.factors))]
