"""What a network needs of an image and of the machine, found out by trying it."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from gantk.errors import UserError
from gantk.inference.layer_trace import Call, Memory, Unfit, Watched, calls_of
from gantk.inference.split_network import Cut, Place, cut, per_voxel, reach

TRIALS = (8, 16, 32, 64, 128, 256)  # sides that are tried until the network takes them


class Needs:
    """The needs of a function that runs a network, for images (n, channels, *size) of so many dimensions."""

    def __init__(self, watched: Watched, channels: int, dims: int, place: Place):
        self.watched, self.channels, self.dims, self.place = watched, channels, dims, place
        self._cuts: dict[float, tuple[Cut, tuple[int, ...] | None]] = {}

    def image(self, size: tuple[int, ...]) -> Tensor:
        """A placed image of noise in [-1, 1]."""
        return self.place(torch.rand(1, self.channels, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1)

    @cached_property
    def base(self) -> tuple[int, ...]:
        """The smallest of the sides tried that the network takes; Unfit where it takes none."""
        for side in TRIALS:
            size = (side,) * self.dims
            try:
                if self.watched(self.image(size)).shape[2:] == size:
                    return size
            except (UserError, RuntimeError, ValueError):
                continue  # too small for its halvings
        raise Unfit(f"it takes no image of {' or '.join(map(str, TRIALS))} pixels a side")

    @cached_property
    def calls(self) -> list[Call]:
        """The calls of the network's parts, in order."""
        return calls_of(self.watched, self.image(self.base))

    @cached_property
    def multiple(self) -> tuple[int, ...]:
        """What the sides of images have to be multiples of: the network's halvings."""
        maps = [call.factors for call in self.calls if call.factors] or [(1,) * self.dims]
        found = tuple(math.lcm(*along) for along in zip(*maps, strict=True))
        if any(side % step for side, step in zip(self.base, found, strict=True)):
            raise Unfit(f"its maps go {found} times into an image of {self.base}")
        return found

    @cached_property
    def example(self) -> tuple[int, ...]:
        """Sides large enough to tell what a pixel needs."""
        side = 128 if self.dims == 2 else 32
        return tuple(max(side // base, 1) * base for base in self.base)

    @cached_property
    def bytes_per_voxel(self) -> float:
        """Memory that one more pixel of an image needs, at most, while the network runs."""

        def peak(size: tuple[int, ...]) -> int:
            image = self.image(size)
            with Memory() as memory:
                self.watched(image)
            return memory.peak

        return per_voxel(peak, self.example)

    @cached_property
    def levels(self) -> list[float]:
        """By how much the network's maps are smaller than the image, in voxels: ascending, then infinity."""
        return [*sorted({call.ratio for call in self.calls if call.ratio > 1}), math.inf]

    def cut(self, level: float) -> tuple[Cut, tuple[int, ...] | None]:
        """The network cut at a level, and its reach; Unfit where it cannot be cut there."""
        if level not in self._cuts:
            found = cut(self.watched, self.calls, level, self.channels, self.example, self.place)
            far = reach(self.watched, self.calls, found, self.channels, self.base, self.place)
            if far is None and level < math.inf:
                raise Unfit("large maps depend on small ones in a way that cannot be followed")
            self._cuts[level] = found, far
        return self._cuts[level]
