"""How many threads a training takes: chosen at its start and its saves by how busy other work keeps the cores."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import torch

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
SPARED, SHORTEST = 0.3, 0.2  # cores that daemons may take without a thread less; seconds that are judged at least


class Threads:
    """A training's threads. `fixed`, or with OMP_NUM_THREADS or MKL_NUM_THREADS set, they stay as they are."""

    def __init__(self, fixed: bool):
        user = os.environ.get("OMP_NUM_THREADS") or os.environ.get("MKL_NUM_THREADS")
        self.fixed = fixed or bool(user) or not all((PROC / name).exists() for name in ("stat", "self/cgroup"))
        self.usual, self.saved, self._last = torch.get_num_threads(), None, () if self.fixed else look()
        self.reset = lambda: torch.set_num_threads(self.usual)

    def choose(self, step: int) -> str | None:
        """Take those of the save gone on from, else as many as fit beside other work; a line where that is a change."""
        here, number, why, self.saved = torch.get_num_threads(), self.saved or 0, "as the save was made with", None
        for _ in range(0 if number or self.fixed else 1 if step else 2):  # a burst at the start costs no thread
            if number < here:
                time.sleep(max(0.0, self._last[0] + SHORTEST - time.perf_counter()))
                before, self._last = self._last, look()
                busy, number = threads_beside(before, self._last, min(self.usual, cgroup_quota()))
                why = f"other work keeps {busy:.1f} of {before[-1]} cores busy"
        if self.fixed or number in (0, here):
            return None
        torch.set_num_threads(number)
        return f"threads  {number} from step {step} on: {why}"


def threads_beside(before: tuple, now: tuple, most: int) -> tuple[float, int]:
    """Cores that other work kept busy between two looks, and the threads, 1 to `most`, that fit; 0: not to be told."""
    (passed, own, idle, total), cores = (new - old for new, old in zip(now[:4], before[:4], strict=True)), now[4]
    busy = max(0.0, cores - (own + idle) / passed)
    return busy, max(1, min(most, int(cores - busy + SPARED))) if 0.8 < total / passed / cores < 1.2 else 0


def look() -> tuple[float, ...]:
    """Seconds so far of a clock, of this process's work, of its cores at rest, of its cores; how many these are."""
    mine, second = os.sched_getaffinity(0), os.sysconf("SC_CLK_TCK")
    found = re.findall(r"^cpu(\d+) (.+)", (PROC / "stat").read_text(), re.MULTILINE)
    rows = [[*map(int, row.split()[:8])] for core, row in found if int(core) in mine]
    idle, total = sum(row[3] + row[4] for row in rows), sum(map(sum, rows))
    return time.perf_counter(), time.process_time(), idle / second, total / second, len(mine)


def cgroup_quota() -> int:
    """The fewest cores that a cgroup of this process may use, v1 or v2, rounded up; very many where none is limited."""
    places = re.findall(r":(.*?):/(.*)", (PROC / "self/cgroup").read_text())
    groups = {each for kinds, path in places for each in (CGROUPS / kinds / path / "any").parents}
    files = [sorted([*each.glob("cpu.max"), *each.glob("cpu.cfs_[pq]*_us")], reverse=True) for each in groups]
    limits = [re.match(r"(\d+)\s+(\d+)", " ".join(file.read_text() for file in each)) for each in files]
    return min((-(-int(limit[1]) // int(limit[2])) for limit in limits if limit), default=1 << 20)
