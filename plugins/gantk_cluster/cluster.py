"""Connects to a Ray cluster, or starts one on this machine."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from gantk.errors import UserError, importing

ANSWER_SECONDS = 5.0  # seconds to wait for a cluster to answer
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent anywhere
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_worker_niceness": "0",  # the priority that a process has without Ray
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # `sweep` handles Ctrl-C itself
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
}


@contextmanager
def connect_cluster(address: str | None, device: str | None) -> Iterator[bool]:
    """Connects to the Ray cluster at `address` until the end of the block; yields whether a trial
    gets a GPU: if `device` is "cuda", or is None and the cluster has GPUs.

    `address`: "HOST:PORT"; "auto", the cluster that this machine belongs to; "local" or None start
    a new one here. No usage statistics are sent. Raises UserError where Ray is not installed, no
    cluster answers, or it has no GPU for "cuda".
    """
    os.environ |= ENVIRONMENT | os.environ
    with importing("a cluster", "cluster"):
        import ray

    remedy = "start one with `ray start --head`, or leave --address out to use only this machine"
    address = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address or "local"
    if address not in ("auto", "local"):  # Ray itself retries for minutes
        try:
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
        except (OSError, ValueError) as error:
            known = isinstance(error, OSError)
            why = (error.strerror or str(error)) if known else "the address is not HOST:PORT"
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
        has_gpu = ray.cluster_resources().get("GPU", 0) >= 1
        use_gpu = device.startswith("cuda") if device else has_gpu
        if use_gpu and not has_gpu:
            raise UserError(
                "no node of the cluster has a GPU",
                where="--device",
                remedy="add a node, or train with --device cpu",
            )
        yield use_gpu
    finally:
        ray.shutdown()
        signal.signal(signal.SIGTERM, before)
