"""Rows of `gantk bench` on a Ray cluster: each runs in the same child process, with the same
limits, on some node.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from gantk_bench.child import GRACE, Child, End, attended, now, stopping
from gantk_bench.plan import Job
from gantk_cluster.ray.cluster import Room, connect_cluster

LOST = "its worker ended: it was killed, possibly for lack of memory, or its machine failed"


@contextmanager
def on_cluster(
    address: str, folder: Path, threads: int, device: str | None, jobs: int | None
) -> Iterator[tuple[Callable[..., Child], int, int]]:
    """Yields a function that starts a row's child, how many run at once (at most `jobs`), and the
    threads of each.
    """
    with connect_cluster(address, threads, device, folder) as room:
        yield partial(RemoteChild, room), min(room.count, jobs or room.count), room.threads


class RemoteChild(Child):
    """The child process of one row on some node; its log is read from the shared file system."""

    def __init__(self, room: Room, job: Job, run: Path, log: Path, *_: object):
        self.ray = room.ray
        self.job = job
        self.run = run
        self.log = log
        stopping(log).unlink(missing_ok=True)
        self._read = 0
        self._step = 0
        self.started = now()
        self._began = time.perf_counter()
        self._stopping = None
        task = room.ray.remote(attended).options(max_retries=0, **room.asked)
        self.end = task.remote(os.getcwd(), job, run, log, room.threads, room.device)

    def poll(self) -> End | None:
        """How the child ended; None while it runs or waits for a free node."""
        if not self.ray.wait([self.end], timeout=0)[0]:
            # its worker waits or is lost
            if self._stopping and self.seconds - self._stopping[1] > 2 * GRACE:
                self.kill()
            return None

        try:
            self.started, end = self.ray.get(self.end)
            return end
        except self.ray.exceptions.RayTaskError as error:
            return End(
                "failed",
                f"it could not be started: {getattr(error.cause, 'strerror', error.cause)}",
            )
        except self.ray.exceptions.RayError:
            return End("killed", f"{LOST}, at step {self.step()}", self.seconds)

    def stop(self, why: str) -> None:
        """Ask the child to stop; `poll` kills it if it still runs after twice GRACE seconds."""
        self._stopping = why, self.seconds
        stopping(self.log).touch()  # Ray may lose a cancellation
        self.ray.cancel(self.end)

    def kill(self) -> None:
        """Kill the Ray worker; its child ends with it."""
        self.ray.cancel(self.end, force=True)
