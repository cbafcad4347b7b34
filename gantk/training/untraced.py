"""Optimizers without torch's compiler, which torch's own import at their first use to tell it to keep out."""

from __future__ import annotations

import inspect

import torch
from torch.optim import Optimizer


class Untraced:
    """For an optimizer of torch's, named first among its bases: it computes the same and imports no compiler.

    That import takes nearly as long as torch's own, before the first step. What torch.compile compiles here are losses,
    never optimizers, so that there is nothing to keep it out of.
    """

    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    load_state_dict = inspect.unwrap(Optimizer.load_state_dict)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    zero_grad = inspect.unwrap(Optimizer.zero_grad)

    def __init_subclass__(cls, **options) -> None:
        super().__init_subclass__(**options)
        if hasattr(cls, "step"):  # a class that only passes this on has none
            cls.step = torch.no_grad()(inspect.unwrap(cls.step))
