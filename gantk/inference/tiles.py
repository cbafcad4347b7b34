"""Images of any size through a network: whole where memory allows, else in tiles that agree with the whole."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from gantk.inference.layer_trace import Unfit, Watched
from gantk.inference.receptive_field import Needs
from gantk.inference.split_network import Cut
from gantk.inference.tiled_norm import Passes
from gantk.inference.windows import by_windows, padded, tiles

DEAREST = 4096  # bytes a voxel, more than any network here needs: what then fits into memory goes whole, unmeasured
SHARE = 0.75  # of the memory, at most, for the small maps of the whole image
TOO_OFTEN = 8  # times that a voxel is computed in each pass, where blending does better


@dataclass(frozen=True)
class Plan:
    """How images of one size go through a network; `str` says it in a line.

    Args:
        size: of the images, brought to a multiple of what the network takes.
        window: sides of a tile.
        halo: pixels that a tile sees around the part of the image that it answers for.
        cut: which maps are computed for the whole image.
        exact: whether the halo covers all that the network sees, so that tiles give what the whole image gives.
        alone: why each window is on its own, with its own statistics; "": it is not.
    """

    size: tuple[int, ...]
    window: tuple[int, ...]
    halo: tuple[int, ...] = ()
    cut: Cut | None = None
    exact: bool = True
    alone: str = ""

    @property
    def whole(self) -> bool:
        """Whether images go as they are."""
        return self.size == self.window

    def __str__(self) -> str:
        if self.whole:
            return f"whole images of {_times(self.size)}"
        if self.alone:
            return f"windows of {_times(self.window)}, each on its own: {self.alone}"
        small = f", maps of 1/{self.cut.level:.0f} of the voxels whole" if self.cut.level < math.inf else ""
        agree = "as the whole image" if self.exact else "blended, because the network sees farther"
        return f"tiles of {_times(self.window)} with {_times(self.halo)} around{small}: {agree}"


def _times(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))


def room(device: torch.device) -> int:
    """Bytes for a `Tiling`'s memory: half of what a GPU has free, 1 GiB on other devices."""
    return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else 1 << 30


class Tiling:
    """A network made fit for images of any size: `Tiling(function, module)(images)`.

    (N, C, *size) to (N, D, *size), float32 on the host: what `function` gives for each image as a whole, brought to a
    multiple of what the network takes by reflection. Where an image does not fit into `memory`, it goes in tiles; norms
    take their statistics from the whole image, so that tiles agree: instance norm over one tile knows its brightness
    and contrast only, and neighbours then differ. It takes passes over the tiles: in each, the statistics of one more
    norm are gathered (Chan, Golub and LeVeque 1983), and with them known the next one's are right. Small maps, deep
    inside the network, are computed for the whole image at once, so that their statistics take no passes, and tiles
    need no wide surroundings to be right.

    What the network takes, how far it sees and how much memory it needs is measured by trying it, once a `Tiling`.
    One that cannot be taken apart (its layers come in another order each time) goes by windows on their own.

    Args:
        function: placed images (n, C, *size) to (n, D, *size); it runs layers of `module`, in the same order each time.
        module: a network or a method, in eval mode.
        window: sides of a tile, which the network takes; None: as large as memory allows.
        statistics: "image" as said above, or "window": each window on its own, blended, as a training on patches is.
        overlap: share of a window's side that the next one covers too, where tiles are blended.
        batch: images or tiles per call, at most.
        memory: bytes that a call may need beside the network's weights and the images themselves.
        level: maps of at most 1/level of the image's voxels are computed whole; None: as memory allows; inf: none.
        place: brings images to where the network is: device, memory format.
        progress: told the share of the images that is done, 0 to 1.
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
        progress: Callable[[float], None] = lambda share: None,
    ):
        if statistics == "window" and window is None:
            raise ValueError("statistics of each window need a window")
        self.watched = Watched(function, module)
        self.window, self.statistics, self.overlap = window and tuple(window), statistics, overlap
        self.batch, self.memory, self.level = batch, memory, level
        self.place, self.progress = place, progress
        self._needs: Needs | None = None
        self._plans: dict[tuple[int, ...], Plan] = {}

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        plan = self.plan(tuple(images.shape[1:]))
        images, inside = padded(images, plan.size)
        if plan.alone and not plan.whole:
            done = by_windows(images, plan.window, self.overlap, self._run, self.batch)
        elif plan.whole:
            done = self._whole(images)
        else:
            done = torch.cat([self._tiled(image, plan, n, len(images)) for n, image in enumerate(images.split(1))])
        return done[(..., *inside)]

    @torch.no_grad()
    def plan(self, shape: tuple[int, ...]) -> Plan:
        """How images of this shape, (C, *size), go through the network."""
        if shape not in self._plans:
            self._plans[shape] = self._planned(shape[0], shape[1:])
        return self._plans[shape]

    def _planned(self, channels: int, size: tuple[int, ...]) -> Plan:
        if size == self.window:
            return Plan(size, size)
        if self.statistics == "window":
            return self._alone(size, "as asked for")
        if self._needs is None or self._needs.channels != channels:
            self._needs = Needs(self.watched, channels, len(size), self.place)
        needs = self._needs
        try:
            steps = zip(size, needs.base, needs.multiple, strict=True)
            size = tuple(-(-max(side, least) // step) * step for side, least, step in steps)
            voxels = math.prod(size)
            if voxels * DEAREST <= self.memory or voxels * needs.bytes_per_voxel <= self.memory:
                return Plan(size, size)
            return self._in_tiles(size)
        except Unfit as error:
            return self._alone(size, str(error))

    def _alone(self, size: tuple[int, ...], why: str) -> Plan:
        window = self.window or size
        return Plan(tuple(map(max, size, window)), window, alone=why)

    def _in_tiles(self, size: tuple[int, ...]) -> Plan:
        """The cut at the lowest level that memory allows: the lower, the fewer passes, the narrower the halo."""
        needs, voxels = self._needs, math.prod(size)
        for level in needs.levels if self.level is None else [self.level]:
            try:
                cut, far = needs.cut(level)
            except Unfit:
                if self.level is not None or level == math.inf:
                    raise
                continue
            if cut.bytes_per_voxel * voxels <= SHARE * self.memory:
                break
        align = cut.align(needs.calls)
        room = self.memory - cut.bytes_per_voxel * voxels
        window = self._window(size, far or (0,) * len(size), align, room)
        wide = far is not None and self._covers(size, window, far, align)
        if not wide:
            parts = zip(window, align, strict=True)
            far = tuple(min(int(part * self.overlap / 2), (part - step) // 2 // step * step) for part, step in parts)
        return Plan(size, window, far, cut, exact=wide)

    def _covers(self, size: tuple, window: tuple, halo: tuple, align: tuple) -> bool:
        """Whether tiles have room for the halo and, where we chose their size, enough room inside it."""
        inner = [
            part if part == side else part - 2 * -(-rim // step) * step
            for part, side, rim, step in zip(window, size, halo, align, strict=True)
        ]
        if any(part < step for part, step in zip(inner, align, strict=True)):
            return False
        return self.window is not None or math.prod(window) <= TOO_OFTEN * math.prod(inner)

    def _window(self, size: tuple, halo: tuple, align: tuple, room: float) -> tuple[int, ...]:
        """The sides of a tile: as asked for, or as large as `room`, bytes for a call of the network, allows."""
        multiple = self._needs.multiple
        if self.window is not None:
            rounded = (-(-part // step) * step for part, step in zip(self.window, multiple, strict=True))
            return tuple(map(min, rounded, size))
        rims = [2 * -(-rim // step) * step for rim, step in zip(halo, align, strict=True)]
        counts, window = [1] * len(size), list(size)
        while math.prod(window) * self._needs.bytes_per_voxel > room:
            axis = max(range(len(size)), key=lambda a: (window[a] - rims[a]) / multiple[a])
            counts[axis] += 1
            side = -(-(size[axis] + (counts[axis] - 1) * rims[axis]) // counts[axis])
            side = -(-side // multiple[axis]) * multiple[axis]
            if counts[axis] > size[axis]:
                break  # not even the smallest tiles have room
            window[axis] = side
        return tuple(window)

    def _tiled(self, image: Tensor, plan: Plan, turn: int, turns: int) -> Tensor:
        needs = self._needs
        parts = tiles(plan.size, plan.window, plan.halo, plan.cut.align(needs.calls))
        room = self.memory - plan.cut.bytes_per_voxel * math.prod(plan.size)
        room //= needs.bytes_per_voxel * math.prod(plan.window)
        passes = Passes(
            self.watched, needs.calls, plan.cut, image, parts, plan.window, exact=plan.exact, place=self.place,
            batch=int(min(max(room, 1), self.batch)), progress=lambda share: self.progress((turn + share) / turns),
        )  # fmt: skip
        return passes.run()

    def _whole(self, images: Tensor) -> Tensor:
        voxels = math.prod(images.shape[2:])
        known = self._needs is not None and voxels * DEAREST > self.memory
        per = voxels * (self._needs.bytes_per_voxel if known else DEAREST)
        done, room = [], max(1, min(self.batch, int(self.memory / per)))
        for first in range(0, len(images), room):
            done.append(self._run(images[first : first + room]))
            self.progress(min(1.0, (first + room) / len(images)))
        return torch.cat(done)

    def _run(self, images: Tensor) -> Tensor:
        return self.watched(self.place(images)).float().cpu()
