"""Time, memory and energy that a process uses, and their sums over the starts and resumes of a run."""

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
POWERCAP = Path("/sys/class/powercap")
# field 22 of /proc/PID/stat, counted after the command's name, which may contain spaces
START_TICKS = 19
GIB = 2**30
# file of a counter -> (last reading, overflows so far in microjoules)
_rapl: dict[Path, tuple[int, int]] = {}


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


def energy(device: Any = "cpu") -> float | None:
    """The reading of an energy counter in joules: subtract two of them. None if no counter can be
    read.

    CUDA: the GPU's own counter (NVML, package pynvml); else that of all CPU packages (RAPL), other
    processes included. A RAPL counter overflows after ten minutes or more: read it more often than
    that.
    """
    try:
        if not str(device).startswith("cuda"):  # `intel-rapl:N` includes its parts `intel-rapl:N:M`
            zones = [
                zone for zone in POWERCAP.glob("intel-rapl:[0-9]*") if zone.name.count(":") == 1
            ]
            return sum(map(_package, zones)) / 1e6 if zones else None
        import pynvml
        import torch

        pynvml.nvmlInit()  # found by UUID, as CUDA_VISIBLE_DEVICES renumbers GPUs
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        return (
            pynvml.nvmlDeviceGetTotalEnergyConsumption(pynvml.nvmlDeviceGetHandleByUUID(uuid))
            / 1000
        )
    # not installed, no driver, no permission (RAPL often needs root), GPU too old
    except Exception:
        return None


def _package(zone: Path) -> int:
    """A CPU package's energy in microjoules, with overflows of its counter added."""
    now = int((zone / "energy_uj").read_text())
    last, turns = _rapl.get(zone, (now, 0))
    if now < last:
        turns += int((zone / "max_energy_range_uj").read_text())
    _rapl[zone] = now, turns
    return now + turns


class Used:
    """Time, memory and energy of a training, summed over its resumes: usage.json of its run folder.

    `earlier` is that file's content so far, or {}.
    """

    def __init__(self, earlier: dict[str, Any], device: Any):
        self.earlier = earlier
        self.device = device
        self.began = energy(device)
        self.first_step: float | None = earlier.get("first_step_s")

    def seconds_at(self, step: int, logged: float) -> float:
        """Seconds of training up to a step: as saved with its checkpoint, else as logged before it."""
        if step and self.earlier.get("step") == step:
            return self.earlier.get("seconds") or logged
        return logged

    def state(self, step: int, seconds: float) -> dict[str, Any]:
        """The content of usage.json after a step; energy and peak memory include those before the
        last resume.
        """
        now = energy(self.device)
        spent = None if now is None or self.began is None else now - self.began
        energies = [part for part in (self.earlier.get("energy_j"), spent) if part is not None]
        peaks = [self.earlier.get("peak_memory_gib"), peak_memory(self.device)]
        return {
            "step": step,
            "seconds": seconds,
            "first_step_s": self.first_step,
            "peak_memory_gib": max((peak for peak in peaks if peak is not None), default=None),
            "energy_j": sum(energies) if energies else None,
        }


def speed_of(log: list[dict[str, Any]], used: dict[str, Any] | None = None) -> dict[str, Any]:
    """Speed of a training, from log.jsonl and usage.json; {} if nothing was logged.

    images_per_s: median over log points; seconds: of training, without validation and saving;
      step_seconds: mean
    seconds per step of each log interval; first_step_s: from the start of the process to the end of
    its first step;
    energy_j: of the GPU (NVML) or of all CPU packages (RAPL). Unknown values are None. `predicted`:
      step_s and
    peak_memory_gib as `gantk doctor` estimates them, if that was run.
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
        **{name: used.get(name) for name in ("first_step_s", "peak_memory_gib", "energy_j")},
        **({"predicted": used["predicted"]} if used.get("predicted") else {}),
    }
