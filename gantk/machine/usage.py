"""Time and memory that a process uses, over the starts and resumes of a run."""

from __future__ import annotations

import itertools
import os
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

IMPORTED = time.monotonic()
STAT = Path("/proc/self/stat")
MEMINFO = Path("/proc/meminfo")
# field 22 of /proc/PID/stat, counted after the command's name, which may contain spaces
START_TICKS = 19
GIB = 2**30


def since_start() -> float:
    """Seconds since this process was started, imports included (Linux); elsewhere since this module
    was imported.
    """
    imported = time.monotonic() - IMPORTED
    try:
        started = int(STAT.read_text().rpartition(")")[2].split()[START_TICKS]) / os.sysconf(
            "SC_CLK_TCK"
        )
        return max(imported, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
    except (OSError, ValueError, IndexError, AttributeError):
        return imported


def peak_memory(device: Any = "cpu") -> float | None:
    """Peak memory so far in GiB: of torch's tensors on a CUDA device, else of this process; None if
    unknown.
    """
    if str(device).startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(device) / GIB

    try:
        import resource
    except ImportError:  # Windows
        return None

    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, else KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB


def free_memory(device: Any = "cpu") -> float | None:
    """Free memory in GiB, of the CUDA device or of the system; None if unknown."""
    if str(device).startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)[0] / GIB

    lines = MEMINFO.read_text().splitlines() if MEMINFO.is_file() else []
    return next(
        (int(line.split()[1]) / 2**20 for line in lines if line.startswith("MemAvailable")), None
    )


class Used:
    """Time and memory of a training, over its resumes: usage.json of its run folder.

    `earlier` is that file's content so far, or {}.
    """

    def __init__(self, earlier: dict[str, Any], device: Any):
        self.earlier = earlier
        self.device = device
        self.first_step: float | None = earlier.get("first_step_s")

    def seconds_at(self, step: int, logged: float) -> float:
        """Seconds of training up to a step: saved with its checkpoint, else logged before it."""
        if step and self.earlier.get("step") == step:
            return self.earlier.get("seconds") or logged
        return logged

    def state(self, step: int, seconds: float) -> dict[str, Any]:
        """The content of usage.json after a step; the peak memory is that of all resumes."""
        peaks = [self.earlier.get("peak_memory_gib"), peak_memory(self.device)]
        return {
            "step": step,
            "seconds": seconds,
            "first_step_s": self.first_step,
            "peak_memory_gib": max((peak for peak in peaks if peak is not None), default=None),
        }


def speed_of(log: list[dict[str, Any]], used: dict[str, Any] | None = None) -> dict[str, Any]:
    """Speed of a training, from log.jsonl and usage.json; {} if nothing was logged.

    images_per_s: median over log points; seconds: of training, without validation and saving;
      step_seconds: mean
    seconds per step of each log interval; first_step_s: from the start of the process to the end of
    its first step;
    peak_memory_gib: over all resumes. Unknown values are None.
    """
    lines = [line for line in log if None not in (line.get("images_per_s"), line.get("seconds"))]
    if not lines:
        return {}

    ends = [(0, 0.0), *((line["step"], line["seconds"]) for line in lines)]
    spans = [
        (step - first, later - began) for (first, began), (step, later) in itertools.pairwise(ends)
    ]
    used = used or {}
    return {
        "images_per_s": round(median(line["images_per_s"] for line in lines), 2),
        "seconds": lines[-1]["seconds"],
        "steps": lines[-1]["step"],
        "step_seconds": [round(seconds / steps, 6) for steps, seconds in spans if steps > 0],
        **{name: used.get(name) for name in ("first_step_s", "peak_memory_gib")},
    }
