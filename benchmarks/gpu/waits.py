"""Where the host waits for the device, as torch itself counts it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import torch

STEPS = 20  # between two log points of a training, by default
SECONDS = 2.0  # that they may take: fewer are looked at where steps are slow
WARNING = "called a synchronizing CUDA operation"


def how_many(step_s: float) -> int:
    """The steps to look at, where one takes so long."""
    return max(2, min(STEPS, int(SECONDS / step_s)))


def host_waits(step: Callable[[], object], device: torch.device, steps: int) -> list[str] | None:
    """The places, `file.py:line`, at which the host waited in so many steps; None where torch does not count it."""
    if device.type != "cuda":
        return None
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(steps):
                step()
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return [f"{Path(found.filename).name}:{found.lineno}" for found in caught if WARNING in str(found.message)]
