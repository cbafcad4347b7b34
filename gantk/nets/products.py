"""Convolutions of small maps as matrix products: many weights for few positions, on a CPU.

oneDNN reorders the weights at every call, and their gradient: most of the time for a map of few
positions. A product takes the weights as they lie in memory (channels-last).

A convolution goes from a large map to a small one, a transposed convolution the other way. Taps
that only cover the zero padding are left out: of a 4x4 kernel on 2x2 pixels just the inner 2x2
count.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import product
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gantk.machine.device import CHANNELS_LAST

# weights per position of the smaller map, over all images, from which a product is faster
MIN_WEIGHTS_PER_POSITION = 4096
MIN_WEIGHTS_PER_TRANSPOSED_POSITION = 2048
# positions up to which a product takes less time than converting its weights to bfloat16
MAX_FLOAT32_POSITIONS = 16


class HasProducts:
    """Base of layers that may compute by products; `products` False: torch's layer computes."""

    products = True


def use_products(module: nn.Module, on: bool) -> nn.Module:
    """Allow products in a network, or forbid them; returns the network."""
    for part in module.modules():
        if isinstance(part, HasProducts):
            part.products = on
    return module


def eager_on_cpu(x: Tensor) -> bool:
    """Whether `x` is on a CPU, and neither torch.compile nor ONNX export is tracing."""
    # an export has imported torch.onnx, which takes longer than a small network
    exports = "torch.onnx" in sys.modules and torch.onnx.is_in_onnx_export()
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and not exports


def is_faster(x: Tensor, weight: Tensor, positions: int, least: int) -> bool:
    """Whether to compute by a product: at least `least` weights per position of the smaller map,
    and both in channels-last memory on a CPU.
    """
    if not eager_on_cpu(x):  # an export would fix the sizes that are compared below
        return False
    heavy = weight.numel() >= least * len(x) * positions
    return heavy and x.stride(1) == 1 and weight.movedim(1, -1).is_contiguous()


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
) -> Tensor:
    """A convolution of (N, C, *large) with weights (D, C, *kernel): (N, D, *small)."""
    kernel, large = weight.shape[2:], x.shape[2:]
    axes = zip(large, kernel, stride, padding, strict=True)
    small = [(n + 2 * p - k) // s + 1 for n, k, s, p in axes]
    if not is_faster(x, weight, prod(small), MIN_WEIGHTS_PER_POSITION):
        convolve = F.conv2d if x.ndim == 4 else F.conv3d
        return convolve(x, weight, bias, tuple(stride), tuple(padding))

    taps = _useful_taps(large, small, kernel, stride, padding)
    around = [side for p in reversed(padding) for side in (p, p)]
    padded = F.pad(x.movedim(1, -1), [0, 0, *around])
    windows = torch.cat([padded[place] for place in _places(taps, small, stride)], -1)
    return _product(windows, _matrix(weight, taps), bias).movedim(-1, 1)


def transposed_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
) -> Tensor:
    """A transposed convolution of (N, D, *small) with weights (D, C, *kernel): (N, C, *large).
    Overlapping windows are summed in float32.
    """
    kernel, small = weight.shape[2:], x.shape[2:]
    if not is_faster(x, weight, prod(small), MIN_WEIGHTS_PER_TRANSPOSED_POSITION):
        convolve = F.conv_transpose2d if x.ndim == 4 else F.conv_transpose3d
        return convolve(x, weight, bias, tuple(stride), tuple(padding))

    axes = zip(small, kernel, stride, padding, strict=True)
    large = [(n - 1) * s + k - 2 * p for n, k, s, p in axes]
    taps = _useful_taps(large, small, kernel, stride, padding)
    windows = _product(x.movedim(1, -1), _matrix(weight, taps).t())

    channels = weight.shape[1]
    padded = [n + 2 * p for n, p in zip(large, padding, strict=True)]
    total = torch.promote_types(windows.dtype, torch.float32)
    out = torch.zeros(len(x), *padded, channels, dtype=total)
    parts = windows.split(channels, -1)
    for place, part in zip(_places(taps, small, stride), parts, strict=True):
        out[place] += part

    inside = [slice(p, p + n) for n, p in zip(large, padding, strict=True)]
    y = out[:, *inside]
    y = y if bias is None else y + bias
    last = CHANNELS_LAST[len(large)]
    return y.to(windows.dtype).movedim(-1, 1).contiguous(memory_format=last)


def _product(rows: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    """(..., inputs) times (outputs, inputs), in the precision that is faster."""
    few = rows[..., 0].numel() <= MAX_FLOAT32_POSITIONS
    if not (few and torch.is_autocast_enabled("cpu")):
        return F.linear(rows, matrix, bias)
    with torch.autocast("cpu", enabled=False):
        y = F.linear(rows.to(matrix.dtype), matrix, bias)
    return y.to(torch.get_autocast_dtype("cpu"))


def _useful_taps(
    large: Sequence[int],
    small: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
) -> list[range]:
    """Along each axis, the taps of the kernel that meet any of the large map."""
    taps = []
    for wide, narrow, k, s, p in zip(large, small, kernel, stride, padding, strict=True):
        last_start = s * (narrow - 1)
        taps.append(range(max(0, p - last_start), min(k, wide + p)))
    return taps


def _matrix(weight: Tensor, taps: Sequence[range]) -> Tensor:
    """The weights (D, C, *kernel) as (D, taps x C); a view where all taps are useful."""
    useful = [slice(each.start, each.stop) for each in taps]
    return weight.movedim(1, -1)[:, *useful].flatten(1)


def _places(
    taps: Sequence[range], small: Sequence[int], stride: Sequence[int]
) -> Iterator[tuple[slice, ...]]:
    """For each tap, the positions of the padded large map (N, *padded, C) that it meets."""
    for tap in product(*taps):
        place = [slice(None)]
        for first, n, s in zip(tap, small, stride, strict=True):
            place.append(slice(first, first + s * (n - 1) + 1, s))
        yield tuple(place)
