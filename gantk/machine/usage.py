"""Time and memory that a process uses, over the starts and resumes of a run."""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path
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


def peak_memory(device: Any) -> float:
    """Peak memory so far in GiB: of torch's tensors on a CUDA device, else of this process."""
    if str(device).startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(device) / GIB

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
