"""Every call of a network's smallest parts, in their order: watched, measured, and answered from outside."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gantk.nets.statistics import groups

Function = Callable[[Tensor], Tensor]
Answer = Callable[[int, nn.Module, Callable[..., Tensor], tuple], Tensor]


class Unfit(Exception):
    """A network that cannot be taken apart; the message says why."""


@dataclass(frozen=True)
class Call:
    """What one call of a part gave: a map, whose sides are the image's divided by `factors`, or something else."""

    part: nn.Module
    factors: tuple[int, ...] | None  # None: not a map
    channels: int
    dtype: torch.dtype
    groups: int | None  # of a norm over positions: the groups of channels that have a mean and variance each

    @property
    def ratio(self) -> float:
        """How many voxels of the image there are for one of the map; 0: not a map."""
        return math.prod(self.factors) if self.factors else 0


class Watched:
    """A function that runs a module, with every call of the module's smallest parts open to be answered.

    The smallest parts are the modules without children, and those that say `indivisible = True`: modules that do more
    with their children than to call them, or that change the size of a map between two of them.
    """

    def __init__(self, function: Function, module: nn.Module):
        self.function = function
        self.parts = list({id(part): part for part in parts_of(module)}.values())

    def __call__(self, x: Tensor, answer: Answer | None = None) -> Tensor:
        """`function(x)`, where `answer(number of the call, part, its forward, arguments)` stands for every call."""
        if answer is None:
            return self.function(x)
        with _answered(self.parts, answer):
            return self.function(x)


def parts_of(module: nn.Module) -> Iterator[nn.Module]:
    """The smallest parts of a module, in the order in which they were added."""
    children = [child for name, child in module.named_children() if name != "parametrizations"]
    if not children or getattr(module, "indivisible", False):
        yield module
    else:
        for child in children:
            yield from parts_of(child)


@contextmanager
def _answered(parts: list[nn.Module], answer: Answer) -> Iterator[None]:
    numbers, own = count(), {}

    def stand_in(part: nn.Module, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *args, **options: answer(next(numbers), part, partial(forward, **options), args)

    for part in parts:
        own[part] = part.__dict__.get("forward")  # somebody else's stand-in
        part.forward = stand_in(part, part.forward)
    try:
        yield
    finally:
        for part, before in own.items():
            del part.__dict__["forward"]
            if before is not None:
                part.forward = before


def calls_of(watched: Watched, x: Tensor) -> list[Call]:
    """The calls of `function(x)`, x (1, C, *size), in order; Unfit where they cannot be told apart by their maps.

    What counts as a map is told by a second run with the last side doubled: a map's sides grow with the image's.
    """
    first = _recorded(watched, x)
    second = _recorded(watched, torch.cat([x, x.flip(-1)], -1))
    if [part for part, *_ in first] != [part for part, *_ in second]:
        raise Unfit("its layers come in another order for another size")
    return [_call(a, b) for a, b in zip(first, second, strict=True)]


def _recorded(watched: Watched, x: Tensor) -> list[tuple]:
    found = []

    def answer(number: int, part: nn.Module, forward: Callable, args: tuple) -> Tensor:
        y = forward(*args)
        if not isinstance(y, Tensor):
            raise Unfit(f"{type(part).__name__} gives something else than one tensor")
        factors = None
        if y.ndim == x.ndim and not any(side % part for side, part in zip(x.shape[2:], y.shape[2:], strict=True)):
            factors = tuple(side // part for side, part in zip(x.shape[2:], y.shape[2:], strict=True))
        group = groups(part, args[0].shape[1]) if args and isinstance(args[0], Tensor) and args[0].ndim > 1 else None
        found.append((part, factors, len(y) if y.ndim else 0, y.shape[1] if y.ndim > 1 else 0, y.dtype, group))
        return y

    y = watched(x, answer)
    if y.shape[0] != 1 or y.shape[2:] != x.shape[2:]:
        raise Unfit(f"it makes {tuple(y.shape)} of {tuple(x.shape)}")
    return found


def _call(first: tuple, second: tuple) -> Call:
    part, factors, rows, channels, dtype, group = first
    if factors != second[1]:
        factors = None
    if factors and rows != 1:
        raise Unfit(f"{type(part).__name__} sees {rows} images where there is one")
    if group is not None and factors is None:
        raise Unfit(f"{type(part).__name__} looks at maps whose sides do not follow the image's")
    return Call(part, factors, channels, dtype, group)


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
