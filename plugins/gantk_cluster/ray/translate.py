"""`gantk translate` on a Ray cluster: workers load the model once and translate one file after the
other.
"""

import os
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from gantk import Translation, load
from gantk.errors import GantkError
from gantk.machine.runtime import ALONE
from gantk_cluster.ray.cluster import connect_cluster

MAX_WORKER_DEATHS = 3  # times that a worker may die on one file
ENDING_SECONDS = 30.0  # seconds to wait for files in progress after an error or Ctrl-C
DIED = (
    f"{MAX_WORKER_DEATHS} workers ended while they translated it: they were killed, possibly for lack"
    " of memory"
)


class Worker:
    """A process on some node that holds the model, translates files and writes the results. Where
    it dies, Ray starts it again and gives it the same file.
    """

    def __init__(self, *given: Any):
        self.given = given
        self.work: Translation | None = None

    def translate_one(self, job: Any) -> tuple[Any, dict, list]:
        """Translate one file; returns what `Translation.translate_one` returns."""
        if self.work is None:
            self.work = self._load(*self.given)
        return self.work.translate_one(job)

    def _load(
        self, folder: str, work: Translation, run: Any, room: tuple, identity: dict
    ) -> Translation:
        """The work with the model; GantkError where its weights differ from those on the driver."""
        import torch

        os.chdir(folder)
        torch.set_num_threads(room[0])
        os.environ |= ALONE | {"OMP_NUM_THREADS": str(room[0])}  # for exported models
        work.model = load(run, device=room[1])
        if work.model.identity() != identity:
            raise GantkError(
                f"'{run}' has different weights on the node {os.uname().nodename} and on this"
                " machine"
            )
        return work


def on_cluster(
    address: str,
    run: Any,
    device: str | None,
    work: Translation,
    bare: Translation,
    jobs: list[Any],
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
        address, torch.get_num_threads(), device, jobs[0].outputs[0].path.parent, *jobs[0].files[:1]
    ) as room:
        work.say(f"cluster  {room}")
        ray = room.ray
        identity = work.model.identity()
        given = (os.getcwd(), bare, run, (room.threads, room.device), identity)
        retried = {"max_restarts": -1, "max_task_retries": MAX_WORKER_DEATHS - 1}
        kind = ray.remote(Worker).options(**retried, **room.asked)
        waiting = deque(jobs)
        busy: dict[Any, tuple[Any, Any]] = {}  # pending result -> worker, file

        def give(worker: Any) -> None:
            if waiting:
                job = waiting.popleft()
                busy[worker.translate_one.remote(job)] = worker, job

        def take_results() -> None:
            for each in ray.wait([*busy], timeout=1.0)[0]:
                worker, job = busy.pop(each)
                try:
                    found = ray.get(each)
                except ray.exceptions.RayTaskError as error:
                    raise (
                        error.cause if isinstance(error.cause, work.FAILURES) else error
                    ) from None
                except ray.exceptions.RayError:
                    found = GantkError(DIED), {}, []
                done(job, *found)
                give(worker)

        for _ in range(min(room.count, len(jobs))):
            give(kind.remote(*given))
        try:
            while busy:
                take_results()
        except BaseException:
            waiting.clear()
            until = time.monotonic() + ENDING_SECONDS
            while busy and time.monotonic() < until:
                take_results()
            raise
