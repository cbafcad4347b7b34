"""Everything that makes a training step faster or smaller without changing its result; `accelerate`
applies it.
"""

from __future__ import annotations

import torch

from gantk.machine.device import keep_memory
from gantk.machine.runtime import Runtime
from gantk.method import Method, Phase
from gantk.nets.kernels import use_kernels
from gantk.recipe.tables import TrainTable


def accelerate(
    method: Method, phases: list[Phase], runtime: Runtime, train: TrainTable, notes: list[str]
):
    """Set up the method and this process as `train.fast` and `train.recompute` say; returns the
    phases to run.

    Fallbacks are added to `notes`. The rest is set elsewhere: the memory format by `Runtime.place`,
    fused updates and CUDA graphs by the engine, pinned batches by the prefetcher.
    """
    fast = train.fast
    method.batched = fast.batched_forward
    use_kernels(method, fast.kernels)
    keep_memory(fast.keep_memory, runtime.device.type)
    if runtime.device.type == "cuda":
        torch.backends.cudnn.benchmark = fast.benchmark

    if train.recompute:
        from gantk.training.accelerate.recompute import recompute

        recompute(method)
        if fast.compile:
            notes.append(
                "train.fast.compile: no phase is compiled, because torch cannot trace"
                " modules that train.recompute computes twice"
            )

        return phases

    if fast.compile:
        # torch's compiler takes a second to import
        from gantk.training.accelerate.compile import compile_phases

        return compile_phases(method, phases, notes)

    return phases
