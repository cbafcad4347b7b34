"""Networks that are built to be loaded: weights that a checkpoint replaces are not drawn first."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

Module = TypeVar("Module", bound=nn.Module)
DRAWING = {"normal_", "uniform_", "trunc_normal_", "kaiming_normal_", "kaiming_uniform_", "xavier_normal_"}
DRAWING |= {"xavier_uniform_"}


class Undrawn(TorchFunctionMode):
    """Inside the `with`, parameters become nan where they would be filled at random."""

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__name__", "") in DRAWING:
            tensor = args[0] if args else kwargs.get("tensor")
            if isinstance(tensor, nn.Parameter):
                tensor.detach().fill_(math.nan)
                return tensor
        return function(*args, **kwargs)


def to_be_loaded(build: Callable[[], Module], seed: int) -> Module:
    """What `build` makes, whose parameters will all be loaded; it seeds torch with `seed` before it draws anything.

    Drawing 80 million numbers takes seconds. Where it draws others beside parameters, which would now be others, or
    makes of drawn ones what no checkpoint holds, it builds again, as it does by itself.
    """
    torch.manual_seed(seed)
    untouched = torch.get_rng_state()
    with Undrawn():
        module = build()
    whole = torch.equal(torch.get_rng_state(), untouched) and not _spoilt(module)
    return module if whole else build()


def _spoilt(module: nn.Module) -> bool:
    """Whether nan of a parameter went on to a buffer that no checkpoint holds, or to a number."""
    saved = module.state_dict().keys()
    buffers = (buffer for name, buffer in module.named_buffers() if name not in saved)
    numbers = (value for part in module.modules() for value in vars(part).values() if isinstance(value, float))
    return any(bool(buffer.isnan().any()) for buffer in buffers) or any(map(math.isnan, numbers))
