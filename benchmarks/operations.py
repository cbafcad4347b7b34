"""The operations that a training step is made of: each with its arguments, its bytes and its time within the step."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from harness import synchronize
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only

from gantk.nets import kernels, winograd

ASKED = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")  # memory that nobody writes yet
REPLACED = ("copy_", "fill_", "zero_", "normal_", "uniform_", "bernoulli_", "random_")  # writes and does not read it


class Called:
    """All calls of an operator with arguments of one kind (tensors without their values), and their seconds."""

    def __init__(self, name: str, arguments: list, moved: int):
        self.name, self.arguments, self.moved, self.calls, self.seconds = name, arguments, moved, 0, 0.0


class Recorder(TorchDispatchMode):
    """Inside, every operation is counted and timed; gradients that are added up are so beside, and not in place."""

    def __init__(self, device: torch.device):
        super().__init__()
        self.device, self.found, self.patches = device, {}, ExitStack()
        for product, name in ((p, n) for p in (winograd.Winograd, kernels.Product) for n in ("forward", "backward")):
            own = staticmethod(partial(self.own, getattr(product, name)))
            self.patches.enter_context(patch.object(product, name, own))

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given, call = [*args, *(kwargs or {}).values()], partial(function, *args, **(kwargs or {}))
        return self.noted(function.overloadpacket.__name__, given, call, function._schema)

    def own(self, function: Callable, ctx: Any, *given: Any) -> Any:
        """A convolution in a way of gantk's own, noted as the one operation that it is."""
        backward = len(given) == 1
        x, weight, bias, windows, transposed = (
            (*ctx.saved_tensors[:3], ctx.windows, ctx.transposed) if backward else given
        )
        dtype, ones = given[0].dtype if backward else kernels.precision(x), [1] * len(windows.stride)
        said = [given[0], x, weight, None] if backward else [x, weight, bias]
        with _disable_current_modes():
            said = tree_map_only(Tensor, lambda t: t.to(dtype), said)
            said += [[*windows.stride], [*windows.padding], ones, transposed, [0] * len(ones), 1]
            said += [[*ctx.needs_input_grad[:3]]] if backward else []
            return self.noted("convolution" + "_backward" * backward, said, partial(function, ctx, *given))

    def noted(self, name: str, given: list, call: Callable[[], Any], schema: Any = None) -> Any:
        """What the call returns, after its time and what it was called with are noted."""
        synchronize(self.device)
        began = time.perf_counter()
        out = call()
        synchronize(self.device)
        took, kinds = time.perf_counter() - began, tree_map_only(Tensor, lambda t: t.detach().to("meta"), given)
        new = Called(name, kinds, moved(name, schema, given, out) if schema else 0)
        one = self.found.setdefault(f"{name} {kinds}", new)
        one.calls, one.seconds = one.calls + 1, one.seconds + took
        return out


def moved(name: str, schema: Any, given: list, out: Any) -> int:
    """Bytes that an operation reads and writes; what is expanded counts once."""
    if name in ASKED or any(each.alias_info and not each.alias_info.is_write for each in schema.returns):
        return 0
    about = [each.alias_info and each.alias_info.is_write for each in schema.arguments]
    changed = [each for each, written in zip(given, about, strict=False) if written]
    found = [each for each in tree_leaves([given[name in REPLACED :], changed or out]) if isinstance(each, Tensor)]
    sizes = [[n for n, stride in zip(t.shape, t.stride(), strict=True) if stride] for t in found]
    return sum(t.element_size() * int(np.prod(size)) for t, size in zip(found, sizes, strict=True))
