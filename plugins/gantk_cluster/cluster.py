"""Connects to a Ray cluster, or starts one on this machine; counts the workers that fit and checks
all its nodes.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gantk import __version__
from gantk.errors import UserError, count_noun, importing
from gantk.files import temporary_beside, write_file

ANSWER_SECONDS = 5.0  # seconds to wait for a cluster to answer
# seconds until a new file is visible on every node; a node has ten times as long to start a worker
FILE_DELAY_SECONDS = 5.0
# the first bytes of HTTP/2 (gRPC)
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent anywhere
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_worker_niceness": "0",  # the priority that a process has without Ray
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # `sweep` handles Ctrl-C itself
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
}


@contextmanager
def connect_cluster(
    address: str | None, threads: int, device: str | None, folder: Path
) -> Iterator[Room]:
    """Yields the `Room` of the Ray cluster at `address`; disconnects at the end of the block.

    `address`: "HOST:PORT"; "auto", the cluster that this machine belongs to; "local" or None start
    a new one here. No usage statistics are sent. Raises UserError where Ray is not installed, no
    cluster answers, no worker fits, or the nodes do not see `folder`, which is written to.
    """
    os.environ |= ENVIRONMENT | os.environ
    with importing("a cluster", "cluster"):
        import ray

    remedy = "start one with `ray start --head`, or leave --address out to use only this machine"
    address = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address or "local"
    if address not in ("auto", "local"):  # Ray itself retries for minutes
        try:
            host, _, port = address.rpartition(":")
            with socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS) as line:
                line.sendall(HELLO)
                if not (os.environ.get("RAY_USE_TLS") or line.recv(1)):
                    raise OSError
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError):
                why = "the address is not HOST:PORT"
            else:
                why = error.strerror or "the server is not Ray, or does not respond"
            raise UserError(
                f"no Ray cluster answers at '{address}': {why}",
                where="--address",
                allowed="auto, local, HOST:PORT",
                remedy=remedy,
            ) from None

    before = signal.getsignal(signal.SIGTERM)
    dashboard = False if address == "local" else None
    try:
        ray.init(address, include_dashboard=dashboard, configure_logging=False, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"no Ray cluster could be reached: {str(error).splitlines()[0][:200]}",
            where="--address",
            remedy=remedy,
        ) from None

    ray._private.worker._worker_logs_enabled = False  # or Ray prints a line for each dead worker
    # as Ctrl-C; Ray's own handler prints a stack of C++
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        room = Room(ray, threads, device)
        room.check(folder)
        yield room
    finally:
        ray.shutdown()
        signal.signal(signal.SIGTERM, before)


class Room:
    """The nodes of a cluster on which a trial fits: `nodes`, and its `threads` on each.

    A trial gets at most one node's cores, and a GPU if `device` is "cuda", or is None and the
    cluster has GPUs. Raises UserError where none fits.
    """

    def __init__(self, ray: Any, threads: int, device: str | None):
        has = {each["NodeID"]: each["Resources"] for each in ray.nodes() if each["Alive"]}
        # the most that one node has
        cores, self.gpus = (
            int(max((each.get(kind, 0) for each in has.values()), default=0))
            for kind in ("CPU", "GPU")
        )
        self.use_gpu = device.startswith("cuda") if device else self.gpus > 0
        if self.use_gpu and self.gpus:
            cores = cores // self.gpus  # of each GPU's run

        self.ray = ray
        self.threads = max(min(threads, cores), 1)
        self.nodes = [
            node
            for node, each in has.items()
            if each.get("CPU", 0) >= self.threads and each.get("GPU", 0) >= self.use_gpu
        ]
        if not self.nodes:
            raise UserError(
                f"no node of the cluster has a {'GPU' if self.use_gpu else 'core'}",
                where="--address",
                remedy="add a node, or leave --address out to use only this machine",
            )

    def __str__(self) -> str:
        with_gpu = " and a GPU" if self.use_gpu else ""
        nodes = count_noun(self.nodes, "node")
        return f"{nodes}; a trial has {count_noun(self.threads, 'thread')}{with_gpu}"

    def check(self, folder: Path) -> None:
        """Raises UserError where a node has another gantk, or does not see `folder` or the working
        folder.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

        folder = next(
            each for each in (folder.absolute(), *folder.absolute().parents) if each.is_dir()
        )
        probe = temporary_beside(folder / "probe")
        try:
            write_file(probe, __version__.encode())
            needed = [os.getcwd(), str(probe)]
            task = self.ray.remote(num_cpus=0, max_retries=0)(unusable)
            found = [
                task.options(scheduling_strategy=On(node, soft=False)).remote(needed)
                for node in self.nodes
            ]
            wrong = next(filter(None, self.ray.get(found, timeout=10 * FILE_DELAY_SECONDS)), "")
        except self.ray.exceptions.RayError as error:
            wrong = f"a node cannot start a worker: {str(error).strip().splitlines()[-1][:200]}"
        except OSError as error:
            wrong = f"'{folder}' cannot be written to: {error.strerror}"
        finally:
            probe.unlink(missing_ok=True)

        if wrong:
            remedy = (
                "use a folder that all nodes see under the same path, and the same version of gantk"
                " on each node"
            )
            raise UserError(wrong, where="--address", remedy=remedy)


def unusable(needed: list[str]) -> str:
    """Runs on a node: returns why it is unusable, or ""; the last path is a file with the driver's
    version.
    """
    name = f"the node {os.uname().nodename}"
    until = time.monotonic() + FILE_DELAY_SECONDS
    while missing := [path for path in needed if not os.access(path, os.R_OK)]:
        if time.monotonic() > until:
            return f"{name} does not see '{missing[0]}'"
        time.sleep(0.2)

    wanted = Path(needed[-1]).read_text()
    if wanted == __version__:
        return ""
    return f"{name} has gantk {__version__}, this machine has {wanted}"
