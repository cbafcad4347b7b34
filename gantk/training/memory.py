"""The memory of a training: a lower bound of it, computed beforehand by building its networks from
tensors without storage; settings that lower it; and the out-of-memory error that names them.

Activations are not counted: `gantk run --try` measures them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import prod

import torch

from gantk.errors import GantkError, UserError, memory_ended, one_line
from gantk.machine.runtime import Runtime
from gantk.machine.usage import GIB, free_memory
from gantk.method import Geometry
from gantk.recipe.tables import CheckedRecipe


def lighter(model: CheckedRecipe, device: str) -> Iterator[tuple[str, ...]]:
    """Yield sets of settings that lower the memory of a training and are not in force, the mildest
    first.
    """
    train = model.train
    data = model.data
    on_device: tuple[str, ...] = ()
    if device.startswith("cpu"):
        on_device = ("train.fast.keep_memory=false",) if train.fast.keep_memory else ()
    elif train.fast.cuda_graph:  # a recorded step keeps memory of its own
        on_device = ("train.fast.cuda_graph=false",)
    microbatches = ("train.microbatch=1",) if train.batch > 1 and train.microbatch != 1 else ()
    single = ("train.batch=1",) if train.batch > 1 else ()
    for option in dict.fromkeys((microbatches, single)):
        if settings := on_device + option:
            yield settings

    for halvings in (1, 2):
        sides = [side >> halvings for side in data.patch or data.size]
        if min(sides) >= 8:
            yield (
                *on_device,
                *single,
                f"data.{'patch' if data.patch else 'size'}={sides}".replace(" ", ""),
            )


@contextmanager
def memory_advice(model: CheckedRecipe, runtime: Runtime) -> Iterator[None]:
    """Context manager: turns an out-of-memory error into a GantkError that names settings which
    take less.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise

        first = one_line(error).rstrip(".")
        remedies = list(
            dict.fromkeys(each for way in lighter(model, runtime.device.type) for each in way)
        )
        remedies += [] if runtime.precision == "bf16" else ['train.precision="bf16"']
        what = (
            f"out of memory on {runtime.device}: {first}. These settings need less:"
            f" {'; '.join(remedies)}"
        )
        raise GantkError(
            f"{what}. `gantk run RECIPE --try` measures a training in a few steps."
        ) from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that the memory of a device or of the process is exhausted."""
    return isinstance(error, torch.OutOfMemoryError) or memory_ended(error)


@dataclass(frozen=True)
class Cost:
    """A lower bound of a training's memory in bytes.

    weights: millions of parameters. state: parameters, gradients and the optimizer's moments, if
    any. kept: image pools and other buffers. images: one step's batch, and outputs of the same size.
    """

    weights: float
    state: int
    kept: int
    images: int

    @property
    def gib(self) -> float:
        """The sum in GiB."""
        return (self.state + self.kept + self.images) / GIB

    def __str__(self) -> str:
        parts = {
            f"{self.weights:,.1f} M weights with gradients and moments": self.state,
            "image pools": self.kept,
            "the images of a step": self.images,
        }
        return ", ".join(
            f"{size / GIB:,.2f} GiB for {name}"
            for name, size in parts.items()
            if size > 0.005 * GIB
        )


def cost_of(model: CheckedRecipe) -> Cost:
    """The lower bound of a recipe's training; without weights if its method cannot be built this
    way.
    """
    data = model.data
    train = model.train
    size = data.patch or data.size
    letters = "ab" if len(data.domains) == 2 else ["image"]
    channels = {
        x: (1 + d.count("+")) * (2 * data.neighbours + 1)
        for x, d in zip(letters, data.domains, strict=True)
    }
    weights = buffers = 0
    with suppress(Exception), torch.device("meta"):  # the training itself reports the error
        method = model.method(Geometry(data.dims, size, channels, ("", " ") if data.labels else ()))
        weights, buffers = (
            sum(each.nbytes for each in some) for some in (method.parameters(), method.buffers())
        )

    moments = 2 * weights if "betas" in train.optimizer.options else 0
    images = 8 * train.batch * prod(size) * sum(channels.values())
    return Cost(weights / 4e6, 2 * weights + moments, buffers, images)


def require_memory(model: CheckedRecipe, runtime: Runtime) -> None:
    """Raise UserError, with figures, for a training that does not fit into the free memory of its
    device.
    """
    cost = cost_of(model)
    free = free_memory(runtime.device)
    if free is not None and cost.gib > free:
        raise UserError(
            f"this training needs at least {cost.gib:,.1f} GiB, but only {free:.1f} GiB are"
            f" available: {cost}",
            where="method, data, train",
            remedy="lower the width or depth of the networks, method.pool, data.size or"
            " train.batch, or set data.patch",
        )
