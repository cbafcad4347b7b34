"""The memory of a training: a lower bound of it, computed beforehand by building its networks from
tensors without storage; settings that lower it; and the out-of-memory error that names them.

Activations are not counted: `gantk run --try` measures them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from math import prod

import torch

from gantk.errors import GantkError, UserError, memory_ended, one_line
from gantk.machine.runtime import Runtime
from gantk.machine.usage import GIB, free_memory
from gantk.method import Geometry
from gantk.recipe.tables import CheckedRecipe


def lighter(model: CheckedRecipe, device: str) -> Iterator[str]:
    """Yield settings of which each lowers the memory of a training and is not in force, the mildest
    first.
    """
    train = model.train
    data = model.data
    if train.batch > 1 and train.microbatch != 1:
        yield "train.microbatch=1"
    if device.startswith("cpu"):
        if train.fast.keep_memory:
            yield "train.fast.keep_memory=false"
    elif train.fast.cuda_graph:  # a recorded step keeps memory of its own
        yield "train.fast.cuda_graph=false"
    if train.batch > 1:
        yield "train.batch=1"
    sides = [side // 2 for side in data.patch or data.size]
    if min(sides) >= 8:
        key = "patch" if data.patch else "size"
        yield f"data.{key}={sides}".replace(" ", "")


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
        remedies = list(lighter(model, runtime.device.type))
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


def least_memory(model: CheckedRecipe) -> dict[str, float]:
    """GiB that a recipe's training needs at least, by what they are for: parameters, gradients and the
    optimizer's moments, if any; image pools and other buffers; one step's batch, and outputs of the
    same size. Without weights if the method cannot be built from tensors without storage.
    """
    data = model.data
    train = model.train
    size = data.patch or data.size
    letters = "ab" if len(data.domains) == 2 else ["image"]
    channels = {
        x: (1 + d.count("+")) * (2 * data.neighbours + 1)
        for x, d in zip(letters, data.domains, strict=True)
    }
    weights = 0
    buffers = 0
    with suppress(Exception), torch.device("meta"):  # the training itself reports the error
        method = model.method(Geometry(data.dims, size, channels, ("", " ") if data.labels else ()))
        weights = sum(each.nbytes for each in method.parameters())
        buffers = sum(each.nbytes for each in method.buffers())

    copies = 4 if "betas" in train.optimizer.options else 2
    return {
        f"{weights / 4e6:,.1f} M weights with gradients and moments": copies * weights / GIB,
        "image pools": buffers / GIB,
        "the images of a step": 8 * train.batch * prod(size) * sum(channels.values()) / GIB,
    }


def in_gib(memory: Mapping[str, float]) -> str:
    """Memory by what it is for, in words."""
    return ", ".join(f"{gib:,.2f} GiB for {what}" for what, gib in memory.items() if gib > 0.005)


def require_memory(model: CheckedRecipe, runtime: Runtime) -> None:
    """Raise UserError, with figures, for a training that does not fit into the free memory of its
    device.
    """
    least = least_memory(model)
    needed = sum(least.values())
    free = free_memory(runtime.device)
    if free is not None and needed > free:
        raise UserError(
            f"this training needs at least {needed:,.1f} GiB, but only {free:.1f} GiB are"
            f" available: {in_gib(least)}",
            where="method, data, train",
            remedy="lower the width or depth of the networks, method.pool, data.size or"
            " train.batch, or set data.patch",
        )
