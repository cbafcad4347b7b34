"""Measures, by running a network: valid sides, memory, receptive field, and which maps need the
whole image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from gantk.errors import UserError, one_line
from gantk.machine.memory import Memory
from gantk.nets.statistics import groups

TRIALS = (8, 16, 32, 64, 128, 256)  # sides tried until the network accepts one
MAX_RECEPTIVE_FIELD_PIXELS = 512  # the largest receptive field searched for, in pixels
# by (number of a call, position of the argument)
Crops = dict[tuple[int, int], Tensor]
CropFactors = dict[tuple[int, int], tuple[int, ...]]


class Unfit(Exception):
    """A network that cannot be tiled; the message says why."""


@dataclass(frozen=True)
class Call:
    """One call of a layer: its output is a map with the image's sides divided by `factors`, or
    something else.
    """

    layer: nn.Module
    factors: tuple[int, ...] | None  # None: not a map
    channels: int
    dtype: torch.dtype
    # of a norm over positions: the number of channel groups with their own mean and variance
    groups: int | None

    @property
    def map_factors(self) -> tuple[int, ...]:
        """The `factors` of a call that makes a map."""
        if self.factors is None:
            raise Unfit(f"{type(self.layer).__name__} does not return a map")
        return self.factors

    @property
    def ratio(self) -> float:
        """Voxels of the image per voxel of the map; 0 if the output is not a map."""
        return math.prod(self.factors) if self.factors else 0

    def empty(self, images: int, size: Sequence[int], **options: Any) -> Tensor:
        """An uninitialised map as this call makes it of `images` images of `size`."""
        sides = [side // factor for side, factor in zip(size, self.map_factors, strict=True)]
        return torch.empty(images, self.channels, *sides, dtype=self.dtype, **options)


@dataclass(frozen=True)
class Split:
    """A network split in two: maps of 1/level of the voxels or less are computed whole, the others
    in tiles.
    """

    level: float  # infinite: all maps are computed in tiles
    gathered: frozenset[int]  # calls that make small maps from large ones, assembled from tiles
    crops: CropFactors  # of small maps that enter calls which make large ones: tiles crop these
    bytes_per_voxel: float  # bytes per image voxel: peak memory of the small maps
    # tiles begin at multiples of these, so that they share whole pixels of every map
    align: tuple[int, ...]
    reach: tuple[int, ...] = ()  # pixels on each axis beyond a tile that affect its result

    @property
    def overlap(self) -> tuple[int, ...]:
        """Overlap of neighbouring tiles on each axis, in pixels: twice the reach, rounded up to
        `align`.
        """
        return tuple(
            2 * -(-far // step) * step for far, step in zip(self.reach, self.align, strict=True)
        )


class Requirements:
    """What a function that runs the layers of `module` in a fixed order needs of images (n,
    channels, *size).

    Layers are the modules without children, and those with `indivisible = True`: modules that do
    more than call their children, or that change a map's size between two of them.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        module: nn.Module,
        channels: int,
        dims: int,
        place: Callable[[Tensor], Tensor] = lambda x: x,
    ):
        self.function = function
        self.channels = channels
        self.dims = dims
        self.place = place
        self.forwards = {layer: layer.forward for layer in layers_of(module)}
        self.split = cache(self._split)  # the network split at a level; Unfit if that fails

    def run(
        self, x: Tensor, output_of: Callable[[int, nn.Module, Callable[..., Tensor], tuple], Tensor]
    ) -> Tensor:
        """`function(x)` with each layer's output replaced by `output_of(call's number, layer,
        forward, arguments)`.

        Runs may be nested: `output_of` may start another one.
        """
        numbers = count()
        before = {layer: vars(layer).get("forward") for layer in self.forwards}

        def stand_in(layer: nn.Module, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
            return lambda *args, **options: output_of(
                next(numbers), layer, partial(forward, **options), args
            )

        try:
            for layer, forward in self.forwards.items():
                layer.forward = stand_in(layer, forward)
            return self.function(x)
        finally:
            for layer, outer in before.items():
                vars(layer).pop("forward", None)
                if outer is not None:  # another run's stand-in
                    layer.forward = outer

    def image(self, size: Sequence[int]) -> Tensor:
        """A placed image of noise in [-1, 1]."""
        generator = torch.Generator().manual_seed(0)
        return self.place(torch.rand(1, self.channels, *size, generator=generator) * 2 - 1)

    @cached_property
    def base(self) -> tuple[int, ...]:
        """The smallest of the sides tried that the network accepts; Unfit if it accepts none."""
        for size in ((side,) * self.dims for side in TRIALS):
            try:
                if self.function(self.image(size)).shape[2:] == size:
                    return size
            except (UserError, RuntimeError, ValueError):
                continue  # too small
        raise Unfit(
            f"it does not accept images with sides of {' or '.join(map(str, TRIALS))} pixels"
        )

    @cached_property
    def calls(self) -> list[Call]:
        """The calls of all layers, in order; a second run with the last side doubled shows which
        outputs are maps.
        """
        x = self.image(self.base)
        first = self._record_calls(x)
        second = self._record_calls(torch.cat([x, x.flip(-1)], -1))
        if [call.layer for call in first] != [call.layer for call in second]:
            raise Unfit("the order of its layers depends on the image size")

        pairs = zip(first, second, strict=True)
        found = [
            one if one.factors == other.factors else replace(one, factors=None)
            for one, other in pairs
        ]
        if any(call.groups is not None and call.factors is None for call in found):
            raise Unfit("a norm gets maps whose size is not proportional to the image")

        return found

    def _record_calls(self, x: Tensor) -> list[Call]:
        calls = []

        def output_of(number: int, layer: nn.Module, forward: Callable, args: tuple) -> Tensor:
            y = forward(*args)
            given = args[0] if args else None
            if not isinstance(y, Tensor) or y.ndim < 2:
                raise Unfit(f"{type(layer).__name__} does not return one tensor of images")

            norm = None
            if isinstance(given, Tensor) and given.ndim > 1:
                norm = groups(layer, given.shape[1])

            factors = factors_of(y, x.shape[2:]) if len(y) == 1 else None
            calls.append(Call(layer, factors, y.shape[1], y.dtype, norm))
            return y

        y = self.run(x, output_of)
        if y.shape[0] != 1 or y.shape[2:] != x.shape[2:]:
            raise Unfit(f"it maps {tuple(x.shape)} to {tuple(y.shape)}")

        return calls

    @cached_property
    def multiple(self) -> tuple[int, ...]:
        """What the sides of images must be multiples of, because of the network's halvings."""
        return self._common([call.factors for call in self.calls if call.factors])

    def _common(self, maps: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        return tuple(math.lcm(*along) for along in zip(*maps, (1,) * self.dims, strict=True))

    @cached_property
    def bytes_per_voxel(self) -> float:
        """Peak memory of a run of the network per pixel of the image, in bytes."""
        return self._bytes_per_voxel(lambda size: self.function(self.image(size)))

    def _bytes_per_voxel(self, run: Callable[[tuple[int, ...]], object]) -> float:
        """The same for `run(size)`: the last side is doubled until memory grows with it, not by a
        constant.
        """
        size = tuple(max((128 if self.dims == 2 else 32) // side, 1) * side for side in self.base)
        peaks = [math.inf]
        for larger in ((*size[:-1], size[-1] << doublings) for doublings in range(6)):
            with Memory() as memory:
                run(larger)
            peaks.append(memory.peak)
            if peaks[-1] > 1.7 * peaks[-2]:
                break

        return (peaks[-1] - peaks[-2]) / (math.prod(larger) / 2)

    def _split(self, level: float) -> Split:
        gathered: set[int] = set()
        crops: CropFactors = {}

        def on_zeros(size: tuple[int, ...]) -> None:
            def gather(number: int, found: Crops) -> Tensor:
                gathered.add(number)
                return self.place(self.calls[number].empty(1, size).zero_())

            small_maps = self.run_whole(size, level, gather, lambda number, found: None)
            for key, crop in small_maps.items():
                factors = factors_of(crop, size)
                if factors:
                    crops[key] = factors

        try:
            need = self._bytes_per_voxel(on_zeros)
        # an operation that fails on meta tensors, or mixes them with real ones
        except RuntimeError as error:
            raise Unfit(
                f"large and small maps are combined outside its layers ({one_line(error)})"
            ) from error

        shared = [call.factors for call in self.calls if call.factors and call.ratio < level]
        shared += [self.calls[number].map_factors for number in gathered]
        shared += crops.values()
        split = Split(level, frozenset(gathered), crops, need, self._common(shared))
        return replace(split, reach=tuple(self._reach(split, axis) for axis in range(self.dims)))

    def run_whole(
        self,
        size: tuple[int, ...],
        level: float,
        gather: Callable[[int, Crops], Tensor],
        measure: Callable[[int, Crops], None],
    ) -> Crops:
        """Run the network for an image of `size`, computing only maps of 1/level of its voxels or
        less; returns crops.

        Larger maps are meta tensors, without values. `gather(number, crops)` is called where large
        maps are needed: it returns the small map that a call makes of them. `measure(number,
        crops)` is called at norms of large maps. Crops are the small maps that enter calls which
        make large ones: all that tiles need to know of the rest of the image.
        """
        crops: Crops = {}

        def output_of(number: int, layer: nn.Module, forward: Callable, args: tuple) -> Tensor:
            call = self.calls[number]
            absent = any(isinstance(arg, Tensor) and arg.is_meta for arg in args)
            if call.factors is None and absent:
                raise Unfit(f"{type(layer).__name__} does not return a map of the whole image")

            if call.factors is None or (call.ratio >= level and not absent):
                return forward(*args)

            for place, arg in enumerate(args):
                if isinstance(arg, Tensor) and not arg.is_meta and factors_of(arg, size):
                    crops[number, place] = arg.clone()  # later layers may change it in place

            if call.ratio >= level:
                return gather(number, crops)
            if call.groups is not None:
                measure(number, crops)

            return call.empty(1, size, device="meta")

        self.run(torch.empty(1, self.channels, *size, device="meta"), output_of)
        return crops

    def run_part(
        self,
        x: Tensor,
        split: Split,
        crop: Callable[[int, int, Tensor], Tensor],
        visit: Callable[[int, Callable[[], Tensor]], None],
        norm: Callable[[int, Tensor], Tensor],
    ) -> Tensor:
        """Run the network for tiles of an image, (n, channels, *size); returns its result for them.

        `crop(number, place, arg)` returns the tiles' part of a small map. `visit(number, output)`
        is called for gathered calls, whose output `output()` computes. `norm(number, x)` returns
        the output of a norm of a large map `x`.
        """

        def output_of(number: int, layer: nn.Module, forward: Callable, args: tuple) -> Tensor:
            call = self.calls[number]
            if call.factors is None:
                return forward(*args)

            args = tuple(
                crop(number, k, arg) if (number, k) in split.crops else arg
                for k, arg in enumerate(args)
            )
            if call.ratio < split.level:
                return forward(*args) if call.groups is None else norm(number, args[0])
            if number in split.gathered:
                visit(number, partial(forward, *args))

            # not needed: nan, so that any use is noticed
            return call.empty(len(x), x.shape[2:], device=x.device).fill_(torch.nan)

        return self.run(x, output_of)

    def _reach(self, split: Split, axis: int) -> int:
        """How many pixels beyond a tile, along an axis, affect the maps that are assembled from
        tiles.

        The middle half of the test image is 0, the rest nan: finite outputs do not depend on the
        rest. Norms are skipped, since they use the statistics of the whole image.
        """

        def nan_at_ends(x: Tensor) -> Tensor:
            quarter = x.shape[2 + axis] // 4
            x = torch.full_like(x, torch.nan)
            x.narrow(2 + axis, quarter, 2 * quarter).zero_()
            return x

        def record_reach(x: Tensor, factors: tuple[int, ...]) -> None:
            clean = x.isfinite().transpose(0, 2 + axis).flatten(1).all(1).nonzero()
            quarter = x.shape[2 + axis] // 4
            inwards = math.inf
            if len(clean):
                inwards = max(int(clean.min()) - quarter, 3 * quarter - 1 - int(clean.max()))
            reached.append(inwards * factors[axis])

        def visit(number: int, output: Callable[[], Tensor]) -> None:
            record_reach(output(), self.calls[number].map_factors)

        def norm(number: int, x: Tensor) -> Tensor:
            record_reach(x, self.calls[number].map_factors)
            return x.clamp(-1, 1)

        span = 4 * self.base[axis]
        while span <= max(4 * MAX_RECEPTIVE_FIELD_PIXELS, 4 * self.base[axis]):
            size = [span if a == axis else side for a, side in enumerate(self.base)]
            reached: list[float] = [0]
            image = self.place(nan_at_ends(torch.zeros(1, self.channels, *size)))
            result = self.run_part(
                image, split, lambda number, place, arg: nan_at_ends(arg), visit, norm
            )
            record_reach(result, (1,) * self.dims)
            if max(reached) < math.inf:
                return int(max(reached))

            span *= 2

        raise Unfit("large maps depend on the whole image in a way that gantk cannot trace")


def layers_of(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of a module (see `Requirements`), in the order in which they were added."""
    children = [child for name, child in module.named_children() if name != "parametrizations"]
    if not children or getattr(module, "indivisible", False):
        yield module
    else:
        for child in children:
            yield from layers_of(child)


def factors_of(x: Tensor, size: Sequence[int]) -> tuple[int, ...] | None:
    """The image's sides divided by a map's; None if they are not multiples, so that it is no map."""
    if x.ndim != len(size) + 2:
        return None

    factors = []
    for side, part in zip(size, x.shape[2:], strict=True):
        factor, rest = divmod(side, part)
        if rest:
            return None
        factors.append(factor)

    return tuple(factors)
