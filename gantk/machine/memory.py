"""Builds networks from tensors without storage, and counts the bytes of tensors."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

MAX_ALLOCATED_BYTES = 2**20  # bytes: tensors above this size are built on the device "meta"
# bytes per voxel, above any network's need: an image that fits even so is not measured
UPPER_BOUND_BYTES_PER_VOXEL = 4096
# by spatial axes, pixels: sides are halved down to this for measuring a pass
MIN_PROBE_SIDE = {2: 128, 3: 64}
MAKING = ("empty", "zeros", "ones", "rand", "randn")
DRAWING = (
    "normal_",
    "uniform_",
    "trunc_normal_",
    "kaiming_uniform_",
    "kaiming_normal_",
    "xavier_uniform_",
)


class Hollow(TorchFunctionMode):
    """A context in which large tensors are built on the device "meta", where they take no memory
    and no time.

    Small tensors are built as usual, because a part may cache them for the next network.
    """

    def __torch_function__(
        self, call: Callable, types: Any, args: tuple = (), options: dict | None = None
    ) -> Any:
        options = options or {}
        name = getattr(call, "__name__", "")
        if name in DRAWING:
            drawn = args[0] if args else options["tensor"]
            if drawn.is_meta:
                return drawn

        if name in MAKING:
            size = options.get("size", args[0] if args and isinstance(args[0], Sequence) else args)
            if all(isinstance(side, int) for side in size) and 4 * prod(size) > MAX_ALLOCATED_BYTES:
                return torch.empty(size, device="meta", dtype=options.get("dtype"))

        return call(*args, **options)


class Memory(TorchDispatchMode):
    """Counts the bytes of all tensors created inside the `with`; `peak` is the most at any time, on
    any device.
    """

    def __init__(self):
        super().__init__()
        # bytes by storage
        self.peak = 0
        self._held: dict[int, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and not tensor.is_meta:
                storage = tensor.untyped_storage()
                if storage._cdata not in self._held:
                    self._held[storage._cdata] = storage.nbytes()
                    self.peak = max(self.peak, sum(self._held.values()))
                    weakref.finalize(storage, self._held.pop, storage._cdata)

        return result


def probe_size(size: Sequence[int]) -> tuple[int, ...]:
    """The sides of a small image: what a pass needs for it is in proportion to its pixels."""
    least = MIN_PROBE_SIDE[len(size)]
    sides = []
    for side in size:
        sides.append(side >> max(0, (side // least).bit_length() - 1))

    return tuple(sides)
