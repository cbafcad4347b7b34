"""CPU kernels faster than torch's: convolutions of small maps or with one output as products, ReLU
in bfloat16.

oneDNN reorders the weights at every call, and their gradient: most of the time for a map of few
positions. Forward and backward of 512 x 512 weights of 4x4, bfloat16, one core, take 18 ms on 3
images of 8 x 8 pixels and 13 ms on 2 x 2; as matrix products with the weights as they are, 9 and 4
ms. oneDNN computes 16 outputs even for one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product as combinations
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from gantk.machine.device import CHANNELS_LAST

# weights per position of the smaller map, over all images, from which a matrix product is used
MIN_WEIGHTS_PER_POSITION = 4096
TAPS = range(17, 65)  # taps of a kernel with one output for which a matrix product is used
STRIP_ROWS = 32  # rows of the weights per product, see `_in_strips`
# positions up to which products are float32, on CPUs that multiply bfloat16 and others
MAX_FLOAT32_POSITIONS = {True: 16, False: 256}


class HasKernels:
    """Base of layers with kernels of gantk's own; `kernels` False: torch's layer computes."""

    kernels = True


def use_kernels(module: nn.Module, on: bool) -> nn.Module:
    """Turn gantk's own kernels in a network on, or off (torch's modules compute all); returns the
    network.
    """
    for part in module.modules():
        if isinstance(part, HasKernels):
            part.kernels = on
    return module


def usable(x: Tensor) -> bool:
    """Whether gantk's own kernels apply: `x` is on a CPU, and neither torch.compile nor ONNX export
    is tracing.
    """
    return (
        x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch.onnx.is_in_onnx_export()
    )


def precision(x: Tensor) -> torch.dtype:
    """The data type of a convolution of `x` on a CPU: autocast's, or the input's own."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


@dataclass(frozen=True)
class Windows:
    """The windows of a large map (N, C, *large), one for each position of a small map (N, D,
    *small).

    A convolution goes from the large map to the small one, a transposed convolution and gradients
    the other way. The weights (D, C, *kernel) are a matrix (D, taps x C), in the order in which
    channels-last weights lie in memory. Taps that only cover the zero padding are left out: of a
    4x4 kernel on 2x2 pixels just the inner 2x2 count.
    """

    large: tuple[int, ...]
    small: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]

    @property
    def taps(self) -> list[slice]:
        """Along each axis, the taps that cover any of the large map."""
        taps = []
        for axis, padding in enumerate(self.padding):
            last_start = self.stride[axis] * (self.small[axis] - 1)
            first = max(0, padding - last_start)
            taps.append(slice(first, min(self.kernel[axis], self.large[axis] + padding)))

        return taps

    @property
    def sides(self) -> list[int]:
        """Along each axis, the number of `taps`."""
        return [taps.stop - taps.start for taps in self.taps]

    def matrix(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """The weights as a matrix (D, taps x C); a view if no tap is left out and the data type is
        right.
        """
        return weight.movedim(1, -1)[(slice(None), *self.taps)].to(dtype).flatten(1)

    def weights(self, matrix: Tensor, like: Tensor) -> Tensor:
        """The inverse of `matrix`: weights (D, C, *kernel) in the layout of `like`, 0 for taps that
        are left out.
        """
        sides = self.sides
        block = matrix.unflatten(1, (*sides, -1)).movedim(-1, 1)
        if sides == list(self.kernel) and block.stride() == like.stride():
            # autograd adds to it in place as long as it is no view
            return block.to(like.dtype).detach()

        whole = torch.zeros_like(like)
        whole[:, :, *self.taps] = block
        return whole

    def unfold(self, x: Tensor) -> Tensor:
        """The large map's windows, (N x positions of the small map, taps x C)."""
        dims = len(self.large)
        around = [side for p in reversed(self.padding) for side in (p, p)]
        x = x.movedim(1, -1)
        if any(around):
            x = F.pad(x, [0, 0, *around])

        steps = x.stride()
        start = x.storage_offset()
        places = [steps[0]]
        for axis, taps in enumerate(self.taps, 1):
            start += taps.start * steps[axis]
            places.append(steps[axis] * self.stride[axis - 1])

        sides = self.sides
        channels = x.shape[-1]
        shape = (len(x), *self.small, *sides, channels)
        windows = x.as_strided(shape, (*places, *steps[1:]), start)
        if channels > 1:
            return windows.reshape(-1, prod(sides) * channels)

        # one channel: rows of pixels are longer than rows of taps
        positions = range(1 + dims)
        taps_first = windows.squeeze(-1).permute(*range(1 + dims, 1 + 2 * dims), *positions)
        return taps_first.reshape(prod(sides), -1).t()

    def fold(
        self, windows: Tensor, n: int, dtype: torch.dtype, bias: Tensor | None = None
    ) -> Tensor:
        """Sum overlapping windows and `bias`, in float32: the large map (N, C, *large) in `dtype`."""
        sides = self.sides
        windows = windows.unflatten(1, (*sides, -1)).unflatten(0, (n, *self.small))
        padded = [side + 2 * p for side, p in zip(self.large, self.padding, strict=True)]
        dtype_of_sum = torch.promote_types(windows.dtype, torch.float32)
        out = windows.new_zeros(n, *padded, windows.shape[-1], dtype=dtype_of_sum)
        if bias is not None:
            out.add_(bias)

        positions = (slice(None),) * (1 + len(self.small))
        for tap in combinations(*map(range, sides)):
            places = [slice(None)]
            for axis, (number, taps) in enumerate(zip(tap, self.taps, strict=True)):
                first = number + taps.start
                step = self.stride[axis]
                places.append(slice(first, first + step * (self.small[axis] - 1) + 1, step))

            out[tuple(places)] += windows[positions + tap]

        inner = [slice(p, p + side) for p, side in zip(self.padding, self.large, strict=True)]
        result = blank(n, out.shape[-1], self.large, dtype)
        return result.copy_(out[:, *inner].movedim(-1, 1))


def blank(n: int, channels: int, size: Sequence[int], dtype: torch.dtype) -> Tensor:
    """An uninitialised channels-last map: a Function's result must be no view, or it cannot be
    changed in place.
    """
    return torch.empty(n, channels, *size, dtype=dtype, memory_format=CHANNELS_LAST[len(size)])


def rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A map (N, C, *size) as (N x positions, C)."""
    return x.movedim(1, -1).reshape(-1, x.shape[1]).to(dtype)


def gather(
    unfolded: Tensor, matrix: Tensor, bias: Tensor | None = None, out: Tensor | None = None
) -> Tensor:
    """Multiply windows of the large map by the weights: a convolution's rows of the small map."""
    if _in_strips(unfolded, matrix):
        y = torch.cat([unfolded @ strip.t() for strip in matrix.split(STRIP_ROWS)], 1, out=out)
        return y if bias is None else y.add_(bias)
    if bias is None:
        return torch.mm(unfolded, matrix.t(), out=out)
    return torch.addmm(bias, unfolded, matrix.t(), out=out)


def spread(small: Tensor, matrix: Tensor) -> Tensor:
    """Multiply rows of the small map by the weights: the windows that a transposed convolution
    sums.
    """
    if _in_strips(small, matrix):
        y = small.new_zeros(len(small), matrix.shape[1])
        for part, strip in zip(small.split(STRIP_ROWS, 1), matrix.split(STRIP_ROWS), strict=True):
            y.addmm_(part, strip)
        return y

    if matrix.shape[1] < TAPS.stop:  # rows of pixels are longer than rows of taps
        return (matrix.t() @ small.t()).t()
    return small @ matrix


def _in_strips(few: Tensor, matrix: Tensor) -> bool:
    """Whether to multiply by a few rows of the weights at a time, in memory order: twice as fast in
    float32.
    """
    return (
        few.dtype == torch.float32
        and len(few) <= MAX_FLOAT32_POSITIONS[True]
        and len(matrix) > STRIP_ROWS
    )


def weight_gradient(windows: Windows, small: Tensor, unfolded: Tensor, like: Tensor) -> Tensor:
    """The gradient of the weights from the small map's rows and the large map's windows, one of
    them a gradient.
    """
    # bfloat16 would be converted to float32 afterwards
    if len(small) <= 2 * MAX_FLOAT32_POSITIONS[multiplies_bfloat16()]:
        small = _at_least_float32(small)
        unfolded = _at_least_float32(unfolded)
    return windows.weights(small.t() @ unfolded, like)


@lru_cache(maxsize=1)
def multiplies_bfloat16() -> bool:
    """Whether the CPU has AMX or AVX512-BF16: without, products in float32 are as fast and need no
    conversion.
    """
    return any(
        getattr(torch.cpu, f"_is_{name}_supported", lambda: False)()
        for name in ("amx_tile", "avx512_bf16")
    )


class Product(Function):
    """A convolution, as a matrix product, from the large map to the small one or, if `transposed`,
    the other way.
    """

    @staticmethod
    def forward(
        ctx, x: Tensor, weight: Tensor, bias: Tensor | None, windows: Windows, transposed: bool
    ) -> Tensor:
        dtype = precision(x)
        few = len(x) * prod(windows.small) <= MAX_FLOAT32_POSITIONS[multiplies_bfloat16()]
        inner = torch.float32 if few and weight.dtype == torch.float32 else dtype  # of the product
        with torch.autocast("cpu", enabled=False):
            matrix = windows.matrix(weight, inner)
            if transposed:
                y = windows.fold(spread(rows(x, inner), matrix), len(x), dtype, bias)
            else:
                y = blank(len(x), len(weight), windows.small, inner)
                offset = None if bias is None else bias.to(inner)
                gather(windows.unfold(x.to(inner)), matrix, offset, out=rows(y, inner))
                y = y.to(dtype)

        ctx.windows = windows
        ctx.transposed = transposed
        ctx.save_for_backward(x, weight, bias, matrix)
        return y

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple:
        x, weight, bias, matrix = ctx.saved_tensors
        windows = ctx.windows
        of_x, of_weight, of_bias, *_ = ctx.needs_input_grad
        if torch.is_grad_enabled():
            return *differentiable(ctx, gradient), None, None

        gradients: list[Tensor | None] = [None] * 5
        with torch.autocast("cpu", enabled=False):
            if ctx.transposed:
                unfolded = windows.unfold(gradient.to(matrix.dtype))
                if of_x:
                    small = gather(unfolded, matrix).unflatten(0, (len(x), *windows.small))
                    gradients[0] = small.movedim(-1, 1).to(x.dtype)
                if of_weight:
                    small = rows(x, matrix.dtype)
                    gradients[1] = weight_gradient(windows, small, unfolded, weight)
            else:
                small = rows(gradient, matrix.dtype)
                if of_x:
                    gradients[0] = windows.fold(spread(small, matrix), len(x), x.dtype)
                if of_weight:
                    unfolded = windows.unfold(x.to(matrix.dtype))
                    gradients[1] = weight_gradient(windows, small, unfolded, weight)

            if of_bias:
                gradients[2] = offset_gradient(gradient, bias)

        return tuple(gradients)


def differentiable(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients that can be differentiated again, as a gradient penalty needs: torch's own, in
    float32.
    """
    inputs = ctx.saved_tensors[:3]
    wanted = [
        tensor for tensor, needed in zip(inputs, ctx.needs_input_grad, strict=False) if needed
    ]
    with torch.autocast("cpu", enabled=False):
        x, weight, bias = inputs
        x = _at_least_float32(x)
        y = torchs(x, ctx.transposed)(
            x,
            _at_least_float32(weight),
            None if bias is None else _at_least_float32(bias),
            stride=ctx.windows.stride,
            padding=ctx.windows.padding,
        )
        found = iter(torch.autograd.grad(y, wanted, gradient.to(y.dtype), create_graph=True))

    return tuple(next(found) if needed else None for needed in ctx.needs_input_grad[:3])


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Offset(Function):
    """Returns `y`, to which `bias` has been added already; its backward computes the gradient of
    the bias.

    oneDNN takes three times as long for that as for the rest of a transposed convolution's backward
    pass.
    """

    @staticmethod
    def forward(ctx, y: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(bias)
        ctx.mark_dirty(y)
        return y

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        if not ctx.needs_input_grad[1]:
            return gradient, None
        (bias,) = ctx.saved_tensors
        return gradient, offset_gradient(gradient, bias)


def offset_gradient(gradient: Tensor, bias: Tensor) -> Tensor:
    """The gradient of one offset per channel."""
    return gradient.sum((0, *range(2, gradient.ndim))).to(bias.dtype)


def as_bits(x: Tensor) -> bool:
    """Whether ReLU treats a map as integers: torch's converts bfloat16 to float32 and takes 2 to 5
    times as long.
    """
    return x.dtype == torch.bfloat16 and x.numel() >= 1 << 15 and usable(x)


def rectified_gradient(gradient: Tensor, y: Tensor) -> Tensor:
    """The gradient of ReLU's input from that of its output `y`."""
    if torch.is_grad_enabled() or not as_bits(y):
        return torch.ops.aten.threshold_backward(gradient, y, 0)
    bits = gradient.view(torch.int16)
    sign = y.view(torch.int16)
    return torch.ops.aten.threshold_backward(bits, sign, 0).view(y.dtype)


class Rectified(Function):
    """ReLU in place that keeps nan: as an integer, -infinity is -128, and smaller ones are the
    numbers below 0.
    """

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        if as_bits(x):
            torch.ops.aten.threshold_(x.view(torch.int16), -128, 0)
        else:
            x.relu_()

        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return rectified_gradient(gradient, *ctx.saved_tensors)


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
) -> Tensor:
    """A convolution: a matrix product where that is faster, else torch's."""
    kernel = tuple(weight.shape[2:])
    large = tuple(x.shape[2:])
    small = tuple(
        (n + 2 * p - k) // s + 1 for n, k, s, p in zip(large, kernel, stride, padding, strict=True)
    )
    if usable(x) and x.stride(1) == 1:
        if is_heavy(weight, len(x) * prod(small)):
            windows = Windows(large, small, kernel, stride, padding)
            return Product.apply(x, weight, bias, windows, False)

        around = tuple(k - 1 - p for k, p in zip(kernel, padding, strict=True))
        has_one_output = weight.shape[0] == 1 and prod(kernel) in TAPS
        if has_one_output and set(stride) == {1} and min(around) >= 0:
            # With a flipped kernel it is a transposed convolution.
            turned = weight.transpose(0, 1).flip(*range(2, weight.ndim))
            windows = Windows(small, large, kernel, stride, around)
            return Product.apply(x, turned, bias, windows, True)

    return torchs(x)(x, weight, bias, stride, padding)


def transposed_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
) -> Tensor:
    """A transposed convolution: a matrix product where that is faster, else torch's."""
    kernel = tuple(weight.shape[2:])
    small = tuple(x.shape[2:])
    sizes = zip(small, kernel, stride, padding, strict=True)
    large = tuple((n - 1) * s + k - 2 * p for n, k, s, p in sizes)
    if usable(x) and x.stride(1) == 1:
        narrow = weight.shape[1] == 1 and prod(kernel) < TAPS.stop
        # oneDNN is slower at these
        least = MIN_WEIGHTS_PER_POSITION // 2
        if narrow or is_heavy(weight, len(x) * prod(small), least):
            windows = Windows(large, small, kernel, stride, padding)
            return Product.apply(x, weight, bias, windows, True)

    transposed = torchs(x, transposed=True)
    if bias is None or not usable(x):
        return transposed(x, weight, bias, stride, padding)

    return Offset.apply(transposed(x, weight, bias.detach(), stride, padding), bias)


def torchs(x: Tensor, transposed: bool = False) -> Callable[..., Tensor]:
    """torch's own convolution function for a map of this dimension."""
    if x.ndim == 4:
        return F.conv_transpose2d if transposed else F.conv2d
    return F.conv_transpose3d if transposed else F.conv3d


def pad_in_precision(x: Tensor, around: list[int], mode: str) -> Tensor:
    """Pad `x` in the data type of its convolution: under autocast on a CPU, torch would pad in
    float32.
    """
    x = x.to(precision(x))
    with torch.autocast("cpu", enabled=False):
        y = F.pad(x, around, mode=mode)

    if x.shape[1] == 1 and x.stride(1) == 1:
        return y.view(len(y), *y.shape[2:], 1).movedim(-1, 1)
    return y


def is_heavy(weight: Tensor, positions: int, least: int | None = None) -> bool:
    """Whether there are so many weights, for so few positions, that reordering them is most of the
    time.
    """
    if least is None:
        least = MIN_WEIGHTS_PER_POSITION
    return weight.numel() >= least * positions and weight.movedim(1, -1).is_contiguous()
