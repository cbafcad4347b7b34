"""`gantk translate` on a Ray cluster: workers load the model once and translate one file after the
other.
"""

import os
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from gantk import load
from gantk.errors import GantkError
from gantk.inference.translation import FAILURES, Job, Translation
from gantk.machine.launch import ALONE
from gantk_cluster.ray.cluster import Room, connect_cluster

MAX_WORKER_DEATHS = 3  # workers that may die on one file, or in a row while loading the model
ENDING_SECONDS = 30.0  # seconds to wait for files in progress after an error or Ctrl-C


class Worker:
    """A process on some node that holds the model, translates files and writes the results."""

    def load(self, folder: str, work: Translation, run: Any, room: tuple, identity: dict) -> None:
        """Load the model; raises GantkError where its weights differ from those on the driver."""
        import torch

        os.chdir(folder)
        torch.set_num_threads(room[0])
        os.environ |= ALONE | {"OMP_NUM_THREADS": str(room[0])}  # for exported models
        self.work = work
        work.model = load(run, device=room[1])
        if work.model.identity() != identity:
            raise GantkError(
                f"'{run}' has different weights on the node {os.uname().nodename} and on this"
                " machine"
            )

    def translate_one(self, job: Job) -> tuple[Any, dict, list]:
        """Translate one file; returns what `Translation.translate_one` returns."""
        return self.work.translate_one(job)


def on_cluster(
    address: str,
    run: Any,
    device: str | None,
    work: Translation,
    bare: Translation,
    jobs: list[Job],
    done: Callable,
) -> None:
    """Translate all jobs on the cluster and call `done` after each; a job whose worker died is
    retried twice.

    Workers use as many threads as this process, so that results are equal to the byte; with a GPU
    one core.
    """
    import torch

    if not jobs:
        return

    with connect_cluster(
        address, torch.get_num_threads(), device, jobs[0].target.parent, *jobs[0].files[:1]
    ) as room:
        work.say(f"cluster  {room}")
        given = (
            os.getcwd(),
            room.ray.put(bare),
            run,
            (room.threads, room.device),
            work.model.identity(),
        )
        sharing = Sharing(room, given, jobs, done)
        try:
            while sharing.waiting or sharing.working():
                sharing.turn()
        except BaseException:
            sharing.waiting.clear()
            until = time.monotonic() + ENDING_SECONDS
            while sharing.working() and time.monotonic() < until:
                sharing.turn()
            raise


class Sharing:
    """Assigns files to workers, each file to one worker at a time."""

    def __init__(self, room: Room, given: tuple, jobs: list[Job], done: Callable):
        self.room = room
        self.given = given
        self.done = done
        self.waiting = deque(jobs)
        self.deaths = Counter()
        # pending result -> worker, file (None: loads the model)
        self.busy: dict[Any, tuple[Any, Job | None]] = {}

    def working(self) -> int:
        """The number of files in progress."""
        return sum(job is not None for _, job in self.busy.values())

    def turn(self) -> None:
        """Start workers that fit, wait up to a second for results, and give each free worker the
        next file.
        """
        ray = self.room.ray
        loading = len(self.busy) - self.working()
        for _ in range(min(self.room.count - len(self.busy), len(self.waiting) - loading)):
            worker = ray.remote(Worker).options(**self.room.asked).remote()
            self.busy[worker.load.remote(*self.given)] = worker, None

        for each in ray.wait([*self.busy], timeout=1.0)[0]:
            worker, job = self.busy.pop(each)
            try:
                found = ray.get(each)
            except ray.exceptions.RayTaskError as error:
                raise (error.cause if isinstance(error.cause, FAILURES) else error) from None
            except ray.exceptions.RayError:
                self._count_death(job)
                continue

            self.deaths[job] = 0
            if job:
                self.done(job, *found)
            if self.waiting:
                job = self.waiting.popleft()
                self.busy[worker.translate_one.remote(job)] = worker, job

    def _count_death(self, job: Job | None) -> None:
        self.deaths[job] += 1
        during = "translated it" if job else "loaded the model"
        what = (
            f"{MAX_WORKER_DEATHS} workers ended while they {during}: they were killed, possibly for"
            " lack of memory"
        )
        if self.deaths[job] < MAX_WORKER_DEATHS:
            self.waiting.extendleft([job] if job else [])
            self.room = Room(self.room.ray, self.room.threads, self.room.device)
        elif job:
            self.done(job, GantkError(what), {}, [])
        else:
            raise GantkError(what)
