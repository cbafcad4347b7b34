"""Every call of a network's layers, in their order: recorded, measured, and answered from outside."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gantk.nets.statistics import groups

Answer = Callable[[int, nn.Module, Callable[..., Tensor], tuple], Tensor]


class Unfit(Exception):
    """A network that cannot be taken apart; the message says why."""


@dataclass(frozen=True)
class Call:
    """One call of a layer: its output is a map with the image's sides divided by `factors`, or something else."""

    part: nn.Module
    factors: tuple[int, ...] | None  # None: not a map
    channels: int
    dtype: torch.dtype
    groups: int | None  # of a norm over positions: the groups of channels that have a mean and variance each

    @property
    def ratio(self) -> float:
        """How many voxels of the image there are for one of the map; 0: not a map."""
        return math.prod(self.factors) if self.factors else 0


class Traced:
    """A function that runs layers of a module, in the same order each time, whose calls can be answered from outside.

    Layers are the modules without children, and those that say `indivisible = True`: modules that do more with their
    children than to call them, or that change the size of a map between two of them.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], module: nn.Module):
        self.function, self.layers = function, list(dict.fromkeys(parts_of(module)))

    def __call__(self, x: Tensor, answer: Answer | None = None) -> Tensor:
        """`function(x)`, where `answer(number of the call, layer, its forward, arguments)` stands for every call."""
        if answer is None:
            return self.function(x)
        numbers, own = count(), {layer: layer.__dict__.get("forward") for layer in self.layers}

        def stand_in(layer: nn.Module, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
            return lambda *args, **options: answer(next(numbers), layer, partial(forward, **options), args)

        try:
            for layer in self.layers:
                layer.forward = stand_in(layer, layer.forward)
            return self.function(x)
        finally:
            for layer, before in own.items():
                layer.__dict__.pop("forward", None)
                if before is not None:  # somebody else's stand-in
                    layer.forward = before

    def calls(self, x: Tensor) -> list[Call]:
        """The calls of `function(x)`, x (1, C, *size), in order; Unfit where they cannot be told apart by their maps.

        A second run with the last side doubled finds what is a map: a map's sides grow with the image's.
        """
        first, second = self._recorded(x), self._recorded(torch.cat([x, x.flip(-1)], -1))
        if [call.part for call, _ in first] != [call.part for call, _ in second]:
            raise Unfit("its layers come in another order for another size")
        found = []
        for (call, rows), (larger, _) in zip(first, second, strict=True):
            if call.factors != larger.factors:
                call = replace(call, factors=None)
            if (call.factors and rows != 1) or (call.groups is not None and call.factors is None):
                raise Unfit(f"{type(call.part).__name__} sees {rows} maps whose sides may not follow the image's")
            found.append(call)
        return found

    def _recorded(self, x: Tensor) -> list[tuple[Call, int]]:
        found = []

        def answer(number: int, layer: nn.Module, forward: Callable, args: tuple) -> Tensor:
            y, given = forward(*args), args[0] if args else None
            if not isinstance(y, Tensor):
                raise Unfit(f"{type(layer).__name__} gives something else than one tensor")
            norm = groups(layer, given.shape[1]) if isinstance(given, Tensor) and given.ndim > 1 else None
            call = Call(layer, factors_of(y, x.shape[2:]), y.shape[1] if y.ndim > 1 else 0, y.dtype, norm)
            found.append((call, len(y) if y.ndim else 0))
            return y

        y = self(x, answer)
        if y.shape[0] != 1 or y.shape[2:] != x.shape[2:]:
            raise Unfit(f"it makes {tuple(y.shape)} of {tuple(x.shape)}")
        return found


def parts_of(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of a module (see `Traced`), in the order in which they were added."""
    children = [child for name, child in module.named_children() if name != "parametrizations"]
    if not children or getattr(module, "indivisible", False):
        yield module
    else:
        for child in children:
            yield from parts_of(child)


def call_at(calls: Sequence[Call], number: int, layer: nn.Module) -> Call:
    """The call of that number, which must be the layer's."""
    if number >= len(calls) or calls[number].part is not layer:
        raise Unfit("its layers come in another order each time")
    return calls[number]


def factors_of(x: Tensor, size: Sequence[int]) -> tuple[int, ...] | None:
    """How often the sides of a map go into those of the image; None: it is no map."""
    if x.ndim != len(size) + 2 or any(side % part for side, part in zip(size, x.shape[2:], strict=True)):
        return None
    return tuple(side // part for side, part in zip(size, x.shape[2:], strict=True))


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
