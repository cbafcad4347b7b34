"""Counts the bytes of tensors that a pass of a network creates."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# bytes per voxel, above any network's need: an image that fits even so is not measured
UPPER_BOUND_BYTES_PER_VOXEL = 4096
# by spatial axes, pixels: sides are halved down to this for measuring a pass
MIN_PROBE_SIDE = {2: 128, 3: 64}


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
    return tuple(side >> max(0, (side // least).bit_length() - 1) for side in size)
