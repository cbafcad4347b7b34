"""Number of threads of a training: within the CPU quota of its container, and as before in a resumed
one, so that a resume gives the same weights to the bit. Threads beside a training use one.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from threading import Lock, Thread

import torch

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
NO_QUOTA = 1 << 20  # cores
_one_at_a_time = Lock()  # held by the thread that changes the number for threads to come


class Threads:
    """Sets torch's number of threads; not if `fixed`, or if OMP_NUM_THREADS or MKL_NUM_THREADS is
    set.
    """

    def __init__(self, fixed: bool):
        user = os.environ.get("OMP_NUM_THREADS") or os.environ.get("MKL_NUM_THREADS")
        self.fixed = fixed or bool(user)
        self.usual = torch.get_num_threads()
        self.saved: int | None = None  # the number that a resumed checkpoint was trained with

    def choose(self, step: int) -> str | None:
        """Set the number of a resumed checkpoint, else torch's own within the quota; returns a line
        if it changed.
        """
        number = self.saved or min(self.usual, cgroup_quota())
        if self.fixed or number == torch.get_num_threads():
            return None

        torch.set_num_threads(number)
        why = "as in the resumed checkpoint" if self.saved else "the CPU quota of this container"
        return f"threads  {number} from step {step}: {why}"

    def reset(self) -> None:
        """Set torch's own number again."""
        torch.set_num_threads(self.usual)


def use_one_thread() -> None:
    """Let torch compute in the calling thread only, here and in no other thread.

    For threads that run beside a training. OpenMP keeps helper threads for each thread that has
    computed in parallel once. With more of them than cores it puts those of the training to sleep
    at every step's end of parallel work: 2.5 times as slow on two cores.
    """
    with _one_at_a_time:
        usual = torch.get_num_threads()
        torch.set_num_threads(1)
        # It has also set the number for threads to come: restored in a thread that ends.
        restorer = Thread(target=torch.set_num_threads, args=(usual,))
        restorer.start()
        restorer.join()


def cgroup_quota() -> int:
    """The smallest CPU quota of this process's cgroups (v1 or v2), rounded up to cores; `NO_QUOTA`
    if there is none.
    """
    try:
        memberships = re.findall(r":(.*?):/(.*)", (PROC / "self/cgroup").read_text())
    except OSError:  # not Linux
        return NO_QUOTA

    folders = set()
    for kinds, path in memberships:
        folders |= set((CGROUPS / kinds / path / "any").parents)

    quotas = []
    for folder in folders:
        files = sorted([*folder.glob("cpu.max"), *folder.glob("cpu.cfs_[pq]*_us")], reverse=True)
        # quota and period, in microseconds
        limit = re.match(r"(\d+)\s+(\d+)", " ".join(file.read_text() for file in files))
        if limit:
            quotas.append(-(-int(limit[1]) // int(limit[2])))

    return min(quotas, default=NO_QUOTA)
