"""A network in two parts: its small maps, computed for the whole image, and its large ones, computed tile by tile."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from gantk.inference.layer_trace import Call, Memory, Unfit, Watched

FARTHEST = 512  # pixels up to which the reach of a network is looked for
Place = Callable[[Tensor], Tensor]


class Missing(Exception):
    """A small map that is made of large ones: the tiles have to bring it. `number` is the call that makes it."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


@dataclass
class Whole:
    """Answers the calls of a network for a whole image of which only small maps are there.

    A call whose map has at most 1/level of the image's voxels is computed, from small maps or from what the tiles
    `gathered`; of every larger map there is but its shape (a meta tensor). Where a small map enters a call that makes a
    large one, it is kept in `crops`, by (number of the call, place among its arguments): that is all that the tiles
    need to know of the rest of the image.
    """

    calls: Sequence[Call]
    level: float
    size: tuple[int, ...]
    gathered: dict[int, Tensor] = field(default_factory=dict)
    crops: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    _versions: dict[tuple[int, int], int] = field(default_factory=dict)

    def run(self, watched: Watched, channels: int) -> int | None:
        """The number of the call whose map the tiles have to bring first; None: `crops` is complete."""
        self.crops.clear()
        try:
            watched(torch.empty(1, channels, *self.size, device="meta"), self)
        except Missing as missing:
            return missing.number
        except RuntimeError as error:  # what only a real image can do, or a mixture of both
            raise Unfit(f"large and small maps meet outside of its layers ({error})") from error
        if any(crop._version != self._versions[key] for key, crop in self.crops.items()):
            raise Unfit("it changes maps in place that others still need")
        return None

    def __call__(self, number: int, part: nn.Module, forward: Callable, args: tuple) -> Tensor:
        call = checked(self.calls, number, part)
        absent = any(isinstance(arg, Tensor) and arg.is_meta for arg in args)
        if call.factors is None:
            if absent:
                raise Unfit(f"{type(part).__name__} makes something else than a map of the whole image")
            return forward(*args)
        small = call.ratio >= self.level
        if small and number in self.gathered:
            return self.gathered[number].clone()  # what follows may change it in place
        if small and not absent:
            return forward(*args)
        for place, arg in enumerate(args):
            if isinstance(arg, Tensor) and not arg.is_meta and factors_of(arg, self.size):
                self.crops[number, place], self._versions[number, place] = arg, arg._version
        if small:
            raise Missing(number)
        sides = [side // factor for side, factor in zip(self.size, call.factors, strict=True)]
        return torch.empty(1, call.channels, *sides, dtype=call.dtype, device="meta")


def checked(calls: Sequence[Call], number: int, part: nn.Module) -> Call:
    """The call of that number, which must be the part's."""
    if number >= len(calls) or calls[number].part is not part:
        raise Unfit("its layers come in another order each time")
    return calls[number]


def factors_of(x: Tensor, size: tuple[int, ...]) -> tuple[int, ...] | None:
    """How often the sides of a map go into those of the image; None: it is no map."""
    if x.ndim != len(size) + 2 or any(side % part for side, part in zip(size, x.shape[2:], strict=True)):
        return None
    return tuple(side // part for side, part in zip(size, x.shape[2:], strict=True))


@dataclass(frozen=True)
class Cut:
    """Where a network is cut in two at one level, and what that costs.

    Args:
        level: maps of at most 1/level of the voxels are computed whole; infinite: none.
        gathered: the calls whose small maps the tiles bring, in order.
        crops: how much smaller than the image the small maps are that tiles take, by (call, place).
        bytes_per_voxel: of the image, that the small maps need together at most.
        idle: whether large maps made before the last gathered one are not needed afterwards.
    """

    level: float
    gathered: tuple[int, ...] = ()
    crops: dict[tuple[int, int], tuple[int, ...]] = field(default_factory=dict)
    bytes_per_voxel: float = 0.0
    idle: bool = False

    def small(self, call: Call) -> bool:
        """Whether the call's map is computed whole."""
        return call.ratio >= self.level

    def align(self, calls: Sequence[Call]) -> tuple[int, ...]:
        """Steps on which tiles must begin, so that the pixels of every map that they share lie on one grid."""
        maps = [call.factors for n, call in enumerate(calls) if call.factors]
        shared = [call.factors for n, call in enumerate(calls) if call.factors and not self.small(call)]
        shared += [calls[n].factors for n in self.gathered] + list(self.crops.values())
        return tuple(math.lcm(*(factors[axis] for factors in shared)) for axis in range(len(maps[0])))


def cut(
    watched: Watched, calls: Sequence[Call], level: float, channels: int, size: tuple[int, ...], place: Place
) -> Cut:
    """The network cut at `level`, tried on images (1, channels, *size); Unfit where it cannot be."""
    if level == math.inf:
        return Cut(level)
    whole = Whole(calls, level, size)

    def peak(size: tuple[int, ...]) -> int:
        whole.size, whole.gathered = size, {}
        with Memory() as memory:
            while (number := whole.run(watched, channels)) is not None:
                sides = [side // factor for side, factor in zip(size, calls[number].factors, strict=True)]
                whole.gathered[number] = place(torch.zeros(1, calls[number].channels, *sides)).to(calls[number].dtype)
        return memory.peak

    need = per_voxel(peak, size)
    crops = {key: factors_of(crop, whole.size) for key, crop in whole.crops.items()}
    found = Cut(level, tuple(sorted(whole.gathered)), crops, need)
    return replace(found, idle=_is_idle(watched, calls, found, channels, size, place))


def per_voxel(peak: Callable[[tuple[int, ...]], int], size: tuple[int, ...]) -> float:
    """By how much `peak(size)`, bytes, grows with a voxel more: the last side is doubled until it is voxels that count.

    What a network needs at any size, such as weights in another precision, is not counted.
    """
    before = peak(size)
    for doublings in range(1, 6):
        larger = (*size[:-1], size[-1] << doublings)
        now = peak(larger)
        slope = (now - before) / (math.prod(larger) / 2)
        if now > 1.7 * before:
            break
        before = now
    return slope


def _is_idle(
    watched: Watched, calls: Sequence[Call], cut: Cut, channels: int, size: tuple[int, ...], place: Place
) -> bool:
    if not cut.gathered:
        return False
    probe = _Probe(calls, cut, size, _Known(), skipped=cut.gathered[-1])
    return bool(watched(place(torch.zeros(1, channels, *size)), probe).isfinite().all())


def reach(
    watched: Watched, calls: Sequence[Call], cut: Cut, channels: int, base: tuple[int, ...], place: Place
) -> tuple[int, ...] | None:
    """How far, in pixels on each axis, what lies beyond a tile is felt inside it; None: farther than FARTHEST.

    Measured: half of an image is nan, and nan is what it touches. Norms are left out, since theirs are the whole
    image's statistics. It is the most that any map feels that is put together from tiles: the output, maps that are
    gathered, and maps whose statistics are taken. `base` are the smallest sides to try with.
    """
    found = []
    for axis in range(len(base)):
        sides = [_one_way(watched, calls, cut, (channels, base, axis, way), place) for way in ("up", "down")]
        if None in sides:
            return None
        found.append(max(sides))
    return tuple(found)


def _one_way(watched: Watched, calls, cut: Cut, geometry: tuple[int, tuple, int, str], place: Place) -> int | None:
    channels, base, axis, way = geometry
    span = 4 * base[axis]
    while span <= max(2 * FARTHEST, 4 * base[axis]):
        size = tuple(span if a == axis else side for a, side in enumerate(base))
        half = _Half(axis, way)
        probe = _Probe(calls, cut, size, half)
        half.note(watched(place(half(torch.zeros(1, channels, *size))), probe), (1,) * len(size))
        if half.farthest is not None:
            return half.farthest
        span *= 2
    return None


class _Known:
    """Makes maps that are known throughout."""

    def __call__(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def note(self, x: Tensor, factors: tuple[int, ...]) -> None:
        """Nothing is looked for."""


class _Half(_Known):
    """Makes maps whose one half is nan, and notes how far beyond the middle nan has come."""

    def __init__(self, axis: int, way: str):
        self.axis, self.up = 2 + axis, way == "up"
        self.farthest: int | None = 0  # pixels of the image; None: up to the end

    def __call__(self, x: Tensor) -> Tensor:
        middle, x = x.shape[self.axis] // 2, torch.zeros_like(x)
        x.narrow(self.axis, 0 if self.up else middle, middle).fill_(torch.nan)
        return x

    def note(self, x: Tensor, factors: tuple[int, ...]) -> None:
        touched = x.isnan().transpose(0, self.axis).flatten(1).any(1)
        places = (touched if self.up else touched.flip(0)).nonzero()
        last = int(places.max()) + 1 if len(places) else 0
        if last == len(touched) or self.farthest is None:
            self.farthest = None
        else:
            self.farthest = max(self.farthest, (last - len(touched) // 2) * factors[self.axis - 2])


@dataclass
class _Probe:
    """Answers the calls of a network as a tile sees them; `maps` makes the small maps that enter large ones."""

    calls: Sequence[Call]
    cut: Cut
    size: tuple[int, ...]
    maps: _Known
    skipped: int = -1  # calls before this one give nan

    def __call__(self, number: int, part: nn.Module, forward: Callable, args: tuple) -> Tensor:
        call = checked(self.calls, number, part)
        if call.factors is None:
            return forward(*args)
        args = tuple(self.maps(arg) if (number, i) in self.cut.crops else arg for i, arg in enumerate(args))
        if number in self.cut.gathered and number > self.skipped:
            self.maps.note(forward(*args), call.factors)
        if number < self.skipped or self.cut.small(call):
            return unknown(call, 1, self.size, args)
        if call.groups is None:
            return forward(*args)
        self.maps.note(args[0], call.factors)
        return args[0].clamp(-1, 1)


def unknown(call: Call, rows: int, size: tuple[int, ...], args: tuple) -> Tensor:
    """In place of a map that is not needed: nan, so that using it shows. It may be written to."""
    device = next((arg.device for arg in args if isinstance(arg, Tensor)), None)
    sides = [side // factor for side, factor in zip(size, call.factors, strict=True)]
    return torch.full((rows, call.channels, *sides), torch.nan, dtype=call.dtype, device=device)
