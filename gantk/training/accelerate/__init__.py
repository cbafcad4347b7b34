"""Everything that makes a training step faster or smaller without changing its result; `accelerate`
applies it.
"""

from __future__ import annotations

import torch

from gantk.machine.device import keep_memory
from gantk.machine.runtime import Runtime
from gantk.method import Method
from gantk.nets.kernels import use_kernels
from gantk.recipe.tables import TrainTable


def accelerate(method: Method, runtime: Runtime, train: TrainTable) -> None:
    """Set up the method and this process as `train.fast` says.

    The rest is set elsewhere: the memory format by `Runtime.place`, fused updates and CUDA graphs by
    the engine, pinned batches by the prefetcher.
    """
    fast = train.fast
    method.batched = fast.batched_forward
    use_kernels(method, fast.kernels)
    keep_memory(fast.keep_memory, runtime.device.type)
    if runtime.device.type == "cuda":
        torch.backends.cudnn.benchmark = fast.benchmark
