"""Networks that are built to be loaded: weights that a checkpoint replaces are not drawn first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

Module = TypeVar("Module", bound=nn.Module)
DRAWING = {"normal_", "uniform_", "trunc_normal_", "kaiming_normal_", "kaiming_uniform_", "xavier_normal_"}
DRAWING |= {"xavier_uniform_"}


class Undrawn(TorchFunctionMode):
    """Inside the `with`, parameters keep whatever lies in their memory where they would be filled at random."""

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__name__", "") in DRAWING:
            tensor = args[0] if args else kwargs.get("tensor")
            if isinstance(tensor, nn.Parameter):
                return tensor
        return function(*args, **kwargs)


def to_be_loaded(build: Callable[[], Module], seed: int) -> Module:
    """What `build` makes, whose parameters will all be loaded; it seeds torch with `seed` before it draws anything.

    Drawing 80 million numbers takes seconds. Where it draws others beside parameters, such as a buffer that no
    checkpoint holds, which would now be others, it builds again, as it does by itself.
    """
    torch.manual_seed(seed)
    untouched = torch.get_rng_state()
    with Undrawn():
        module = build()
    return module if torch.equal(torch.get_rng_state(), untouched) else build()
