"""What a network needs of images, found by running it: multiples, memory, receptive field, maps to compute whole."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import count

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gantk.errors import UserError
from gantk.nets.statistics import groups

TRIALS = (8, 16, 32, 64, 128, 256)  # sides that are tried until the network takes them
FARTHEST = 512  # pixels up to which the receptive field is looked for
Answer = Callable[[int, nn.Module, Callable[..., Tensor], tuple], Tensor]  # (call's number, layer, forward, arguments)


class Unfit(Exception):
    """A network that cannot be tiled; the message says why."""


@dataclass(frozen=True)
class Call:
    """One call of a layer: its output is a map with the image's sides divided by `factors`, or something else."""

    layer: nn.Module
    factors: tuple[int, ...] | None  # None: not a map
    channels: int
    dtype: torch.dtype
    groups: int | None  # of a norm over positions: the groups of channels that have a mean and variance each
    rows: int  # images in its output

    @property
    def ratio(self) -> float:
        """Voxels of the image for one of the map; 0: not a map."""
        return math.prod(self.factors) if self.factors else 0

    def sides(self, size: Sequence[int]) -> list[int]:
        """The sides of the map of an image of `size`."""
        return [side // factor for side, factor in zip(size, self.factors, strict=True)]


@dataclass(frozen=True)
class Split:
    """A network in two parts: maps of at most 1/level of the voxels are computed for the whole image, others in tiles.

    Args:
        gathered: the calls that make small maps of large ones, in order: they are put together from tiles.
        crops: by (call, argument), the factors of small maps that enter a call which makes a large map: tiles take
            their part of the whole image's.
        bytes_per_voxel: of the image, that the small maps need together at most.
        reach: how far, in pixels on each axis, what lies beyond a tile changes its result.
    """

    level: float  # infinite: nothing is computed whole
    gathered: tuple[int, ...] = ()
    crops: dict[tuple[int, int], tuple[int, ...]] = field(default_factory=dict)
    bytes_per_voxel: float = 0.0
    reach: tuple[int, ...] = ()


class Requirements:
    """What a function that runs layers of `module`, in the same order each time, needs of images (n, channels, *size).

    Layers are the modules without children, and those that say `indivisible = True`: modules that do more with their
    children than to call them, or that change the size of a map between two of them.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        module: nn.Module,
        channels: int,
        dims: int,
        place: Callable[[Tensor], Tensor] = lambda x: x,
    ):
        self.function, self.channels, self.dims, self.place = function, channels, dims, place
        self.layers = list(dict.fromkeys(layers_of(module)))
        self._splits: dict[float, Split] = {}

    def run(self, x: Tensor, answer: Answer) -> Tensor:
        """`function(x)`, where `answer` gives the output of each call of a layer in the layer's stead."""
        numbers, before = count(), {layer: vars(layer).get("forward") for layer in self.layers}

        def stand_in(layer: nn.Module, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
            return lambda *args, **options: answer(next(numbers), layer, partial(forward, **options), args)

        try:
            for layer in self.layers:
                layer.forward = stand_in(layer, layer.forward)
            return self.function(x)
        finally:
            for layer, forward in before.items():
                vars(layer).pop("forward", None)
                if forward is not None:  # somebody else's stand-in
                    layer.forward = forward

    def image(self, size: Sequence[int]) -> Tensor:
        """A placed image of noise in [-1, 1]."""
        return self.place(torch.rand(1, self.channels, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1)

    @cached_property
    def base(self) -> tuple[int, ...]:
        """The smallest of the sides tried that the network takes; Unfit where it takes none."""
        for size in ((side,) * self.dims for side in TRIALS):
            try:
                if self.function(self.image(size)).shape[2:] == size:
                    return size
            except (UserError, RuntimeError, ValueError):
                continue  # too small for its halvings
        raise Unfit(f"it takes no image of {' or '.join(map(str, TRIALS))} pixels a side")

    @cached_property
    def calls(self) -> list[Call]:
        """The calls of its layers, in order; a second run with the last side doubled shows which outputs are maps."""
        x, found = self.image(self.base), []
        first, second = self._recorded(x), self._recorded(torch.cat([x, x.flip(-1)], -1))
        if [call.layer for call in first] != [call.layer for call in second]:
            raise Unfit("its layers come in another order for another size")
        for call, larger in zip(first, second, strict=True):
            if call.factors != larger.factors:
                call = replace(call, factors=None)
            if (call.factors and call.rows != 1) or (call.groups is not None and call.factors is None):
                raise Unfit(f"{type(call.layer).__name__} sees {call.rows} maps whose sides may not follow the image's")
            found.append(call)
        return found

    def _recorded(self, x: Tensor) -> list[Call]:
        found = []

        def answer(number: int, layer: nn.Module, forward: Callable, args: tuple) -> Tensor:
            y, given = forward(*args), args[0] if args else None
            if not isinstance(y, Tensor) or y.ndim < 2:
                raise Unfit(f"{type(layer).__name__} gives something else than one tensor of images")
            norm = groups(layer, given.shape[1]) if isinstance(given, Tensor) and given.ndim > 1 else None
            found.append(Call(layer, factors_of(y, x.shape[2:]), y.shape[1], y.dtype, norm, len(y)))
            return y

        y = self.run(x, answer)
        if y.shape[0] != 1 or y.shape[2:] != x.shape[2:]:
            raise Unfit(f"it makes {tuple(y.shape)} of {tuple(x.shape)}")
        return found

    def call(self, number: int, layer: nn.Module) -> Call:
        """The call of that number, which must be the layer's."""
        if number >= len(self.calls) or self.calls[number].layer is not layer:
            raise Unfit("its layers come in another order each time")
        return self.calls[number]

    @cached_property
    def multiple(self) -> tuple[int, ...]:
        """What the sides of images have to be multiples of: the network's halvings."""
        found = _common_multiple([call.factors for call in self.calls if call.factors], self.dims)
        if any(side % step for side, step in zip(self.base, found, strict=True)):
            raise Unfit(f"its maps go {found} times into an image of {self.base}")
        return found

    @cached_property
    def example(self) -> tuple[int, ...]:
        """Sides large enough to measure what a pixel needs."""
        return tuple(max((128 if self.dims == 2 else 32) // base, 1) * base for base in self.base)

    @cached_property
    def bytes_per_voxel(self) -> float:
        """Memory that one more pixel of an image needs, at most, while the network runs."""
        return bytes_per_voxel(lambda size: self.function(self.image(size)), self.example)

    @property
    def levels(self) -> list[float]:
        """By how much the network's maps are smaller than the image, in voxels: ascending, then infinity."""
        return [*sorted({call.ratio for call in self.calls if call.ratio > 1}), math.inf]

    def align(self, split: Split) -> tuple[int, ...]:
        """Steps on which tiles must begin, so that the pixels of every map that they share lie on one grid."""
        shared = [call.factors for call in self.calls if call.factors and call.ratio < split.level]
        shared += [self.calls[n].factors for n in split.gathered] + list(split.crops.values())
        return _common_multiple(shared, self.dims)

    def split(self, level: float) -> Split:
        """The network split at a level; Unfit where it cannot be."""
        if level not in self._splits:
            split = Split(level)
            if level < math.inf:
                whole = SmallMaps(self, level, self.example)
                need = bytes_per_voxel(whole.try_on_zeros, self.example)
                crops = {key: factors_of(crop, whole.size) for key, crop in whole.crops.items()}
                split = Split(level, tuple(sorted(whole.gathered)), crops, need)
            self._splits[level] = replace(split, reach=tuple(self._reach(split, axis) for axis in range(self.dims)))
        return self._splits[level]

    def _reach(self, split: Split, axis: int) -> int:
        """The reach along one axis; norms are left out, since theirs are the whole image's statistics."""
        span = 4 * self.base[axis]
        while span <= max(4 * FARTHEST, 4 * self.base[axis]):
            size = tuple(span if a == axis else side for a, side in enumerate(self.base))
            probe = _Probe(self, split, size, axis)
            image = self.place(probe.crop(0, 0, torch.zeros(1, self.channels, *size)))
            probe.note(self.run(image, probe), (1,) * self.dims)
            if probe.farthest is not None:
                return probe.farthest
            span *= 2
        raise Unfit("large maps depend on the whole image in a way that cannot be followed")


class SmallMaps:
    """Answers a network's calls for a whole image of `size` of which only maps of 1/level or less are computed.

    Of every larger map there is but its shape (a meta tensor). A small map that is made of large ones has to be put
    into `gathered`, by the number of its call; one that enters a call which makes a large map is kept in `crops`, by
    (number of the call, place among its arguments): that is all that tiles need to know of the rest of the image.
    """

    def __init__(self, needs: Requirements, level: float, size: tuple[int, ...]):
        self.needs, self.level, self.size = needs, level, size
        self.gathered: dict[int, Tensor] = {}
        self.crops: dict[tuple[int, int], Tensor] = {}

    def run(self) -> int | None:
        """The number of the call whose map the tiles have to bring next; None: `crops` is complete."""
        self.crops.clear()
        try:
            self.needs.run(torch.empty(1, self.needs.channels, *self.size, device="meta"), self)
        except Stop as missing:
            return missing.args[0]
        except RuntimeError as error:  # what only a real image can do, or a mixture of both
            raise Unfit(f"large and small maps meet outside of its layers ({error})") from error
        return None

    def try_on_zeros(self, size: tuple[int, ...]) -> None:
        """All runs for an image of `size`, with zeros for the maps that tiles bring."""
        self.size, self.gathered = size, {}
        while (number := self.run()) is not None:
            call = self.needs.calls[number]
            made = self.needs.place(torch.zeros(1, call.channels, *call.sides(size)))
            self.gathered[number] = made.to(call.dtype)

    def __call__(self, number: int, layer: nn.Module, forward: Callable, args: tuple) -> Tensor:
        call = self.needs.call(number, layer)
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
            raise Stop(number)
        return torch.empty(1, call.channels, *call.sides(self.size), dtype=call.dtype, device="meta")


class Stop(Exception):
    """A run has come as far as what is known of the image takes it."""


class TileAnswers:
    """Answers a network's calls as `rows` tiles of `size` see them.

    Subclasses bring what tiles alone cannot know: `crop(number, place, arg)`, their part of a small map that enters a
    call which makes a large one; `gather(number, call, made)`, which takes the tiles' part `made()` of a small map;
    and `norm(number, call, x)`, a norm over positions.
    """

    rows = 1

    def __init__(self, needs: Requirements, split: Split, size: Sequence[int]):
        self.needs, self.split, self.size = needs, split, size

    def __call__(self, number: int, layer: nn.Module, forward: Callable, args: tuple) -> Tensor:
        call, split = self.needs.call(number, layer), self.split
        if call.factors is None:
            return forward(*args)
        args = tuple(self.crop(number, k, arg) if (number, k) in split.crops else arg for k, arg in enumerate(args))
        if number in split.gathered:
            self.gather(number, call, lambda: forward(*args))
        if call.ratio >= split.level:  # not needed: nan, so that using it shows
            device = next((arg.device for arg in args if isinstance(arg, Tensor)), None)
            shape = (self.rows, call.channels, *call.sides(self.size))
            return torch.full(shape, torch.nan, dtype=call.dtype, device=device)
        return forward(*args) if call.groups is None else self.norm(number, call, args[0])


class _Probe(TileAnswers):
    """An image whose middle half along one axis is 0 and nan beyond; what is finite has not seen what lies beyond.

    `farthest` is how many pixels of the image nan has come into the middle half, in any map that is put together from
    tiles: the output, gathered maps, and inputs of norms. None: all through it.
    """

    def __init__(self, needs: Requirements, split: Split, size: tuple[int, ...], axis: int):
        super().__init__(needs, split, size)
        self.axis, self.farthest = axis, 0

    def crop(self, number: int, place: int, arg: Tensor) -> Tensor:
        quarter, arg = arg.shape[2 + self.axis] // 4, torch.full_like(arg, torch.nan)
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


def layers_of(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of a module (see `Requirements`), in the order in which they were added."""
    children = [child for name, child in module.named_children() if name != "parametrizations"]
    if not children or getattr(module, "indivisible", False):
        yield module
    else:
        for child in children:
            yield from layers_of(child)


def factors_of(x: Tensor, size: Sequence[int]) -> tuple[int, ...] | None:
    """How often the sides of a map go into those of the image; None: it is no map."""
    if x.ndim != len(size) + 2 or any(side % part for side, part in zip(size, x.shape[2:], strict=True)):
        return None
    return tuple(side // part for side, part in zip(size, x.shape[2:], strict=True))


def _common_multiple(maps: Sequence[tuple[int, ...]], dims: int) -> tuple[int, ...]:
    return tuple(math.lcm(*along) for along in zip(*maps, (1,) * dims, strict=True))


class Memory(TorchDispatchMode):
    """Counts the bytes that tensors made under it hold together: `peak`, at most, on any device."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and not tensor.is_meta:
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def bytes_per_voxel(run: Callable[[tuple[int, ...]], object], size: tuple[int, ...]) -> float:
    """Memory that one more voxel of an image needs while `run(size)` runs: the last side is doubled until it shows.

    What is needed at any size, such as weights in another precision, is not counted.
    """
    peaks = []
    for doublings in range(6):
        larger = (*size[:-1], size[-1] << doublings)
        with Memory() as memory:
            run(larger)
        peaks.append(memory.peak)
        if doublings and peaks[-1] > 1.7 * peaks[-2]:
            break
    return (peaks[-1] - peaks[-2]) / (math.prod(larger) / 2)
