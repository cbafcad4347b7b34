"""What the device itself can do, measured in the same run: matrix products, convolutions, memory."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gpu import timing
from gpu.rows import row

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
SIDE = 8192  # of the matrices
WIDTHS = {2: (64, 128, 256, 512), 3: (32, 64, 128)}  # channels of the 3x3(x3) convolutions
COPIED = 1 << 30  # bytes
# (N, *size) by dimensions, from the widest image at the fewest channels down, as in the networks
SHAPES = {
    2: ((32, 256, 256), (32, 128, 128), (32, 64, 64), (32, 32, 32)),
    3: ((2, 96, 96, 96),) * 2 + ((2, 48, 48, 48),),
}


def measure(task: dict[str, Any], device: torch.device) -> Iterator[dict[str, Any]]:
    """The rows of one measurement: one for a matrix product or a copy, one for each width and direction of a conv."""
    torch.set_float32_matmul_precision("high")
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    if task["kind"] == "matmul":
        yield _matmul(64 if task["tiny"] else SIDE, task["precision"], device)
    elif task["kind"] == "copy":
        yield _copy((1 << 16) if task["tiny"] else COPIED, device)
    else:
        yield from _convs(task["dims"], task["precision"], device, task["tiny"])


def _matmul(side: int, precision: str, device: torch.device) -> dict[str, Any]:
    # random numbers: on zeros a card draws less power and runs faster than on any real data
    a, b = (torch.randn(side, side, device=device, dtype=DTYPES[precision]) for _ in range(2))
    return _row("matmul", precision, None, (side, side, side), 2 * side**3, lambda: a @ b, device)


def _copy(size: int, device: torch.device) -> dict[str, Any]:
    source = torch.randint(255, (size,), device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return _row("copy", "bf16", None, (size,), 2 * size, lambda: target.copy_(source), device, unit="TB/s")


def _convs(dims: int, precision: str, device: torch.device, tiny: bool) -> Iterator[dict[str, Any]]:
    last = torch.channels_last if dims == 2 else torch.channels_last_3d
    convolve = F.conv2d if dims == 2 else F.conv3d
    for width, shape in zip(WIDTHS[dims], SHAPES[dims], strict=True):
        if tiny:
            width, shape = 4, (1, *[8] * dims)
        x = torch.randn(shape[0], width, *shape[1:], device=device, dtype=DTYPES[precision])
        x = x.contiguous(memory_format=last).requires_grad_()
        w = torch.randn(width, width, *[3] * dims, device=device, dtype=DTYPES[precision]) / width
        w = w.contiguous(memory_format=last).requires_grad_()
        flops = 2 * width**2 * 3**dims * prod(shape)
        gradient = torch.randn_like(x)

        def forward(x: Tensor = x, w: Tensor = w) -> Tensor:
            with torch.no_grad():
                return convolve(x, w, padding=1)

        def both(x: Tensor = x, w: Tensor = w, gradient: Tensor = gradient) -> tuple[Tensor, ...]:
            return torch.autograd.grad(convolve(x, w, padding=1), (x, w), gradient)

        shown = (width, *shape)
        yield _row("conv", precision, dims, shown, flops, forward, device)
        yield _row("conv with its backward", precision, dims, shown, 3 * flops, both, device)
        if tiny:
            return


def _row(kind, precision, dims, shape, work, call, device, unit="TFLOP/s") -> dict[str, Any]:
    for _ in range(3):
        call()
    found = timing.summary(timing.samples(call, device, seconds=0.3, least=5, most=30))
    reached = work / found["median_s"] / 1e12
    about = {"kind": kind, "precision": precision, "dims": dims, "shape": shape, "work": work, "unit": unit}
    return row("ceiling", **about, **found, reached=reached)
