"""Settings that lower a training's memory, and the out-of-memory error that names them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from gantk.errors import GantkError, memory_ended, one_line

if TYPE_CHECKING:
    from gantk.machine.runtime import Runtime
    from gantk.recipe.tables import Model


def lighter(model: Model, device: str) -> Iterator[tuple[str, ...]]:
    """Yield sets of settings that lower the memory of a training and are not in force, the mildest
    first.
    """
    train = model.train
    data = model.data
    on_device: tuple[str, ...] = ()
    if device.startswith("cpu"):
        on_device = ("train.fast.keep_memory=false",)
    elif train.fast.cuda_graph:  # a recorded step keeps memory of its own
        on_device = ("train.fast.cuda_graph=false",)
    recomputing = () if train.recompute else ("train.recompute=true",)
    microbatches = ("train.microbatch=1",) if train.batch > 1 and train.microbatch != 1 else ()
    single = ("train.batch=1",) if train.batch > 1 else ()
    options = [
        recomputing,
        microbatches,
        recomputing + microbatches,
        recomputing + single if single else (),
    ]
    yield from (on_device + option for option in dict.fromkeys(filter(None, options)))
    for halvings in (1, 2):
        sides = [side >> halvings for side in data.patch or data.size]
        if min(sides) >= 8:
            yield (
                *on_device,
                *recomputing,
                *single,
                f"data.{'patch' if data.patch else 'size'}={sides}".replace(" ", ""),
            )


@contextmanager
def memory_advice(model: Model, runtime: Runtime) -> Iterator[None]:
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
        raise GantkError(f"{what}. `gantk run RECIPE --try` shows which of them fit.") from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that the memory of a device or of the process is exhausted."""
    return isinstance(error, torch.OutOfMemoryError) or memory_ended(error)
