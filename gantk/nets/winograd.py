"""Convolutions of stride 1 with a quarter of the multiplications: float32 on a CPU, while training.

A 3x3 kernel on a window of 6 x 6 pixels has 4 x 4 outputs: 144 products per pair of channels, or 36
with transformed windows and kernels (Winograd 1980; Lavin and Gray 2016, section 4). A 4x4 kernel
has 3 x 3 outputs. Results differ by 1e-5 of the largest output at most, about twice torch's own
rounding error.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import product as combinations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from gantk.machine.device import CHANNELS_LAST
from gantk.nets import products

# interpolation points, with infinity: the most accurate of those tried
POINTS = np.array([0.0, 1.0, -1.0, 0.5, -2.0])
WINDOW_SIDE = 6  # side of a window in pixels
MIN_CHANNELS = 64  # on both sides
MIN_PRODUCTS = 1 << 24  # inputs x outputs x an image's positions


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
) -> Tensor:
    """A convolution by these transforms where they are faster, else by `gantk.nets.products`."""
    outputs, inputs, *kernel = weight.shape
    is_small_kernel = kernel in ([3, 3], [4, 4]) and set(stride) == {1}
    if is_small_kernel and min(outputs, inputs) >= MIN_CHANNELS and products.eager_on_cpu(x):
        small = [size + 2 * p - kernel[0] + 1 for size, p in zip(x.shape[2:], padding, strict=True)]
        exact = x.dtype == weight.dtype != torch.bfloat16 and not torch.is_autocast_enabled("cpu")
        # of one image: equal for any ranks and microbatches
        large = outputs * inputs * small[0] * small[1] >= MIN_PRODUCTS
        if exact and large and x.stride(1) == 1 and torch.is_grad_enabled():
            y = Winograd.apply(x, weight, Tiles(small, kernel[0], padding))
            return y if bias is None else y + bias[:, None, None]

    return products.convolution(x, weight, bias, stride, padding)


@lru_cache
def transforms(kernel: int, dtype: torch.dtype) -> list[Tensor]:
    """The transforms of windows (36, 36), of kernels (36, kernel^2) and to outputs ((7 - kernel)^2,
    36).
    """
    others = [np.delete(POINTS, place) for place in range(len(POINTS))]
    polynomials = [[*np.poly(other)[::-1], 0.0] for other in others]
    windows = np.array([*polynomials, np.poly(POINTS)[::-1]])

    # last row: the point at infinity
    powers = np.vstack([POINTS[:, None] ** np.arange(WINDOW_SIDE), np.zeros(WINDOW_SIDE)])
    scales = [np.prod(point - other) for point, other in zip(POINTS, others, strict=True)]
    kernels = powers[:, :kernel].copy()
    kernels[:-1] /= np.array(scales)[:, None]
    kernels[-1, -1] = 1.0
    outputs = powers[:, : WINDOW_SIDE + 1 - kernel].copy()
    outputs[-1, -1] = 1.0

    matrices = (windows, kernels, outputs.T)
    return [torch.tensor(np.kron(each, each), dtype=dtype) for each in matrices]


class Tiles:
    """The tiles of a small map (N, D, *small), each computed from one window of the large map."""

    def __init__(self, small: list[int], kernel: int, padding: tuple[int, ...]):
        self.small = small
        self.kernel = kernel
        self.padding = padding
        self.side = WINDOW_SIDE + 1 - kernel
        # the last ones may reach beyond the map
        self.counts = [-(-size // self.side) for size in small]

    def cut(self, x: Tensor, window: int, before: tuple[int, ...] = (0, 0)) -> Tensor:
        """A map's windows as (N x counts, window^2, C)."""
        around: list[int] = []  # F.pad counts axes from the last
        for count, size, edge in zip(self.counts, x.shape[2:], before, strict=True):
            end = (count - 1) * self.side + window - size - edge
            around = [edge, end, *around]

        x = x.movedim(1, -1)
        if any(around):
            x = F.pad(x, [0, 0, *around])

        image, row, column, channel = x.stride()
        strides = image, self.side * row, self.side * column, row, column, channel
        shape = (len(x), *self.counts, window, window, x.shape[-1])
        windows = x.as_strided(shape, strides, x.storage_offset())
        return windows.reshape(-1, window**2, x.shape[-1])

    def join(
        self, pixels: Tensor, n: int, size: list[int], before: tuple[int, ...] = (0, 0)
    ) -> Tensor:
        """The inverse of `cut`, summing where windows overlap: (N x counts, window^2, C) to a map
        (n, C, *size).
        """
        high, wide = self.counts
        side = self.side
        channels = pixels.shape[2]
        over = int(pixels.shape[1] > side**2)  # further tiles that a window reaches into
        whole = (high + over) * side, (wide + over) * side
        out = _empty(n, channels, whole, pixels.dtype).zero_()
        tiles = out.movedim(1, -1).view(n, high + over, side, wide + over, side, channels)
        windows = pixels.unflatten(1, (WINDOW_SIDE if over else side, -1))
        windows = windows.unflatten(0, (n, high, wide)).transpose(2, 3)
        for row, column in combinations(range(over + 1), repeat=2):
            rows = slice(row * side, (row + 1) * side)
            columns = slice(column * side, (column + 1) * side)
            part = windows[:, :, rows, :, columns]
            place = tiles[:, row : row + high, :, column : column + wide]
            place[:, :, : part.shape[2], :, : part.shape[4]] += part

        if whole == tuple(size):
            return out

        inner = [slice(edge, edge + side) for edge, side in zip(before, size, strict=True)]
        return _empty(n, channels, size, out.dtype).copy_(out[:, :, *inner])


def _empty(n: int, channels: int, size: Sequence[int], dtype: torch.dtype) -> Tensor:
    """An uninitialised channels-last map: a Function's result must be no view, or it cannot be
    changed in place.
    """
    return torch.empty(n, channels, *size, dtype=dtype, memory_format=CHANNELS_LAST[2])


def transform_windows(matrix: Tensor, pixels: Tensor) -> Tensor:
    """Multiply each window (pixels, channels) by a matrix: quicker than one product of all windows
    side by side.
    """
    return torch.bmm(matrix.expand(len(pixels), -1, -1), pixels)


def _taps(of_kernels: Tensor, weight: Tensor) -> Tensor:
    """The transformed kernels (D, window^2, C) of the weights (D, C, *kernel)."""
    return transform_windows(of_kernels, weight.movedim(1, -1).flatten(1, 2))


class Winograd(Function):
    """A convolution by these transforms, without a bias."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, windows: Tiles) -> Tensor:
        ctx.windows = windows
        ctx.save_for_backward(x, weight)
        of_windows, of_kernels, to_outputs = transforms(windows.kernel, x.dtype)
        large = transform_windows(of_windows, windows.cut(x, WINDOW_SIDE, windows.padding))
        multiplied = torch.einsum("npc,dpc->npd", large, _taps(of_kernels, weight))
        return windows.join(transform_windows(to_outputs, multiplied), len(x), windows.small)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple:
        x, weight = ctx.saved_tensors
        windows = ctx.windows
        if torch.is_grad_enabled():  # to be differentiated again, as a gradient penalty needs
            y = F.conv2d(x, weight, padding=windows.padding)
            needed = ctx.needs_input_grad[:2]
            inputs = [each for each, needs in zip((x, weight), needed, strict=True) if needs]
            found = iter(torch.autograd.grad(y, inputs, gradient, create_graph=True))
            return *(next(found) if needs else None for needs in needed), None

        gradients = [None] * 3
        of_windows, of_kernels, to_outputs = transforms(windows.kernel, x.dtype)
        small = transform_windows(to_outputs.t(), windows.cut(gradient, windows.side))
        if ctx.needs_input_grad[0]:
            multiplied = torch.einsum("npd,dpc->npc", small, _taps(of_kernels, weight))
            large = transform_windows(of_windows.t(), multiplied)
            gradients[0] = windows.join(large, len(x), x.shape[2:], windows.padding)

        if ctx.needs_input_grad[1]:
            large = transform_windows(of_windows, windows.cut(x, WINDOW_SIDE, windows.padding))
            taps = transform_windows(of_kernels.t(), torch.einsum("npd,npc->dpc", small, large))
            gradients[1] = taps.unflatten(1, (windows.kernel,) * 2).movedim(-1, 1).detach()

        return tuple(gradients)
