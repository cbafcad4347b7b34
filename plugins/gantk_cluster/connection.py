"""Connects to a running Ray cluster, or starts one on this machine that ends with the command."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gantk.errors import UserError

PATIENCE = 5.0  # seconds to wait for a cluster to answer
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # the first bytes of HTTP/2 (gRPC)
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent anywhere
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths mean the same in every process
    "RAY_worker_niceness": "0",  # the priority that a process has without Ray
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # `sweep` handles Ctrl-C itself
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
}


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Yields the module `ray`, connected to the cluster at `address`; disconnects at the end of the block.

    `address`: "HOST:PORT"; "auto", the cluster that this machine belongs to; "local" or None start a new one here. No
    usage statistics are sent. Raises UserError where Ray is not installed or no cluster answers.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    try:
        import ray
    except ImportError:
        raise UserError("Ray is not installed", where="--address", remedy="pip install 'gantk[cluster]'") from None
    if ray.is_initialized():  # by the caller
        yield ray
        return
    remedy = "start one with `ray start --head`, or leave --address out to use this machine alone"
    asked = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    if asked not in (None, "local", "auto"):  # Ray itself retries for minutes
        host, _, port = asked.removeprefix("ray://").rpartition(":")
        try:
            with socket.create_connection((host.strip("[]"), int(port)), PATIENCE) as line:
                line.sendall(HELLO)
                if not (os.environ.get("RAY_USE_TLS") or line.recv(1)):
                    raise OSError
        except (OSError, ValueError) as error:
            why = "it is no HOST:PORT" if isinstance(error, ValueError) else error.strerror or "it is no Ray, or hangs"
            what = f"no Ray cluster answers at '{asked}': {why}"
            raise UserError(what, where="--address", allowed="auto, local, HOST:PORT", remedy=remedy) from None
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address="local" if address is None else address,
            include_dashboard=False if address in (None, "local") else None,
            configure_logging=False,
            log_to_driver=False,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        what = f"no Ray cluster could be reached: {str(error).splitlines()[0][:200]}"
        raise UserError(what, where="--address", remedy=remedy) from None
    ray._private.worker._worker_logs_enabled = False  # or Ray prints a line for each dead worker
    handle = signal.signal if threading.current_thread() is threading.main_thread() else lambda number, by: None
    handle(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C; Ray's own handler prints a stack of C++
    try:
        yield ray
    finally:
        ray.shutdown()
        handle(signal.SIGTERM, before)
