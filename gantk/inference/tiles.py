"""Images of any size through a network: whole where memory allows, else in tiles that agree with the whole image."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from gantk.inference.layer_trace import Traced, Unfit
from gantk.inference.receptive_field import Requirements, Split
from gantk.inference.tiled_norm import TiledNorms
from gantk.inference.windows import by_windows, padded, tiles
from gantk.machine.runtime import Runtime
from gantk.method import Method
from gantk.recipe.tables import Model

DEAREST = 4096  # bytes a voxel, more than any network here needs: what then fits into memory goes whole, unmeasured
SHARE = 0.75  # of the memory, at most, for the small maps of the whole image
TOO_OFTEN = 8  # times that a voxel is computed in each pass; rather than more, tiles take more memory


@dataclass(frozen=True)
class Plan:
    """How images of one size go through a network; `str` says it in a line."""

    size: tuple[int, ...]  # of the images, brought to a multiple of what the network takes
    window: tuple[int, ...]  # sides of a tile
    split: Split | None = None  # which maps are computed for the whole image
    alone: str = ""  # why each window is on its own, with its own statistics; "": it is not

    @property
    def whole(self) -> bool:
        """Whether images go as they are."""
        return self.size == self.window

    def __str__(self) -> str:
        size, window = (" x ".join(map(str, each)) for each in (self.size, self.window))
        if self.whole:
            return f"whole images of {size}"
        if self.alone:
            return f"windows of {window}, each on its own: {self.alone}"
        small = f", maps of 1/{self.split.level:.0f} of the voxels whole" if self.split.level < math.inf else ""
        return f"tiles of {window} with {' x '.join(map(str, self.split.reach))} around{small}: as the whole image"


class Tiling:
    """A network made fit for images of any size: `Tiling(function, module)(images)`.

    (N, C, *size) to (N, D, *size), float32 on the host: what `function` makes of each image as a whole, brought to a
    multiple of what the network takes by reflection. Where an image does not fit into `memory`, it goes in tiles; norms
    take their statistics of the whole image, so that tiles agree: instance norm over one tile knows its brightness and
    contrast only, and neighbours then differ. It takes passes over the tiles: in each, the statistics of one more norm
    are gathered (Chan, Golub and LeVeque 1983), and with them known the next one's are right. Small maps, deep inside
    the network, are computed for the whole image at once, so that their statistics take no passes, and tiles need no
    wide surroundings to be right.

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
        self.traced = Traced(function, module)
        self.window, self.statistics, self.overlap = window and tuple(window), statistics, overlap
        self.batch, self.memory, self.level, self.place = batch, memory, level, place
        self._needs: Requirements | None = None
        self._plans: dict[tuple[int, ...], Plan] = {}

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        plan = self.plan(tuple(images.shape[1:]))
        images, inside = padded(images.cpu(), plan.size)
        if plan.whole:
            done = self._whole(images)
        elif plan.alone:
            run = lambda part: self._run(torch.from_numpy(part)).numpy()  # noqa: E731
            done = torch.from_numpy(by_windows(images.numpy(), plan.window, self.overlap, run, self.batch))
        else:
            done = torch.cat([self._tiled(image, plan) for image in images.split(1)])
        return done[(..., *inside)]

    @torch.no_grad()
    def plan(self, shape: tuple[int, ...]) -> Plan:
        """How images of this shape, (C, *size), go through the network."""
        if shape not in self._plans:
            try:
                self._plans[shape] = self._planned(shape[0], shape[1:])
            except Unfit as error:
                window = self.window or shape[1:]
                self._plans[shape] = Plan(tuple(map(max, shape[1:], window)), window, alone=str(error))
        return self._plans[shape]

    def _planned(self, channels: int, size: tuple[int, ...]) -> Plan:
        if size == self.window:
            return Plan(size, size)
        if self.statistics == "window":
            raise Unfit("as asked for")
        if self._needs is None or self._needs.channels != channels:
            self._needs = Requirements(self.traced, channels, len(size), self.place)
        needs = self._needs
        steps = zip(size, needs.base, needs.multiple, strict=True)
        size = tuple(-(-max(side, least) // step) * step for side, least, step in steps)
        voxels = math.prod(size)
        if voxels * DEAREST <= self.memory or voxels * needs.bytes_per_voxel <= self.memory:
            return Plan(size, size)
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
        around = self._around(split)
        if self.window is None:
            return Plan(size, self._window(size, around, self.memory - split.bytes_per_voxel * voxels), split)
        window = (-(-part // step) * step for part, step in zip(self.window, needs.multiple, strict=True))
        window = tuple(map(min, window, size))
        if any(part <= rim and part < side for part, rim, side in zip(window, around, size, strict=True)):
            raise Unfit("the network sees farther than a window")
        return Plan(size, window, split)

    def _around(self, split: Split) -> tuple[int, ...]:
        """Pixels of a tile, along each axis, that are there for its inner part's sake; neighbours share them."""
        align = self._needs.align(split)
        return tuple(2 * -(-far // step) * step for far, step in zip(split.reach, align, strict=True))

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

    def _tiled(self, image: Tensor, plan: Plan) -> Tensor:
        needs, split = self._needs, plan.split
        parts = tiles(plan.size, plan.window, self._around(split), needs.align(split))
        room = self.memory - split.bytes_per_voxel * math.prod(plan.size)
        batch = min(max(room // (needs.bytes_per_voxel * math.prod(plan.window)), 1), self.batch)
        return TiledNorms(needs, split, image, parts, plan.window, int(batch)).run()

    def _whole(self, images: Tensor) -> Tensor:
        voxels = math.prod(images.shape[2:])
        known = self._needs is not None and voxels * DEAREST > self.memory
        each = voxels * (self._needs.bytes_per_voxel if known else DEAREST)
        count = max(1, min(self.batch, int(self.memory / max(each, 1))))
        return torch.cat([self._run(part) for part in images.split(count)])

    def _run(self, images: Tensor) -> Tensor:
        return self.traced(self.place(images)).float().cpu()


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
