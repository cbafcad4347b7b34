"""Number of threads of a training: set at its start and at its saves by how busy other processes
keep the cores.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import torch

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
SPARED_CORES = 0.3  # cores that daemons may use at no cost in threads
MIN_MEASURED_SECONDS = 0.2


class Threads:
    """Chooses a training's threads; not if `fixed`, or if OMP_NUM_THREADS or MKL_NUM_THREADS is
    set.
    """

    def __init__(self, fixed: bool):
        user = os.environ.get("OMP_NUM_THREADS") or os.environ.get("MKL_NUM_THREADS")
        self.fixed = (
            fixed
            or bool(user)
            or not all((PROC / name).exists() for name in ("stat", "self/cgroup"))
        )
        self.usual = torch.get_num_threads()
        self.saved: int | None = None  # a resumed save's number of threads
        self._last = () if self.fixed else cpu_times()
        self.reset = lambda: torch.set_num_threads(self.usual)

    def choose(self, step: int) -> str | None:
        """Set the number of threads: a resumed save's, else as many as the free cores; returns a
        line if it changed.
        """
        current = torch.get_num_threads()
        why = "as the save was made with"
        number = self.saved or 0
        self.saved = None
        # two at the start: a burst costs no thread
        if number or self.fixed:
            readings = 0
        elif step:
            readings = 1
        else:
            readings = 2
        for _ in range(readings):
            if number < current:
                time.sleep(max(0.0, self._last[0] + MIN_MEASURED_SECONDS - time.perf_counter()))
                before = self._last
                self._last = cpu_times()
                busy, number = threads_beside(before, self._last, min(self.usual, cgroup_quota()))
                why = f"other work keeps {busy:.1f} of {before[-1]} cores busy"
        if self.fixed or number in (0, current):
            return None
        torch.set_num_threads(number)
        return f"threads  {number} from step {step} on: {why}"


def threads_beside(before: tuple, now: tuple, most: int) -> tuple[float, int]:
    """Cores busy with other work between two readings, and how many threads, 1 to `most`, fit (0:
    unknown).
    """
    passed, own, idle, total = (new - old for new, old in zip(now[:4], before[:4], strict=True))
    cores = now[4]
    busy = max(0.0, cores - (own + idle) / passed)
    is_plausible = 0.8 < total / passed / cores < 1.2  # a sandbox may hide the machine
    return busy, max(1, min(most, int(cores - busy + SPARED_CORES))) if is_plausible else 0


def cpu_times() -> tuple[float, ...]:
    """Seconds so far: of a clock, of this process, of its cores idle, and of its cores in all; and
    the core count.
    """
    mine = os.sched_getaffinity(0)
    second = os.sysconf("SC_CLK_TCK")
    found = re.findall(r"^cpu(\d+) (.+)", (PROC / "stat").read_text(), re.MULTILINE)
    rows = [[*map(int, row.split()[:8])] for core, row in found if int(core) in mine]
    idle = sum(row[3] + row[4] for row in rows)
    total = sum(map(sum, rows))
    return time.perf_counter(), time.process_time(), idle / second, total / second, len(mine)


def cgroup_quota() -> int:
    """The smallest CPU quota of this process's cgroups (v1 or v2), rounded up to cores; 1 << 20 if
    there is none.
    """
    memberships = re.findall(r":(.*?):/(.*)", (PROC / "self/cgroup").read_text())
    folders = {
        folder for kinds, path in memberships for folder in (CGROUPS / kinds / path / "any").parents
    }
    files = [
        sorted([*folder.glob("cpu.max"), *folder.glob("cpu.cfs_[pq]*_us")], reverse=True)
        for folder in folders
    ]
    # quota and period, in microseconds
    texts = [" ".join(file.read_text() for file in group) for group in files]
    limits = [re.match(r"(\d+)\s+(\d+)", text) for text in texts]
    return min((-(-int(limit[1]) // int(limit[2])) for limit in limits if limit), default=1 << 20)
