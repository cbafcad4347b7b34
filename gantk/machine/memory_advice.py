"""Out of memory, in words that help."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gantk.errors import GantkError
from gantk.machine.runtime import Runtime
from gantk.recipe.tables import Model


@contextmanager
def memory_advice(model: Model, runtime: Runtime) -> Iterator[None]:
    """Around a training: where memory runs out, GantkError with the settings that would take less."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if not (isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text):
            raise
        first = text.strip().split("\n")[0].rstrip(".")
        remedy = "; ".join(settings(model, runtime.precision))
        what = f"out of memory on {runtime.device}: {first}. What takes less: {remedy}"
        raise GantkError(f"{what}. gantk doctor --recipe RECIPE says what would fit.") from error


def settings(model: Model, precision: str) -> Iterator[str]:
    """What lowers the memory of a training and is not in force, the mildest first."""
    train = model.train
    if train.batch > 1 and train.microbatch != 1:
        yield "train.microbatch = 1"
    if not train.recompute:
        yield "train.recompute = true"
    if precision != "bf16":
        yield 'train.precision = "bf16"'
    if train.batch > 1:
        yield f"train.batch below {train.batch}"
    yield f"smaller images (data.{'patch' if model.data.patch else 'size'})"
