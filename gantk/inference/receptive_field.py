"""What a network needs of images, found by trying it: multiples, memory, how far it sees, which maps to take whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from gantk.errors import UserError
from gantk.inference.layer_trace import Call, Traced, Unfit, bytes_per_voxel, call_at, factors_of

TRIALS = (8, 16, 32, 64, 128, 256)  # sides that are tried until the network takes them
FARTHEST = 512  # pixels up to which the reach of a network is looked for


@dataclass(frozen=True)
class Split:
    """A network in two parts: maps of at most 1/level of the voxels are computed for the whole image, others in tiles.

    Args:
        gathered: the calls that make small maps of large ones, in order: tiles bring these maps.
        crops: how much smaller than the image the small maps are that large ones are made of, by (call, argument):
            tiles take their part of the whole image's.
        bytes_per_voxel: of the image, that the small maps need together at most.
        reach: how far, in pixels on each axis, what lies beyond a tile changes what is made of it.
    """

    level: float  # infinite: nothing is computed whole
    gathered: tuple[int, ...] = ()
    crops: dict[tuple[int, int], tuple[int, ...]] = field(default_factory=dict)
    bytes_per_voxel: float = 0.0
    reach: tuple[int, ...] = ()

    def small(self, call: Call) -> bool:
        """Whether the call's map is computed whole."""
        return call.ratio >= self.level


class SmallMaps:
    """Answers a network's calls for a whole image of which only the small maps are computed.

    Of every larger map there is but its shape (a meta tensor). A small map that is made of large ones has to be
    `gathered` from tiles; one that enters a call that makes a large map is kept in `crops`, by (number of the call,
    place among its arguments): that is all that tiles need to know of the rest of the image.
    """

    def __init__(self, calls: Sequence[Call], level: float, size: tuple[int, ...]):
        self.calls, self.level, self.size = calls, level, size
        self.gathered: dict[int, Tensor] = {}
        self.crops: dict[tuple[int, int], Tensor] = {}

    def run(self, traced: Traced, channels: int) -> int | None:
        """The number of the call whose map the tiles have to bring next; None: `crops` is complete."""
        self.crops.clear()
        try:
            traced(torch.empty(1, channels, *self.size, device="meta"), self)
        except _Missing as missing:
            return missing.number
        except RuntimeError as error:  # what only a real image can do, or a mixture of both
            raise Unfit(f"large and small maps meet outside of its layers ({error})") from error
        return None

    def __call__(self, number: int, layer: nn.Module, forward: Callable, args: tuple) -> Tensor:
        call = call_at(self.calls, number, layer)
        absent = any(isinstance(arg, Tensor) and arg.is_meta for arg in args)
        if call.factors is None and absent:
            raise Unfit(f"{type(layer).__name__} makes something else than a map of the whole image")
        small = call.ratio >= self.level
        if small and number in self.gathered:
            return self.gathered[number].clone()
        if call.factors is None or (small and not absent):
            return forward(*args)
        for place, arg in enumerate(args):
            if isinstance(arg, Tensor) and not arg.is_meta and factors_of(arg, self.size):
                self.crops[number, place] = arg.clone()  # what follows may change it in place
        if small:
            raise _Missing(number)
        return torch.empty(1, call.channels, *sides(self.size, call), dtype=call.dtype, device="meta")


class _Missing(Exception):
    def __init__(self, number: int):
        self.number = number


def sides(size: Sequence[int], call: Call) -> list[int]:
    """The sides of a call's map, where those of the image are `size`."""
    return [side // factor for side, factor in zip(size, call.factors, strict=True)]


class TileAnswers:
    """Answers a network's calls as `rows` tiles of `size` see them.

    Subclasses say what tiles alone cannot know: `crop(number, place, arg)`, their part of a small map that enters a
    call which makes a large one; `gather(number, call, made)`, which takes what `made()` brings of a small map; and
    `norm(number, call, x)`, what a norm over positions makes of them.
    """

    rows = 1

    def __init__(self, calls: Sequence[Call], split: Split, size: Sequence[int]):
        self.calls, self.split, self.size = calls, split, size

    def __call__(self, number: int, layer: nn.Module, forward: Callable, args: tuple) -> Tensor:
        call, split = call_at(self.calls, number, layer), self.split
        if call.factors is None:
            return forward(*args)
        args = tuple(self.crop(number, k, arg) if (number, k) in split.crops else arg for k, arg in enumerate(args))
        if number in split.gathered:
            self.gather(number, call, lambda: forward(*args))
        if split.small(call):  # not needed: nan, so that using it shows
            device = next((arg.device for arg in args if isinstance(arg, Tensor)), None)
            shape = (self.rows, call.channels, *sides(self.size, call))
            return torch.full(shape, torch.nan, dtype=call.dtype, device=device)
        return forward(*args) if call.groups is None else self.norm(number, call, args[0])


class _Probe(TileAnswers):
    """An image whose middle half along one axis is 0 and nan beyond; what is finite has not seen what lies beyond.

    `farthest` is how many pixels of the image nan has come into the middle half, in any map that is put together from
    tiles: the output, gathered maps, and inputs of norms. None: all through it.
    """

    def __init__(self, calls: Sequence[Call], split: Split, size: tuple[int, ...], axis: int):
        super().__init__(calls, split, size)
        self.axis, self.farthest = axis, 0

    def crop(self, number: int, place: int, arg: Tensor) -> Tensor:
        quarter = arg.shape[2 + self.axis] // 4
        arg = torch.full_like(arg, torch.nan)
        arg.narrow(2 + self.axis, quarter, 2 * quarter).zero_()
        return arg

    def gather(self, number: int, call: Call, made: Callable[[], Tensor]) -> None:
        self.note(made(), call.factors)

    def norm(self, number: int, call: Call, x: Tensor) -> Tensor:
        self.note(x, call.factors)
        return x.clamp(-1, 1)

    def note(self, x: Tensor, factors: tuple[int, ...]) -> None:
        """Look how far nan has come in a map."""
        untouched = x.isfinite().transpose(0, 2 + self.axis).flatten(1).all(1).nonzero()
        quarter = x.shape[2 + self.axis] // 4
        if not len(untouched) or self.farthest is None:
            self.farthest = None
        else:
            inwards = max(int(untouched.min()) - quarter, 3 * quarter - 1 - int(untouched.max()))
            self.farthest = max(self.farthest, inwards * factors[self.axis])


class Requirements:
    """What a function that runs a network needs, for images (n, channels, *size) of so many dimensions."""

    def __init__(self, traced: Traced, channels: int, dims: int, place: Callable[[Tensor], Tensor]):
        self.traced, self.channels, self.dims, self.place = traced, channels, dims, place
        self._splits: dict[float, Split] = {}

    def image(self, size: Sequence[int]) -> Tensor:
        """A placed image of noise in [-1, 1]."""
        return self.place(torch.rand(1, self.channels, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1)

    @cached_property
    def base(self) -> tuple[int, ...]:
        """The smallest of the sides tried that the network takes; Unfit where it takes none."""
        for side in TRIALS:
            size = (side,) * self.dims
            try:
                if self.traced(self.image(size)).shape[2:] == size:
                    return size
            except (UserError, RuntimeError, ValueError):
                continue  # too small for its halvings
        raise Unfit(f"it takes no image of {' or '.join(map(str, TRIALS))} pixels a side")

    @cached_property
    def calls(self) -> list[Call]:
        """The calls of the network's layers, in order."""
        return self.traced.calls(self.image(self.base))

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
        """Sides large enough to measure what a pixel needs."""
        side = 128 if self.dims == 2 else 32
        return tuple(max(side // base, 1) * base for base in self.base)

    @cached_property
    def bytes_per_voxel(self) -> float:
        """Memory that one more pixel of an image needs, at most, while the network runs."""
        return bytes_per_voxel(lambda size: self.traced(self.image(size)), self.example)

    @property
    def levels(self) -> list[float]:
        """By how much the network's maps are smaller than the image, in voxels: ascending, then infinity."""
        return [*sorted({call.ratio for call in self.calls if call.ratio > 1}), math.inf]

    def split(self, level: float) -> Split:
        """The network split at a level; Unfit where it cannot be."""
        if level not in self._splits:
            split = Split(level) if level == math.inf else self._split(level)
            reach = tuple(self._reach(split, axis) for axis in range(self.dims))
            if None in reach:
                raise Unfit("large maps depend on the whole image in a way that cannot be followed")
            self._splits[level] = replace(split, reach=reach)
        return self._splits[level]

    def align(self, split: Split) -> tuple[int, ...]:
        """Steps on which tiles must begin, so that the pixels of every map that they share lie on one grid."""
        shared = [call.factors for call in self.calls if call.factors and not split.small(call)]
        shared += [self.calls[n].factors for n in split.gathered] + list(split.crops.values()) or [(1,) * self.dims]
        return tuple(math.lcm(*along) for along in zip(*shared, strict=True))

    def _split(self, level: float) -> Split:
        whole = SmallMaps(self.calls, level, self.example)

        def run(size: tuple[int, ...]) -> None:
            whole.size, whole.gathered = size, {}
            while (number := whole.run(self.traced, self.channels)) is not None:
                call = self.calls[number]
                made = self.place(torch.zeros(1, call.channels, *sides(size, call)))
                whole.gathered[number] = made.to(call.dtype)

        need = bytes_per_voxel(run, self.example)
        crops = {key: factors_of(crop, whole.size) for key, crop in whole.crops.items()}
        return Split(level, tuple(sorted(whole.gathered)), crops, need)

    def _reach(self, split: Split, axis: int) -> int | None:
        """The reach along one axis; norms are left out, since theirs are the whole image's statistics."""
        span = 4 * self.base[axis]
        while span <= max(4 * FARTHEST, 4 * self.base[axis]):
            size = tuple(span if a == axis else side for a, side in enumerate(self.base))
            probe = _Probe(self.calls, split, size, axis)
            image = self.place(probe.crop(0, 0, torch.zeros(1, self.channels, *size)))
            probe.note(self.traced(image, probe), (1,) * self.dims)
            if probe.farthest is not None:
                return probe.farthest
            span *= 2
        return None
