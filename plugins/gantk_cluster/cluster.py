"""Connects to a Ray cluster, or starts one on this machine; counts the workers that fit and checks
all its nodes.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

from gantk import __version__
from gantk.errors import GantkError, UserError, count_noun, importing
from gantk.files import temporary_beside, write_file
from gantk.terminal import complain

ANSWER_SECONDS = 5.0  # seconds to wait for a cluster to answer
# seconds until a new file is visible on every node; a node has ten times as long to start a worker
FILE_DELAY_SECONDS = 5.0
# until a head that does not answer counts as lost; Ray ends this process after 60
HEAD_SECONDS = 20.0
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
        host, _, port = address.rpartition(":")
        try:
            with socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS) as line:
                line.sendall(HELLO)
                if not (os.environ.get("RAY_USE_TLS") or line.recv(1)):
                    raise OSError
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError):
                why = "the address is not HOST:PORT"
            else:
                why = error.strerror or "the server is not Ray, or does not respond"
            what = f"no Ray cluster answers at '{address}': {why}"
            raise UserError(
                what, where="--address", allowed="auto, local, HOST:PORT", remedy=remedy
            ) from None

    before = signal.getsignal(signal.SIGTERM)
    dashboard = False if address == "local" else None
    try:
        ray.init(address, include_dashboard=dashboard, configure_logging=False, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        what = f"no Ray cluster could be reached: {str(error).splitlines()[0][:200]}"
        raise UserError(what, where="--address", remedy=remedy) from None

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


@contextmanager
def watch_head(ray: Any, advice: str) -> Iterator[None]:
    """Context manager: end this process with `advice` where the head of its cluster is lost. Ray
    would end it later, without words about the work.
    """
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    ended = Event()

    def watch() -> None:
        answered = time.monotonic()
        while not ended.wait(ANSWER_SECONDS / 5):
            with suppress(OSError):
                socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
                answered = time.monotonic()
            if time.monotonic() - answered > HEAD_SECONDS:
                complain("error", f"the head of the Ray cluster at {host}:{port} is lost. {advice}")
                sys.stdout.flush()
                os._exit(GantkError.exit_code)

    Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


class Room:
    """The workers that fit on a cluster's nodes: `count` of them, with `threads` cores each.

    A worker gets at most one node's cores, and a GPU if `device` is "cuda", or is None and the
    cluster has GPUs. Raises UserError where no worker fits.
    """

    def __init__(self, ray: Any, threads: int, device: str | None):
        cores_of = {}
        gpus_of = {}
        for each in ray.nodes():
            if each["Alive"]:
                cores_of[each["NodeID"]] = int(each["Resources"].get("CPU", 0))
                gpus_of[each["NodeID"]] = int(each["Resources"].get("GPU", 0))

        # the most that one node has
        cores = max(cores_of.values(), default=0)
        self.gpus = max(gpus_of.values(), default=0)
        use_gpu = device.startswith("cuda") if device else self.gpus > 0
        if use_gpu and self.gpus:
            cores = cores // self.gpus  # of each GPU's run

        self.ray = ray
        self.threads = max(min(threads, cores), 1)

        runs_of = {}
        for node, own_cores in cores_of.items():
            limit = gpus_of[node] if use_gpu else own_cores
            runs_of[node] = min(own_cores // self.threads, limit)

        self.count = sum(runs_of.values())
        self.nodes = [node for node, runs in runs_of.items() if runs]
        self.asked = {"num_cpus": self.threads, "num_gpus": int(use_gpu)}
        if not self.count:
            what = f"no node of the cluster has a {'GPU' if use_gpu else 'core'}"
            remedy = "add a node, or leave --address out to use only this machine"
            raise UserError(what, where="--address", remedy=remedy)

    def __str__(self) -> str:
        on = f"{count_noun(self.count, 'worker')} on {count_noun(self.nodes, 'node')}"
        return (
            f"{on}, each with"
            f" {count_noun(self.threads, 'thread')}{' and a GPU' * self.asked['num_gpus']}"
        )

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
