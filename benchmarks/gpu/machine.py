"""What was measured on: card, driver, versions, clocks and power, commit."""

from __future__ import annotations

import contextlib
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from gantk import __version__
from gantk.machine.runtime import describe, start
from gpu.checkout import ROOT
from gpu.rows import row

PACKAGES = ("torch", "torchvision", "timm", "kornia", "pytorch-fid", "lpips", "monai", "numpy", "triton")
QUERY = {  # key of a row -> (what nvidia-smi calls it, how its answer is read)
    "driver": ("driver_version", str),
    "power_limit_w": ("power.limit", float),
    "power_w": ("power.draw", float),
    "clock_sm_mhz": ("clocks.sm", float),
    "clock_memory_mhz": ("clocks.mem", float),
    "temperature_c": ("temperature.gpu", float),
}
LOADED = 1.5  # seconds of work on the card while it is looked at


def measure(task: dict[str, Any], device: torch.device) -> Iterator[dict[str, Any]]:
    """One row: the machine at rest, or, where task["when"] is "under load", while matrices are multiplied."""
    cuda = device.type == "cuda"
    if task["when"] == "under load" and cuda:
        _work_for(LOADED, device)
    values = {"when": task["when"], "command": task["command"], "started": datetime.now().astimezone().isoformat()}
    values |= _card(device) if cuda else {}
    runtime = start(str(device))
    told = describe(runtime)
    values |= {key: told[key] for key in ("device", "python", "torch", "cuda", "cudnn", "cpu", "threads")}
    values["driver"] = values.get("driver") or told["driver"]
    yield row("environment", **values, packages=_packages(), gantk=__version__, git=commit())


def commit() -> str | None:
    """The checkout's commit, with "+changes" where files differ from it; None where git does not know it."""
    head, changes = _said(["git", "rev-parse", "HEAD"]), _said(["git", "status", "--porcelain"])
    return None if not head else head[:12] + ("+changes" if changes else "")


def _card(device: torch.device) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(device)
    return {
        "capability": f"{properties.major}.{properties.minor}",
        "memory_gib": properties.total_memory / 2**30,
        "multiprocessors": properties.multi_processor_count,
    } | _smi(f"GPU-{uuid}" if (uuid := getattr(properties, "uuid", None)) else str(device.index or 0))


def _smi(card: str) -> dict[str, Any]:
    """What nvidia-smi says of the card, which it counts otherwise than torch; None for what it does not say."""
    names = ",".join(name for name, _ in QUERY.values())
    command = ["nvidia-smi", f"--id={card}", f"--query-gpu={names}", "--format=csv,noheader,nounits"]
    return answers(_said(command))


def answers(said: str | None) -> dict[str, Any]:
    """One line of nvidia-smi, read: "[N/A]" and what is missing are None."""
    cells = [cell.strip() for cell in (said or "").split(",")]
    found: dict[str, Any] = dict.fromkeys(QUERY)
    if len(cells) == len(QUERY):
        for (key, (_, read)), cell in zip(QUERY.items(), cells, strict=True):
            with contextlib.suppress(ValueError):
                found[key] = None if cell.startswith("[") else read(cell)
    return found


def _work_for(seconds: float, device: torch.device) -> None:
    """Fill the card's queue with so many seconds of matrix products, and do not wait for them."""
    a, b = (torch.randn(8192, 8192, device=device, dtype=torch.bfloat16) for _ in range(2))
    torch.cuda.synchronize(device)
    began = time.perf_counter()
    a @ b
    torch.cuda.synchronize(device)
    for _ in range(min(2000, int(seconds / (time.perf_counter() - began)) + 1)):
        a @ b


def _packages() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found | {"python": sys.version.split()[0], "platform": platform.platform()}


def _said(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
