"""GPU kernels for channels-last maps, in Triton: instance norm and padding by reflection.

torch's kernels for both know the contiguous layout only. They copy a channels-last map into it, and
the next convolution copies the result back: 45 % of the time of a CycleGAN step (ResNet of 9
blocks, 256 px, batch 16, bfloat16, NVIDIA H200). Off by default (train.fast.gpu_kernels): they are
tested by Triton's interpreter and compile for that GPU, but their gain has not been measured.

A map (N, C, *size) in channels-last memory is N times a matrix of positions x channels. Each kernel
computes a tile of it, in float32.
"""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function

from gantk.machine.device import CHANNELS_LAST

TILE = 4096  # elements
MAX_CHANNELS = 128  # of a tile
PROGRAMS = 512  # that sum at the same time, a few for each multiprocessor
MAX_PARTS = 64  # sums over parts of the positions, which are added afterwards


@triton.jit
def _sum_kernel(
    x, sums, positions, channels, parts,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Sums and sums of squares of one part of an image, less the image's first position: that keeps
    the digits of a map whose mean is large.
    """
    image = tl.program_id(0).to(tl.int64)
    part = tl.program_id(2)
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = channel < channels
    x += image * positions * channels + channel
    first = tl.load(x, mask=inside, other=0.0).to(tl.float32)
    total = tl.zeros([COLUMNS], tl.float32)
    squares = tl.zeros([COLUMNS], tl.float32)
    for step in range(STEPS):
        row = (step * parts + part) * ROWS + tl.arange(0, ROWS)
        known = (row < positions)[:, None] & inside[None, :]
        value = tl.load(x[None, :] + row[:, None].to(tl.int64) * channels, mask=known, other=0.0)
        value = tl.where(known, value.to(tl.float32) - first[None, :], 0.0)
        total += tl.sum(value, 0)
        squares += tl.sum(value * value, 0)

    sums += (image * parts + part) * 2 * channels + channel
    tl.store(sums, total, mask=inside)
    tl.store(sums + channels, squares, mask=inside)


@triton.jit
def _add_parts(sums, image, channel, channels, parts, PARTS: tl.constexpr):
    """Both sums of an image, added over its parts."""
    part = tl.arange(0, PARTS)[:, None]
    inside = (part < parts) & (channel < channels)[None, :]
    sums += (image * parts + part) * 2 * channels + channel[None, :]
    first = tl.load(sums, mask=inside, other=0.0)
    second = tl.load(sums + channels, mask=inside, other=0.0)
    return tl.sum(first, 0), tl.sum(second, 0)


@triton.jit
def _normalize_kernel(
    x, y, sums, moments, weight, bias, positions, channels, parts, eps,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Normalises a tile; the first tile of an image stores its mean and its factor."""
    image = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = channel < channels
    total, squares = _add_parts(sums, image, channel, channels, parts, PARTS)
    x += image * positions * channels + channel
    step = total / positions
    mean = tl.load(x, mask=inside, other=0.0).to(tl.float32) + step
    variance = tl.maximum(squares / positions - step * step, 0.0)
    factor = 1.0 / tl.sqrt(variance + eps)
    if tl.program_id(2) == 0:
        kept = moments + image * 2 * channels + channel
        tl.store(kept, mean, mask=inside)
        tl.store(kept + channels, factor, mask=inside)

    scale = factor * tl.load(weight + channel, mask=inside, other=0.0)
    offset = tl.load(bias + channel, mask=inside, other=0.0)
    row = (tl.program_id(2) * ROWS + tl.arange(0, ROWS))[:, None]
    known = (row < positions) & inside[None, :]
    place = row.to(tl.int64) * channels
    value = tl.load(x[None, :] + place, mask=known, other=0.0).to(tl.float32)
    value = (value - mean[None, :]) * scale[None, :] + offset[None, :]
    y += image * positions * channels + channel
    tl.store(y[None, :] + place, value.to(y.dtype.element_ty), mask=known)


@triton.jit
def _gradient_sum_kernel(
    x, gradient, sums, moments, positions, channels, parts,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Of one part of an image: the sums of the gradient, and of its product with the normalised map."""
    image = tl.program_id(0).to(tl.int64)
    part = tl.program_id(2)
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = channel < channels
    moments += image * 2 * channels + channel
    mean = tl.load(moments, mask=inside, other=0.0)
    factor = tl.load(moments + channels, mask=inside, other=0.0)
    start_of_image = image * positions * channels + channel
    total = tl.zeros([COLUMNS], tl.float32)
    product = tl.zeros([COLUMNS], tl.float32)
    for step in range(STEPS):
        row = (step * parts + part) * ROWS + tl.arange(0, ROWS)
        known = (row < positions)[:, None] & inside[None, :]
        place = start_of_image[None, :] + row[:, None].to(tl.int64) * channels
        value = tl.load(x + place, mask=known, other=0.0).to(tl.float32)
        slope = tl.load(gradient + place, mask=known, other=0.0).to(tl.float32)
        total += tl.sum(slope, 0)
        product += tl.sum(slope * (value - mean[None, :]) * factor[None, :], 0)

    sums += (image * parts + part) * 2 * channels + channel
    tl.store(sums, total, mask=inside)
    tl.store(sums + channels, product, mask=inside)


@triton.jit
def _gradient_kernel(
    x, gradient, result, sums, moments, weight, positions, channels, parts,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """The gradient of a tile of the map from that of the normalised one."""
    image = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = channel < channels
    total, product = _add_parts(sums, image, channel, channels, parts, PARTS)
    moments += image * 2 * channels + channel
    mean = tl.load(moments, mask=inside, other=0.0)
    factor = tl.load(moments + channels, mask=inside, other=0.0)
    scale = factor * tl.load(weight + channel, mask=inside, other=0.0)
    row = (tl.program_id(2) * ROWS + tl.arange(0, ROWS))[:, None]
    known = (row < positions) & inside[None, :]
    place = image * positions * channels + row.to(tl.int64) * channels + channel[None, :]
    value = tl.load(x + place, mask=known, other=0.0).to(tl.float32)
    slope = tl.load(gradient + place, mask=known, other=0.0).to(tl.float32)
    normal = (value - mean[None, :]) * factor[None, :]
    slope = slope - (total / positions)[None, :] - normal * (product / positions)[None, :]
    slope = slope * scale[None, :]
    tl.store(result + place, slope.to(result.dtype.element_ty), mask=known)


@triton.jit
def _mirror(place, side):
    """The place inside a row of `side` that a place beyond its ends shows."""
    inside = tl.abs(place)
    return (side - 1) - tl.abs((side - 1) - inside)


@triton.jit
def _pad_kernel(
    x, y, rows, height, width, channels, out_height, out_width, top, left,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """A tile of the padded map."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    image = tl.program_id(2).to(tl.int64)
    known = (row < rows)[:, None] & (channel < channels)[None, :]
    h = _mirror(row // out_width - top, height)
    w = _mirror(row % out_width - left, width)
    source = image * height * width + h * width + w
    value = tl.load(x + source[:, None] * channels + channel[None, :], mask=known, other=0.0)
    place = (image * rows + row)[:, None] * channels + channel[None, :]
    tl.store(y + place, value, mask=known)


@triton.jit
def _place_of_copy(place, side, before, padded, COPY: tl.constexpr):
    """Where the padded row shows a place: itself, mirrored at the start, mirrored at the end; and
    whether it does.
    """
    at = place + before
    shown = place >= 0
    if COPY == 1:
        at = before - place
        shown = (place > 0) & (at >= 0)
    if COPY == 2:
        at = before + 2 * (side - 1) - place
        shown = (place < side - 1) & (at < padded)
    return at, shown


@triton.jit
def _fold_kernel(
    y, x, rows, height, width, channels, out_height, out_width, top, left,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """A tile of the map, each position the sum of the places of the padded one that show it."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    image = tl.program_id(2).to(tl.int64)
    known = (row < rows)[:, None] & (channel < channels)[None, :]
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for vertical in tl.static_range(3):
        h, in_height = _place_of_copy(row // width, height, top, out_height, vertical)
        for horizontal in tl.static_range(3):
            w, in_width = _place_of_copy(row % width, width, left, out_width, horizontal)
            source = image * out_height * out_width + h * out_width + w
            shown = known & (in_height & in_width)[:, None]
            place = source[:, None] * channels + channel[None, :]
            total += tl.load(y + place, mask=shown, other=0.0).to(tl.float32)

    place = (image * rows + row)[:, None] * channels + channel[None, :]
    tl.store(x + place, total.to(x.dtype.element_ty), mask=known)


def _tile(channels: int) -> dict[str, int]:
    columns = min(MAX_CHANNELS, triton.next_power_of_2(channels))
    return {"ROWS": TILE // columns, "COLUMNS": columns}


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=CHANNELS_LAST[x.ndim - 2])


class _Norm:
    """The launches for maps of one shape."""

    def __init__(self, x: Tensor):
        self.images, self.channels = x.shape[:2]
        self.positions = prod(x.shape[2:])
        self.tile = _tile(self.channels)
        self.columns = triton.cdiv(self.channels, self.tile["COLUMNS"])
        self.rows = triton.cdiv(self.positions, self.tile["ROWS"])
        busy = triton.cdiv(PROGRAMS, self.images * self.columns)
        self.parts = min(self.rows, MAX_PARTS, busy)
        self.by_part = self.tile | {"STEPS": triton.cdiv(self.rows, self.parts)}
        self.by_tile = self.tile | {"PARTS": triton.next_power_of_2(self.parts)}
        self.sums = x.new_empty(self.images, self.parts, 2, self.channels, dtype=torch.float32)

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.positions, self.channels, self.parts

    @property
    def in_parts(self) -> tuple[int, int, int]:
        return self.images, self.columns, self.parts

    @property
    def in_tiles(self) -> tuple[int, int, int]:
        return self.images, self.columns, self.rows


class InstanceNormed(Function):
    """Instance norm of a channels-last map (N, C, *size), with a scale and an offset per channel."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        x = _last(x)
        y = torch.empty_like(x)
        launch = _Norm(x)
        moments = x.new_empty(launch.images, 2, launch.channels, dtype=torch.float32)
        with torch.cuda.device_of(x):
            _sum_kernel[launch.in_parts](x, launch.sums, *launch.sizes, **launch.by_part)
            _normalize_kernel[launch.in_tiles](
                x, y, launch.sums, moments, weight, bias, *launch.sizes, eps,
                **launch.by_tile,
            )  # fmt: skip
        ctx.save_for_backward(x, moments, weight, bias)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple:
        x, moments, weight, bias = ctx.saved_tensors
        if torch.is_grad_enabled():  # a gradient that is differentiated again: torch's own
            wanted = [each for each in (x, weight, bias) if each.requires_grad]
            y = F.instance_norm(x, weight=weight, bias=bias, eps=ctx.eps)
            found = iter(torch.autograd.grad(y, wanted, gradient, create_graph=True))
            given = [next(found) if each.requires_grad else None for each in (x, weight, bias)]
            return *given, None

        gradient = _last(gradient)
        result = torch.empty_like(x)
        launch = _Norm(x)
        with torch.cuda.device_of(x):
            _gradient_sum_kernel[launch.in_parts](
                x, gradient, launch.sums, moments, *launch.sizes, **launch.by_part
            )
            _gradient_kernel[launch.in_tiles](
                x, gradient, result, launch.sums, moments, weight, *launch.sizes,
                **launch.by_tile,
            )  # fmt: skip
        of_bias, of_weight = None, None
        if any(ctx.needs_input_grad[1:3]):
            of_bias, of_weight = launch.sums.sum((0, 1))
        return result, of_weight, of_bias, None


def _move(kernel, given: Tensor, size: tuple[int, int], sides: tuple, before: tuple) -> Tensor:
    """A map of `size` by a kernel that reads `given`; sides and padding as `_pad_kernel` takes them."""
    given = _last(given)
    shape = (*given.shape[:2], *size)
    result = given.new_empty(shape).contiguous(memory_format=CHANNELS_LAST[2])
    images, channels = given.shape[:2]
    rows = prod(size)
    tile = _tile(channels)
    columns = triton.cdiv(channels, tile["COLUMNS"])
    grid = (triton.cdiv(rows, tile["ROWS"]), columns, images)
    height, width, out_height, out_width = sides
    with torch.cuda.device_of(given):
        kernel[grid](
            given, result, rows, height, width, channels, out_height, out_width, *before, **tile
        )
    return result


class Reflected(Function):
    """Padding of a map (N, C, height, width) by reflection; `around` as F.pad takes it."""

    @staticmethod
    def forward(ctx, x: Tensor, around: tuple[int, int, int, int]) -> Tensor:
        left, right, top, bottom = around
        size = (x.shape[2] + top + bottom, x.shape[3] + left + right)
        ctx.size, ctx.around = tuple(x.shape[2:]), around
        return _move(_pad_kernel, x, size, (*x.shape[2:], *size), (top, left))

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return Folded.apply(gradient, ctx.size, ctx.around), None


class Folded(Function):
    """The gradient of `Reflected`, whose own gradient is `Reflected`: both are linear."""

    @staticmethod
    def forward(ctx, y: Tensor, size: tuple[int, int], around: tuple[int, int, int, int]) -> Tensor:
        left, _, top, _ = around
        ctx.around = around
        return _move(_fold_kernel, y, size, (*size, *y.shape[2:]), (top, left))

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return Reflected.apply(gradient, ctx.around), None, None
