"""Activation checkpointing: what layers would keep for the backward pass is computed again when it is needed.

Every network is taken in blocks (a level of a U-Net, a residual block, a norm with what follows it), of which only the
input is kept (Chen et al., 2016, "Training deep nets with sublinear memory cost"). Gradients are those of the plain
step to the bit: random numbers, autocast and buffers are the second time what they were the first, and move once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gantk.errors import GantkError
from gantk.method import Method

CHEAP = (nn.Identity, nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.SiLU, nn.GELU, nn.ELU, nn.PReLU, nn.Flatten)
LONG = 3  # more layers in a Sequential than this are several blocks
Forward = Callable[..., Any]


def recompute(method: Method) -> Method:
    """Make every network that the method trains compute its activations twice instead of keeping them; in place."""
    for network in dict.fromkeys(module for phase in method.phases() for module in phase.updates):
        _divide(network)
    return method


class Recomputed:
    """In the place of a forward, while its module trains: keeps its arguments, and runs once more in the backward pass.

    `module` is the one whose buffers must be the same both times.
    """

    def __init__(self, module: nn.Module, forward: Forward):
        self.module, self.forward = module, forward

    def __call__(self, *args: Any, **options: Any) -> Any:
        if not (self.module.training and torch.is_grad_enabled()):
            return self.forward(*args, **options)
        versions = [(tensor, tensor._version) for tensor in args if isinstance(tensor, Tensor)]
        buffers = Buffers(self.module)
        own = {"use_reentrant": False, "context_fn": lambda: (nullcontext(), buffers)}
        result = checkpoint(self.forward, *args, **own, **options)
        if any(tensor._version != version for tensor, version in versions):
            what = f"{type(self.module).__name__} changes its input in place, so that it cannot be computed again."
            raise GantkError(f"{what} Set train.recompute = false.")
        return result


class Buffers:
    """A module's buffers as they are now: batch norm's statistics, spectral norm's vectors.

    Inside a `with`, any number of times, the module has copies of them in the place of its own, which stay as they are.
    """

    def __init__(self, module: nn.Module):
        found = [(owner._buffers, name, b) for owner in module.modules() for name, b in owner._buffers.items()]
        self.values = [(owner, name, value.detach().clone()) for owner, name, value in found if value is not None]

    def __enter__(self) -> None:
        self.own = [owner[name] for owner, name, _ in self.values]
        for owner, name, value in self.values:
            owner[name] = value.clone()

    def __exit__(self, *exc: object) -> None:
        for (owner, name, _), value in zip(self.values, self.own, strict=True):
            owner[name] = value
        del self.own


def _divide(module: nn.Module) -> None:
    """Make a block of a module, or of its parts."""
    children = _children(module)
    blocks = [child for child in children if _maps(child) > 1]
    for child in blocks:
        _divide(child)
    if type(module).forward is nn.Sequential.forward and _maps(module) > LONG:
        module.forward = _in_turn(list(_runs(module)))
    elif children and not blocks and _maps(module) > 1:
        module.forward = Recomputed(module, module.forward)


def _in_turn(runs: list[Forward]) -> Forward:
    """One after the other, as a Sequential calls its children."""

    def forward(x: Any) -> Any:
        for run in runs:
            x = run(x)
        return x

    return forward


def _runs(layers: nn.Sequential) -> Iterator[Forward]:
    """A Sequential's children, taken together from one norm to the convolution behind it.

    Such a run starts with what the convolution ahead of it made, and ends in one that keeps its input alone: neither of
    the two is computed twice.
    """
    run: list[nn.Module] = []
    for child in (*layers, None):
        block = child is not None and _maps(child) > 1  # has blocks of its own
        if child is not None and not block:
            run.append(child)
        if child is None or block or any(parameter.ndim > 1 for parameter in child.parameters()):
            while run and getattr(run[0], "inplace", False):  # it would change what the run starts with
                yield run.pop(0)
            yield from [Recomputed(layers, _in_turn(run))] if sum(map(_maps, run)) > 1 else run
            run = []
        if block:
            yield child


def _maps(module: nn.Module) -> int:
    """How many layers of a module keep a map of their own for the backward pass."""
    children = _children(module)
    return sum(map(_maps, children)) if children else not isinstance(module, CHEAP)


def _children(module: nn.Module) -> list[nn.Module]:
    """What a module calls; nothing where what it does with its parts is its own affair (see `receptive_field`)."""
    found: list[nn.Module] = []
    if not getattr(module, "indivisible", False):
        for name, child in module.named_children():
            if isinstance(child, nn.ModuleList | nn.ModuleDict):
                found += _children(child)
            elif name != "parametrizations":
                found.append(child)
    return found
