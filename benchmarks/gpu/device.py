"""Measures the device: name, driver, clocks and power, and peak rates of matrix products, convolutions and copies."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from datetime import datetime
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from harness import Turn, samples, summary
from torch import Tensor

from gantk.machine.runtime import describe, start
from gantk.runs.folder import environment as software
from gantk_bench.rows import commit
from gpu.rows import Row, row

QUERY = {  # key of a row -> (field of nvidia-smi, type of its value)
    "driver": ("driver_version", str),
    "power_limit_w": ("power.limit", float),
    "power_w": ("power.draw", float),
    "clock_sm_mhz": ("clocks.sm", float),
    "clock_memory_mhz": ("clocks.mem", float),
    "temperature_c": ("temperature.gpu", float),
}
LOADED = 1.5  # seconds of matrix products during which nvidia-smi is asked for clocks and power
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
SIDE = 8192  # rows and columns of the matrices
COPIED = 1 << 30  # bytes
# dims -> channels -> (N, *size) of the 3x3(x3) convolutions: as in networks, more channels at smaller sizes
SHAPES = {
    2: {64: (32, 256, 256), 128: (32, 128, 128), 256: (32, 64, 64), 512: (32, 32, 32)},
    3: {32: (2, 96, 96, 96), 64: (2, 96, 96, 96), 128: (2, 48, 48, 48)},
}


def environment(task: dict[str, Any], device: str) -> Iterator[Row]:
    """One row: the machine at rest, or during matrix products if task["when"] is "under load"."""
    place, values = torch.device(device), {}
    if place.type == "cuda":
        if task["when"] == "under load":
            _queue_work(LOADED, place)
        values = _gpu_properties(place)
    info = describe(start(device))
    values = {key: info[key] for key in ("device", "python", "torch", "cuda", "cudnn", "cpu", "threads")} | values
    values["driver"] = values.get("driver") or info["driver"]
    about = {"when": task["when"], "command": task["command"], "started": datetime.now().astimezone().isoformat()}
    installed = software()
    yield row("environment", **about, **values, packages=installed["packages"], gantk=installed["gantk"], git=commit())


def _gpu_properties(device: torch.device) -> dict[str, Any]:
    """Properties of the GPU from torch and nvidia-smi; selected by UUID, as the two may number GPUs differently."""
    properties = torch.cuda.get_device_properties(device)
    card = f"GPU-{uuid}" if (uuid := getattr(properties, "uuid", None)) else str(device.index or 0)
    names = ",".join(name for name, _ in QUERY.values())
    command = ["nvidia-smi", f"--id={card}", f"--query-gpu={names}", "--format=csv,noheader,nounits"]
    output = ""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        output = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout
    return {
        "capability": f"{properties.major}.{properties.minor}",
        "memory_gib": properties.total_memory / 2**30,
        "multiprocessors": properties.multi_processor_count,
    } | parsed(output)


def parsed(output: str) -> dict[str, Any]:
    """Parse one line of nvidia-smi: key of `QUERY` -> value; None for "[N/A]" and missing values."""
    cells = [cell.strip() for cell in output.split(",")]
    values: dict[str, Any] = dict.fromkeys(QUERY)
    if len(cells) == len(QUERY):
        for (key, (_, convert)), cell in zip(QUERY.items(), cells, strict=True):
            with contextlib.suppress(ValueError):
                values[key] = None if cell.startswith("[") else convert(cell)
    return values


def _queue_work(seconds: float, device: torch.device) -> None:
    """Queue about `seconds` of matrix products on the GPU without waiting for them."""
    a, b = (torch.randn(SIDE, SIDE, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(min(2000, int(seconds / Turn(lambda: a @ b, device).take()) + 1)):
        a @ b


def ceilings(task: dict[str, Any], device: str) -> Iterator[Row]:
    """Rows of peak rates: one for a matrix product or a copy; for convolutions, two for each number of channels."""
    place, tiny, precision = torch.device(device), task["tiny"], task["precision"]
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = place.type == "cuda"

    def rate(kind: str, shape: tuple[int, ...], work: int, call: Callable[[], Any], unit: str = "TFLOP/s") -> Row:
        for _ in range(3):
            call()
        timing = summary(samples(call, place, seconds=0.3, least=5, most=30))
        about = {"kind": kind, "precision": precision, "dims": task.get("dims"), "shape": shape, "work": work}
        return row("ceiling", **about, unit=unit, **timing, reached=work / timing["median_s"] / 1e12)

    if task["kind"] == "matmul":
        # random numbers: on zeros a card draws less power and runs faster than on any real data
        side = 64 if tiny else SIDE
        a, b = (torch.randn(side, side, device=place, dtype=DTYPES[precision]) for _ in range(2))
        yield rate("matmul", (side, side, side), 2 * side**3, lambda: a @ b)
    elif task["kind"] == "copy":
        source = torch.randint(255, ((1 << 16) if tiny else COPIED,), device=place, dtype=torch.uint8)
        target = torch.empty_like(source)
        yield rate("copy", tuple(source.shape), 2 * len(source), lambda: target.copy_(source), "TB/s")
    else:
        dims = task["dims"]
        shapes = {4: (1, *[8] * dims)} if tiny else SHAPES[dims]
        for width, shape in shapes.items():
            forward, both = _convolutions(dims, width, shape, DTYPES[precision], place)
            flops = 2 * width**2 * 3**dims * prod(shape)
            yield rate("conv", (width, *shape), flops, forward)
            yield rate("conv with its backward", (width, *shape), 3 * flops, both)


def _convolutions(
    dims: int, width: int, shape: tuple[int, ...], dtype: torch.dtype, place: torch.device
) -> tuple[Callable[[], Tensor], Callable[[], tuple[Tensor, ...]]]:
    """(function that computes a 3x3(x3) convolution, function that computes it with both gradients)."""
    last = torch.channels_last if dims == 2 else torch.channels_last_3d
    convolve = F.conv2d if dims == 2 else F.conv3d
    x = torch.randn(shape[0], width, *shape[1:], device=place, dtype=dtype)
    w = torch.randn(width, width, *[3] * dims, device=place, dtype=dtype) / width
    x, w = (tensor.contiguous(memory_format=last).requires_grad_() for tensor in (x, w))
    gradient = torch.randn_like(x)

    def forward() -> Tensor:
        with torch.no_grad():
            return convolve(x, w, padding=1)

    return forward, lambda: torch.autograd.grad(convolve(x, w, padding=1), (x, w), gradient)
