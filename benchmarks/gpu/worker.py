"""The process that measures. A card that was left in a bad state, or a crash, costs it and not the rows."""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

from gpu.rows import first_line


def serve(connection: Connection, device: str) -> None:
    """Say ("ready", the device's name), or a UserError where it cannot be computed on; then take tasks until None
    comes. To each it answers with rows, ("failed", reason) where it broke off, and at the end ("done", whether the
    device still works)."""
    from gantk.errors import UserError
    from gantk.machine.runtime import describe, start

    try:
        connection.send(("ready", describe(start(device))["device"]))
    except UserError as error:
        connection.send(error)
        return
    while (task := connection.recv()) is not None:
        try:
            for row in perform(task, device):
                connection.send(row)
        except Exception as error:  # what a part did not make a row of itself
            connection.send(("failed", first_line(error)))
        connection.send(("done", healthy(device)))


def perform(task: dict[str, Any], device: str) -> Iterator[dict[str, Any]]:
    """The rows of one task; each part is imported when it is first asked for."""
    import torch

    place = torch.device(device)
    if task["part"] == "environment":
        from gpu import machine as part
    elif task["part"] == "ceiling":
        from gpu import ceilings as part
    elif task["part"] == "cost":
        from gpu import costs as part
    elif task["part"] == "training":
        from gpu import training as part
    elif task["part"] == "peer":
        from gpu import peers as part

        place = device
    else:
        from gpu import steps as part

        place = device
    yield from part.measure(task, place)


def healthy(device: str) -> bool:
    """Whether the device still computes: a capture that was broken off may leave its random numbers or memory stuck."""
    import torch

    if torch.device(device).type != "cuda":
        return True
    try:
        x = torch.randn(64, 64, device=device)
        total = float((x @ x).sum())
        torch.cuda.synchronize()
        return total == total
    except Exception:
        return False
