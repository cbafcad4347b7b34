"""Images of any size through a network: whole where memory allows, else in tiles that agree with the whole image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from gantk.inference.receptive_field import Call, Requirements, SmallMaps, Split, Stop, TileAnswers, Unfit
from gantk.inference.windows import Tile, by_windows, padded, tiles
from gantk.machine.runtime import Runtime
from gantk.method import Method
from gantk.nets.kernels import CHANNELS_LAST
from gantk.nets.statistics import Moments, moments, normalised
from gantk.recipe.tables import Model

DEAREST = 4096  # bytes a voxel, more than any network here needs: what then fits into memory goes whole, unmeasured
SHARE = 0.75  # of the memory, at most, for the small maps of the whole image
TOO_OFTEN = 8  # times that a voxel is computed in each pass; rather than more, tiles take more memory


@dataclass(frozen=True)
class Plan:
    """How images of one size go through a network."""

    size: tuple[int, ...]  # of the images, brought to a multiple of what the network takes
    window: tuple[int, ...]  # sides of a tile; the image's where it goes whole
    batch: int = 1  # images or tiles at once
    split: Split | None = None  # which maps are computed for the whole image
    alone: str = ""  # why each window is on its own, with its own statistics; "": it is not


class Tiling:
    """A function that runs a network, for images of any size: (N, C, *size) to (N, D, *size), float32, on the host.

    Tiles give what the whole image gives, to rounding, where instance or group norms are in the network too: an
    instance norm over one tile knows its brightness and contrast only, and neighbours then differ. It takes passes over
    the tiles: in each, the statistics of one more norm are gathered (Chan, Golub and LeVeque 1983), and with them known
    the next one's are right. Small maps, deep inside the network, are computed for the whole image at once, so that
    their statistics take no passes, and tiles need no wide surroundings to be right.

    What the network takes, how far it sees and how much memory it needs is measured by trying it, once a `Tiling`. One
    that cannot be taken apart (its layers come in another order each time) goes by windows on their own, or whole.

    Args:
        function: placed images (n, C, *size) to (n, D, *size); it runs layers of `module`, in the same order each time.
        module: a network or a method, in eval mode.
        window: sides of a tile, which the network takes; None: as large as memory allows.
        statistics: "image" as said above, or "window": each window on its own, blended, as a training on patches is.
        overlap: share of a window's side that the next one covers too, where windows are on their own.
        batch: images or tiles per call, at most.
        memory: bytes that a call may need beside the network's weights and the images themselves.
        level: maps of at most 1/level of the image's voxels are computed whole; None: as memory allows; inf: none.
        place: brings images to where the network is: device, memory format.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        module: nn.Module,
        *,
        window: tuple[int, ...] | None = None,
        statistics: Literal["image", "window"] = "image",
        overlap: float = 0.25,
        batch: int = 16,
        memory: int = 1 << 30,
        level: float | None = None,
        place: Callable[[Tensor], Tensor] = lambda x: x,
    ):
        if statistics == "window" and window is None:
            raise ValueError("statistics of each window need a window")
        self.function, self.module, self.window = function, module, window and tuple(window)
        self.statistics, self.overlap, self.batch = statistics, overlap, batch
        self.memory, self.level, self.place = memory, level, place
        self._needs: Requirements | None = None
        self._plans: dict[tuple[int, ...], Plan] = {}

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        plan = self.plan(tuple(images.shape[1:]))
        framed, inside = padded(images.cpu(), plan.size)
        if plan.alone and plan.window != plan.size:
            run = lambda part: self._run(torch.from_numpy(part)).numpy()  # noqa: E731
            done = torch.from_numpy(by_windows(framed.numpy(), plan.window, self.overlap, run, plan.batch))
        elif plan.split is None:
            done = torch.cat([self._run(part) for part in framed.split(plan.batch)])
        else:
            done = torch.cat([_TilePasses(self._needs, plan, image).run() for image in framed.split(1)])
        return done[(..., *inside)]

    def _run(self, images: Tensor) -> Tensor:
        return self.function(self.place(images)).float().cpu()

    @torch.no_grad()
    def plan(self, shape: tuple[int, ...]) -> Plan:
        """How images of this shape, (C, *size), go through the network."""
        if shape not in self._plans:
            try:
                self._plans[shape] = self._planned(shape[0], shape[1:])
            except Unfit as error:
                window = self.window or shape[1:]
                self._plans[shape] = Plan(tuple(map(max, shape[1:], window)), window, self.batch, alone=str(error))
        return self._plans[shape]

    def _planned(self, channels: int, size: tuple[int, ...]) -> Plan:
        if self.statistics == "window":
            raise Unfit("as asked for")
        if self._needs is None or self._needs.channels != channels:
            self._needs = Requirements(self.function, self.module, channels, len(size), self.place)
        needs = self._needs
        steps = zip(size, needs.base, needs.multiple, strict=True)
        size = tuple(-(-max(side, least) // step) * step for side, least, step in steps)
        voxels = math.prod(size)
        for each in (DEAREST, needs.bytes_per_voxel) if voxels * DEAREST > self.memory else (DEAREST,):
            if voxels * each <= self.memory or size == self.window:
                return Plan(size, size, max(1, min(self.batch, int(self.memory / (voxels * each)))))
        return self._in_tiles(size)

    def _in_tiles(self, size: tuple[int, ...]) -> Plan:
        """Split at the lowest level that memory allows: the lower, the fewer passes, the narrower what is around."""
        needs, voxels = self._needs, math.prod(size)
        for level in needs.levels if self.level is None else [self.level]:
            try:
                split = needs.split(level)
            except Unfit:
                if self.level is not None or level == math.inf:
                    raise
                continue
            if split.bytes_per_voxel * voxels <= SHARE * self.memory:
                break
        room, around = self.memory - split.bytes_per_voxel * voxels, _around(needs, split)
        if self.window is None:
            window = self._window(size, around, room)
        else:
            window = (-(-part // step) * step for part, step in zip(self.window, needs.multiple, strict=True))
            window = tuple(map(min, window, size))
            if any(part <= rim and part < side for part, rim, side in zip(window, around, size, strict=True)):
                raise Unfit("the network sees farther than a window")
        batch = int(room // (needs.bytes_per_voxel * math.prod(window)))
        return Plan(size, window, max(1, min(self.batch, batch)), None if window == size else split)

    def _window(self, size: tuple[int, ...], around: tuple[int, ...], room: float) -> tuple[int, ...]:
        """The sides of a tile: as large as `room`, bytes for a call of the network, allows, but not all rim."""
        multiple, window, counts = self._needs.multiple, list(size), [1] * len(size)
        while math.prod(window) * self._needs.bytes_per_voxel > room:
            axis = max(range(len(size)), key=lambda a: (window[a] - around[a]) / multiple[a])
            counts[axis] += 1
            side = -(-(size[axis] + (counts[axis] - 1) * around[axis]) // counts[axis])
            smaller = [*window]
            smaller[axis] = -(-side // multiple[axis]) * multiple[axis]
            inner = [part - rim * (part < full) for part, full, rim in zip(smaller, size, around, strict=True)]
            if counts[axis] > size[axis] or min(inner) <= 0 or math.prod(smaller) > TOO_OFTEN * math.prod(inner):
                break
            window = smaller
        return tuple(window)


def _around(needs: Requirements, split: Split) -> tuple[int, ...]:
    """Pixels of a tile, along each axis, that are there for its inner part's sake; neighbours share them."""
    return tuple(2 * -(-far // step) * step for far, step in zip(split.reach, needs.align(split), strict=True))


class _TilePasses(TileAnswers):
    """An image (1, C, *size) through a network in tiles: `run()` is (1, D, *size), float32.

    A pass runs every tile up to the first layer that needs to know more of the image than a tile shows: the statistics
    of a norm, or a small map that is made of large ones. The inner parts of the tiles bring it, and the next pass goes
    on behind it. The last one goes to the end.
    """

    def __init__(self, needs: Requirements, plan: Plan, image: Tensor):
        super().__init__(needs, plan.split, plan.window)
        self.image, self.batch = image, plan.batch
        self.parts = tiles(plan.size, plan.window, _around(needs, plan.split), needs.align(plan.split))
        self.whole = SmallMaps(needs, plan.split.level, plan.size)
        self.moments: dict[int, Moments] = {}  # of norms, by the number of their call
        self.target: int | None = None  # the call that makes the small map to be gathered next
        self.now: Sequence[Tile] = ()  # the tiles of this call
        self.found: tuple[int, Moments | Tensor] | None = None  # what this pass gathers

    def run(self) -> Tensor:
        """All passes; Unfit where the network takes another course than when it was tried."""
        self._small_maps()
        for _ in range(len(self.needs.calls) + 1):
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
            self.target = self.whole.run()
            if self.target is None:
                self.whole.gathered.clear()  # all that is needed of them is in the crops

    def _pass(self) -> Tensor | None:
        """The output; None: `found` holds what the pass gathered instead."""
        self.found, output = None, None
        for first in range(0, len(self.parts), self.batch):
            self.now = self.parts[first : first + self.batch]
            self.rows = len(self.now)
            placed = self.needs.place(torch.cat([self.image[(..., *tile.box)] for tile in self.now]))
            try:
                made = self.needs.run(placed, self).float().cpu().numpy()
            except Stop:
                continue
            output = np.zeros((1, made.shape[1], *self.image.shape[2:]), np.float32) if output is None else output
            for tile, part in zip(self.now, made, strict=True):
                output[(0, slice(None), *tile.inner)] = part[(..., *tile.within([1] * len(tile.box)))]
        return None if output is None else torch.from_numpy(output)

    def crop(self, number: int, place: int, arg: Tensor) -> Tensor:
        if (number, place) not in self.whole.crops:
            return arg
        crop, factors = self.whole.crops[number, place], self.split.crops[number, place]
        return torch.cat([crop[(..., *tile.scaled(factors))] for tile in self.now])

    def gather(self, number: int, call: Call, made: Callable[[], Tensor]) -> None:
        if number != self.target:
            return
        y = made()
        if self.found is None:
            last = CHANNELS_LAST[y.ndim - 2]
            form = last if y.is_contiguous(memory_format=last) else torch.contiguous_format
            shape = (1, y.shape[1], *call.sides(self.whole.size))
            self.found = number, torch.empty(shape, dtype=y.dtype, device=y.device, memory_format=form)
        for tile, inner in zip(self.now, self._inner(call, y), strict=True):
            self.found[1][(..., *tile.scaled(call.factors, inner=True))] = inner
        raise Stop

    def norm(self, number: int, call: Call, x: Tensor) -> Tensor:
        if number in self.moments:
            return normalised(call.layer, x, self.moments[number])
        for inner in self._inner(call, x):
            part = moments(inner, call.groups)
            self.found = number, part if self.found is None else self.found[1] + part
        raise Stop

    def _inner(self, call: Call, x: Tensor) -> list[Tensor]:
        if len(x) != len(self.now):
            raise Unfit(f"{type(call.layer).__name__} sees {len(x)} images where there are {len(self.now)}")
        return [part[(..., *tile.within(call.factors))] for tile, part in zip(self.now, x.split(1), strict=True)]


def whole_images(
    network: Callable[[Tensor], Tensor], method: Method, model: Model, runtime: Runtime
) -> Callable[[Tensor], Tensor]:
    """What runs `network`, which uses layers of `method`, on (N, C, *size): (N, D, *size), float32, on the host.

    Images of the size that the method was trained at go straight through, others by `Tiling`. The recipe's [translate]
    table says how many go at once, how much memory they may need, and what norms take their statistics of.
    """
    table, size = model.translate, tuple(method.geometry.size)
    place = partial(runtime.place, dims=model.data.dims)

    def straight(images: Tensor) -> Tensor:
        with runtime.autocast():
            return network(images)

    tiling = Tiling(
        straight,
        method,
        window=size if table.statistics == "window" else None,
        statistics=table.statistics,
        overlap=table.overlap,
        batch=table.batch,
        memory=int(table.memory * 2**30),
        place=place,
    )

    @torch.no_grad()
    def run(images: Tensor) -> Tensor:
        if tuple(images.shape[2:]) != size:
            return tiling(images)
        return torch.cat([straight(place(part)).float().cpu() for part in images.split(table.batch)])

    return run
