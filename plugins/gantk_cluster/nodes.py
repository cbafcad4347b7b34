"""How many workers a Ray cluster can run, and a check that all its nodes see the same files and version."""

import os
import time
from pathlib import Path
from typing import Any

from gantk import __version__
from gantk.errors import UserError, counted
from gantk.files import temporary_beside, write_file

LATE = 5.0  # seconds until a new file is visible on every node; a node has ten times as long to start a worker


class Room:
    """The workers that fit on a cluster's nodes: `count` of them, with `threads` cores each.

    A worker gets at most one node's cores, and a GPU if `device` is "cuda", or is None and the cluster has GPUs. Raises
    UserError where no worker fits.
    """

    def __init__(self, ray: Any, threads: int, device: str | None):
        nodes = {each["NodeID"]: each["Resources"] for each in ray.nodes() if each["Alive"]}
        sizes = {node: (int(has.get("CPU", 0)), int(has.get("GPU", 0))) for node, has in nodes.items()}
        cores, cards = map(max, zip((0, 0), *sizes.values(), strict=True))
        gpu = device.startswith("cuda") if device else cards > 0
        self.ray, self.device = ray, "cuda" if gpu else device
        self.threads = max(min(threads, cores // cards if gpu and cards else cores), 1)
        room = {node: min(cpus // self.threads, gpus if gpu else cpus) for node, (cpus, gpus) in sizes.items()}
        self.count, self.nodes = sum(room.values()), [node for node in room if room[node]]
        self.asked = {"num_cpus": self.threads, "num_gpus": int(gpu)}
        if not self.count:
            what, remedy = f"no node of the cluster has a {'GPU' if gpu else 'core'}", "add one, or leave --address out"
            raise UserError(what, where="--address", remedy=remedy)

    def __str__(self) -> str:
        on = f"{counted(self.count, 'worker')} on {counted(self.nodes, 'node')}"
        return f"{on}, each with {counted(self.threads, 'thread')}{' and a GPU' * self.asked['num_gpus']}"

    def check(self, folder: Path, *inputs: Path) -> None:
        """Raises UserError where a node has another gantk, or does not see `folder`, `inputs` or the working folder."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

        folder = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.is_dir())
        probe = temporary_beside(folder / "probe")
        try:
            write_file(probe, __version__.encode())
            needed = [os.getcwd(), *map(os.path.abspath, inputs), str(probe)]
            on = [{"num_cpus": 0, "max_retries": 0, "scheduling_strategy": On(node, soft=False)} for node in self.nodes]
            asked = [self.ray.remote(unusable).options(**each).remote(needed) for each in on]
            wrong = next(filter(None, self.ray.get(asked, timeout=10 * LATE)), "")
        except self.ray.exceptions.RayError as error:
            wrong = f"a node starts no worker: {str(error).strip().splitlines()[-1][:200]}"
        except OSError as error:
            wrong = f"'{folder}' cannot be written to: {error.strerror}"
        finally:
            probe.unlink(missing_ok=True)
        if wrong:
            remedy = "start it in a folder that all nodes have under the same path, with the same gantk on each"
            raise UserError(wrong, where="--address", remedy=remedy)


def unusable(needed: list[str]) -> str:
    """Runs on a node: returns why it is unusable, or ""; the last path is a file with the driver's version."""
    name, until = f"the node {os.uname().nodename}", time.monotonic() + LATE
    while missing := [path for path in needed if not os.access(path, os.R_OK)]:
        if time.monotonic() > until:
            return f"{name} does not see '{missing[0]}'"
        time.sleep(0.2)
    wanted = Path(needed[-1]).read_text()
    return "" if wanted == __version__ else f"{name} has gantk {__version__}, this machine {wanted}"
