"""What a step computes, counted while it runs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

CLAIMS = ("_unsafe_view", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")


class Counter(TorchDispatchMode):
    """Counts what is dispatched under it: `flops` of convolutions, matrix products and attention, and `operators`,
    without those that only look at memory in another way or claim it.

    The formulas are torch's own (torch.utils.flop_counter), two operations for a multiplication with its addition.
    Its FlopCounterMode also follows modules, by hooks that a gradient inside a loss does not get past.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.operators = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        self.operators += not _is_idle(func)
        return out


def counted(work: Callable[[], object]) -> tuple[int, int]:
    """(floating-point operations, operators without views) of one call, which is carried out."""
    with Counter() as counter:
        work()
    return counter.flops, counter.operators


def _is_idle(func: torch._ops.OpOverload) -> bool:
    returns, name = func._schema.returns, func._overloadpacket.__name__
    view = bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)
    return view or name in CLAIMS
