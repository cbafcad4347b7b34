"""What a training takes at the least, counted ahead of it: its networks are built of tensors that hold no numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from gantk.errors import UserError
from gantk.machine.usage import GIB, free_memory
from gantk.method import Geometry

if TYPE_CHECKING:
    from gantk.recipe.tables import Model

LARGE = 2**20  # bytes of a tensor from which on it is only counted
MAKING = ("empty", "zeros", "ones", "rand", "randn")
DRAWING = ("normal_", "uniform_", "trunc_normal_", "kaiming_uniform_", "kaiming_normal_", "xavier_uniform_")


class Hollow(TorchFunctionMode):
    """Around what builds networks: large tensors are made on the device "meta", where they take no memory and no time.

    Small ones are made as always: what a part keeps for the next that is built is a tensor with numbers.
    """

    def __torch_function__(self, call: Callable, types: Any, args: tuple = (), options: dict | None = None) -> Any:
        options = options or {}
        name = getattr(call, "__name__", "")
        if name in DRAWING:
            drawn = args[0] if args else options["tensor"]
            if drawn.is_meta:
                return drawn
        if name in MAKING:
            size = options.get("size", args[0] if args and isinstance(args[0], Sequence) else args)
            if all(isinstance(side, int) for side in size) and 4 * prod(size) > LARGE:
                return torch.empty(size, device="meta", dtype=options.get("dtype"))
        return call(*args, **options)


@dataclass(frozen=True)
class Cost:
    """The least that a training holds in memory at a time, in bytes: activations come on top of it.

    weights: M parameters. state: these, their gradients, and the optimizer's moments where it has any; moments: the
    last of them alone. kept: image pools and other buffers. images: one step's batch, and as much that is made of it.
    """

    weights: float
    state: int
    moments: int
    kept: int
    images: int

    @property
    def gib(self) -> float:
        """All of it."""
        return (self.state + self.kept + self.images) / GIB

    def __str__(self) -> str:
        parts = {f"{self.weights:,.1f} M weights with gradients and moments": self.state, "image pools": self.kept}
        parts["the images of a step"] = self.images
        return ", ".join(f"{name} {size / GIB:,.2f} GiB" for name, size in parts.items() if size > 0.005 * GIB)


def cost_of(model: Model) -> Cost:
    """What a recipe's training takes at the least; weights are left out where a method cannot be built like this."""
    data, train = model.data, model.train
    size, letters = data.patch or data.size, "ab" if len(data.domains) == 2 else ["image"]
    channels = {x: (1 + d.count("+")) * (2 * data.neighbours + 1) for x, d in zip(letters, data.domains, strict=True)}
    weights = buffers = 0
    with suppress(Exception), Hollow():  # the training itself tells what is wrong with it
        method = model.method(Geometry(data.dims, size, channels, ("", " ") if data.labels else ()))
        weights, buffers = (sum(each.nbytes for each in some) for some in (method.parameters(), method.buffers()))
    moments = 2 * weights if "betas" in train.optimizer.options else 0
    return Cost(
        weights / 4e6, 2 * weights + moments, moments, buffers, 8 * train.batch * prod(size) * sum(channels.values())
    )


def most_memory() -> float | None:
    """GiB of the device of this machine that has most; None where that is not known."""
    cards = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    rooms = [free_memory(), *(torch.cuda.get_device_properties(card).total_memory / GIB for card in cards)]
    return None if None in rooms else max(rooms)


def require_memory(model: Model) -> None:
    """UserError, with figures, for a training that no device of this machine has the memory for."""
    cost, most = cost_of(model), most_memory()
    if most is not None and cost.gib > most:
        what = f"this training takes {cost.gib:,.1f} GiB at the least, and there are {most:.1f} GiB: {cost}"
        remedy = "lower the networks' width or depth, method.pool, data.size or train.batch, or set data.patch"
        raise UserError(what, where="method, data, train", remedy=remedy)
