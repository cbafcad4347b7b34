"""Activation checkpointing: recomputes activations in the backward pass instead of storing them.

Networks are divided into blocks (a level of a U-Net, a residual block, a norm with the layers after
it); only a block's input is stored (Chen et al., 2016, "Training deep nets with sublinear memory
cost"). Gradients equal those of the plain step to the bit: the recomputation uses the same random
numbers, autocast and buffers, and updates none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gantk.errors import GantkError
from gantk.method import Method

CHEAP_LAYERS = (
    nn.Identity,
    nn.ReLU,
    nn.LeakyReLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.SiLU,
    nn.GELU,
    nn.ELU,
    nn.PReLU,
    nn.Flatten,
)
MAX_LAYERS_PER_BLOCK = 3  # a Sequential with more layers than this is divided into several blocks
Forward = Callable[..., Any]


def recompute(method: Method) -> Method:
    """Set up checkpointing, in place, in every network that is trained; returns the method."""
    for network in dict.fromkeys(module for phase in method.phases() for module in phase.updates):
        _divide(network)
    return method


class Recomputed:
    """Replaces a module's `forward`: in training it stores only the arguments and runs again in the
    backward pass.

    `module` owns the buffers that must be the same in both runs.
    """

    def __init__(self, module: nn.Module, forward: Forward):
        self.module = module
        self.forward = forward

    def __call__(self, *args: Any, **options: Any) -> Any:
        if not (self.module.training and torch.is_grad_enabled()):
            return self.forward(*args, **options)

        versions = [(tensor, tensor._version) for tensor in args if isinstance(tensor, Tensor)]
        buffers = Buffers(self.module)
        result = checkpoint(
            self.forward,
            *args,
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), buffers),
            **options,
        )
        if any(tensor._version != version for tensor, version in versions):
            what = (
                f"{type(self.module).__name__} changes its input in place, so it cannot be"
                " computed again."
            )
            raise GantkError(f"{what} Set train.recompute = false.")

        return result


class Buffers:
    """A snapshot of a module's buffers: batch norm's statistics, spectral norm's vectors.

    Inside a `with` (repeatable), the module uses copies of the snapshot; afterwards it has its own
    buffers again.
    """

    def __init__(self, module: nn.Module):
        found = [
            (owner._buffers, name, b)
            for owner in module.modules()
            for name, b in owner._buffers.items()
        ]
        self.values = [
            (owner, name, value.detach().clone())
            for owner, name, value in found
            if value is not None
        ]

    def __enter__(self) -> None:
        self.own = [owner[name] for owner, name, _ in self.values]
        for owner, name, value in self.values:
            owner[name] = value.clone()

    def __exit__(self, *exc: object) -> None:
        for (owner, name, _), value in zip(self.values, self.own, strict=True):
            owner[name] = value
        del self.own


def _divide(module: nn.Module) -> None:
    """Make a module one checkpointed block, or divide its children into blocks."""
    children = _children(module)
    blocks = [child for child in children if _maps(child) > 1]
    for child in blocks:
        _divide(child)

    layers = module if isinstance(module, nn.Sequential) else None
    in_turn = type(module).forward is nn.Sequential.forward
    if layers is not None and in_turn and _maps(module) > MAX_LAYERS_PER_BLOCK:
        module.forward = _in_turn(list(_runs(layers)))
    elif children and not blocks and _maps(module) > 1:
        module.forward = Recomputed(module, module.forward)


def _in_turn(runs: Sequence[Forward]) -> Forward:
    """A function that calls functions one after the other, as a Sequential does."""

    def forward(x: Any) -> Any:
        for run in runs:
            x = run(x)
        return x

    return forward


def _runs(layers: nn.Sequential) -> Iterator[Forward]:
    """Yield a Sequential's children, grouped from each norm to the next convolution.

    A group's input is the output of the convolution before it, and its last layer stores only its
    own input, so that no convolution's output is stored twice.
    """
    run: list[nn.Module] = []
    for child in (*layers, None):
        block = child is not None and _maps(child) > 1  # it is divided into blocks itself
        if child is not None and not block:
            run.append(child)

        if child is None or block or any(parameter.ndim > 1 for parameter in child.parameters()):
            while run and getattr(run[0], "inplace", False):  # it would overwrite the group's input
                yield run.pop(0)
            yield from [Recomputed(layers, _in_turn(run))] if sum(map(_maps, run)) > 1 else run
            run = []

        if block:
            yield child


def _maps(module: nn.Module) -> int:
    """The number of layers of a module that store a map for the backward pass."""
    children = _children(module)
    return sum(map(_maps, children)) if children else not isinstance(module, CHEAP_LAYERS)


def _children(module: nn.Module) -> list[nn.Module]:
    """A module's children, with those of lists and dicts; none if it is `indivisible` (see
    `receptive_field`).
    """
    found: list[nn.Module] = []
    if not getattr(module, "indivisible", False):
        for name, child in module.named_children():
            if isinstance(child, nn.ModuleList | nn.ModuleDict):
                found += _children(child)
            elif name != "parametrizations":
                found.append(child)

    return found
