"""The layers that networks are made of, in 2-D and 3-D: convolutions, norms, upsampling, attention,
initial weights.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from math import ceil, log2, prod
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.parametrizations import spectral_norm

from gantk.errors import UserError
from gantk.machine.device import CHANNELS_LAST
from gantk.nets import products, winograd
from gantk.nets.products import eager_on_cpu

NormKind = Literal["instance", "batch", "group", "none"]
UpKind = Literal["resize", "linear", "transpose"]
DownKind = Literal["stride", "blur"]
OutputKind = Literal["tanh", "sigmoid", "none"]
Padding = Literal["zeros", "reflect", "replicate"]


def fits_or_float32(
    convolve: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
) -> Tensor:
    """A convolution that computes in float32 on a CPU under autocast where its kernel is larger
    than the map.

    oneDNN's bfloat16 kernels go beyond their memory there: nan gradients, or a crash (torch 2.11
    and 2.13, mostly 3-D).
    """
    fits = all(side >= kernel for side, kernel in zip(x.shape[2:], weight.shape[2:], strict=True))
    if fits or x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return convolve(x, weight, bias)

    with torch.autocast("cpu", enabled=False):
        y = convolve(x.float(), weight.float(), None if bias is None else bias.float())

    return y.to(_precision(x))


class FitsOrFloat32(products.HasProducts, _ConvNd):
    """Mixin: a convolution as `fits_or_float32` computes it, by `gantk.nets.products` or
    `gantk.nets.winograd` where that is faster.
    """

    def forward(self, x: Tensor) -> Tensor:
        return fits_or_float32(self._conv_forward, x, self.weight, self.bias)

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding = self.padding
        plain = self.groups == 1 and set(self.dilation) == {1}
        if isinstance(padding, str) or not (self.products and plain and eager_on_cpu(x)):
            return super()._conv_forward(x, weight, bias)

        if self.padding_mode != "zeros":
            x = _pad_in_precision(x, self._reversed_padding_repeated_twice, self.padding_mode)
            padding = (0,) * len(padding)

        return winograd.convolution(x, weight, bias, self.stride, padding)


def _pad_in_precision(x: Tensor, around: list[int], mode: str) -> Tensor:
    """Pad `x` in the data type of its convolution: under autocast on a CPU, torch would pad in
    float32.
    """
    x = x.to(_precision(x))
    with torch.autocast("cpu", enabled=False):
        y = F.pad(x, around, mode=mode)
    return channels_last(y) if x.stride(1) == 1 else y


def _precision(x: Tensor) -> torch.dtype:
    """The data type of a convolution of `x` on a CPU: autocast's, or the input's own."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


class QuickTransposed(products.HasProducts, _ConvTransposeNd):
    """Mixin: the same for a transposed convolution."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        padding = self.padding
        plain = self.groups == 1 and set(self.dilation) == {1} and set(self.output_padding) == {0}
        own = self.products and plain and output_size is None and eager_on_cpu(x)
        if isinstance(padding, str) or not own:
            return super().forward(x, output_size)
        return products.transposed_convolution(x, self.weight, self.bias, self.stride, padding)


class Conv2d(FitsOrFloat32, nn.Conv2d):
    """torch's convolution, fast and safe on small maps."""


class Conv3d(FitsOrFloat32, nn.Conv3d):
    """torch's convolution, fast and safe on small maps."""


class ConvTranspose2d(QuickTransposed, nn.ConvTranspose2d):
    """torch's transposed convolution, fast on small maps."""


class ConvTranspose3d(QuickTransposed, nn.ConvTranspose3d):
    """torch's transposed convolution, fast on small maps."""


Convolution = Conv2d | Conv3d
CONV: dict[int, type[Convolution]] = {2: Conv2d, 3: Conv3d}
CONV_TRANSPOSE: dict[int, type[ConvTranspose2d | ConvTranspose3d]] = {
    2: ConvTranspose2d,
    3: ConvTranspose3d,
}
CHUNK_POSITIONS = 1 << 14  # positions whose sums float32 holds to 1e-6
BATCH_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
MAX_TORCH_NORM_POSITIONS = (
    1 << 16
)  # positions up to which torch's norm kernels sum accurately on a CPU


def conv(
    dims: int,
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int | None = None,
    mode: Padding = "zeros",
    bias: bool = True,
    spectral: bool = False,
    groups: int = 1,
) -> nn.Module:
    """A convolution; `padding` None keeps the size of a stride-1 convolution with an odd kernel."""
    padding = kernel // 2 if padding is None else padding
    layer = CONV[dims](
        inputs, outputs, kernel, stride, padding, bias=bias, padding_mode=mode, groups=groups
    )
    return spectral_norm(layer) if spectral else layer


class InstanceNorm(nn.Module):
    """Normalises each channel of each image to mean 0 and variance 1 over its positions (Ulyanov et
    al., 2016).

    Statistics are float32 for any precision of the input, in training and in evaluation. One image
    never influences another. `affine` adds a learned scale and offset per channel.

    On a CPU it runs batch norm image by image, for two reasons. torch's own kernel copies
    channels-last input and takes 3 times as long: forward and backward of (4, 32, 96, 96) on 2
    cores take 8.4 against 2.6 ms, or 4.2 against 2.0 in bfloat16. And its gradient is wrong for a
    single image if it arrives channels-last (torch 2.11 and 2.13).

    Batch norm's kernel sums inaccurately over millions of positions, so inference sums in parts
    (see `_in_parts`). A training step at 128^3 has a relative error of 8e-4 in float32.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, channels: int, *, affine: bool = False):
        super().__init__()
        self.channels = channels
        self.eps = 1e-5
        self.affine = affine
        # Without a float32 scale, torch keeps the statistics of bfloat16 input in bfloat16: so
        # there is always one.
        for name, values in (("weight", torch.ones(channels)), ("bias", torch.zeros(channels))):
            if affine:
                self.register_parameter(name, nn.Parameter(values))
            else:
                self.register_buffer(name, values, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if not eager_on_cpu(x):
            y = F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)
            return y.contiguous(memory_format=memory_format(x))
        return _image_by_image(x, self._of_one)

    def _of_one(self, image: Tensor) -> Tensor:
        if is_large_at_inference(image):
            return self._in_parts(image)
        return F.batch_norm(image, None, None, self.weight, self.bias, True, 0.0, self.eps)

    def _in_parts(self, image: Tensor) -> Tensor:
        """Normalise by statistics of parts, combined in float64 (Chan, Golub and LeVeque 1983,
        equation 2.1).

        Batch norm's kernel is the fastest sum over positions on a CPU (seven times as fast as
        torch.var_mean), but it sums in float32, so it gets a few positions at a time: over 4 million
        at once, the variance is 2 in 1,000 off.
        """
        eps = 1e-12
        one = torch.ones(self.channels)
        zero = torch.zeros(self.channels)
        rows = max(1, CHUNK_POSITIONS // image.shape[3:].numel())
        chunks = image.split(rows, dim=2)
        measured = []
        for chunk in chunks:
            part = chunk.contiguous(memory_format=memory_format(chunk))
            measured.append(torch.native_batch_norm(part, one, zero, None, None, True, 0.0, eps))

        means = torch.stack([mean for _, mean, _ in measured]).double()
        variances = torch.stack([scale for _, _, scale in measured]).double() ** -2 - eps
        share = torch.tensor(
            [[chunk.shape[2] / image.shape[2]] for chunk in chunks], dtype=torch.float64
        )
        mean = (share * means).sum(0)
        variance = (share * (variances.clamp_min(0) + (means - mean).square())).sum(0)
        known = mean.float(), variance.float()
        return F.batch_norm(image, *known, self.weight, self.bias, False, 0.0, self.eps)


class GroupNorm(nn.GroupNorm):
    """torch's group norm, whose sums over large images are accurate in contiguous memory alone."""

    def forward(self, x: Tensor) -> Tensor:
        if eager_on_cpu(x) and is_large_at_inference(x):
            x = x.contiguous()
        return super().forward(x)


def _image_by_image(x: Tensor, layer: Callable[[Tensor], Tensor]) -> Tensor:
    images = [layer(image) for image in x.split(1)]
    return torch.cat(images) if len(images) > 1 else images[0]


def is_large_at_inference(x: Tensor) -> bool:
    """Whether torch's kernels would sum the statistics of images inaccurately, which training
    accepts.
    """
    return x.shape[2:].numel() > MAX_TORCH_NORM_POSITIONS and not torch.is_grad_enabled()


def norm(kind: NormKind, channels: int, dims: int, *, affine: bool = False) -> nn.Module:
    """A normalisation layer; `affine` is for instance norm only, batch and group norm always learn
    scale and offset.

    "group" makes 32 groups, or the largest smaller number that divides the channels.
    """
    groups = max(g for g in range(1, min(32, channels) + 1) if channels % g == 0)
    layers: dict[str, Any] = {
        "instance": partial(InstanceNorm, channels, affine=affine),
        "batch": partial(BATCH_NORM[dims], channels),
        "group": partial(GroupNorm, groups, channels),
        "none": nn.Identity,
    }
    return layers[kind]()


class ResizeConv(products.HasProducts, nn.Module):
    """Doubles the size by repeating or interpolating pixels, then convolves 3x3: no checkerboard
    (Odena et al., 2016).

    Repeating pixels and convolving 3x3 is, to the last border pixel, a transposed convolution of
    stride 2 whose 4x4 kernel is the 3x3 kernel summed over the pixels that are repeated: 4 instead
    of 9 products a pixel (2-D; 8 instead of 27 in 3-D), about twice as fast. Small maps, where
    summing costs more than that saves, are done step by step.
    """

    def __init__(
        self, dims: int, inputs: int, outputs: int, *, linear: bool = False, bias: bool = True
    ):
        super().__init__()
        self.linear = linear
        self.conv = CONV[dims](inputs, outputs, 3, padding=1, bias=bias)
        self.enlarge = {2: "bilinear", 3: "trilinear"}[dims] if linear else "nearest"

    def forward(self, x: Tensor) -> Tensor:
        if self.linear or not self.products or prod(x.shape[2:]) < 512:
            return self.conv(F.interpolate(x, scale_factor=2, mode=self.enlarge))

        kernel = summed_kernel(self.conv.weight)
        dims = x.ndim - 2
        return products.transposed_convolution(x, kernel, self.conv.bias, (2,) * dims, (1,) * dims)


def summed_kernel(weight: Tensor) -> Tensor:
    """The 4x4(x4) transposed kernel that equals a 3x3(x3) convolution after repeating every pixel."""
    axes = range(2, weight.ndim)
    kernel = weight.transpose(0, 1).flip(*axes)
    for axis in axes:
        ahead = [0, 0] * (weight.ndim - 1 - axis)  # F.pad counts axes from the last
        kernel = F.pad(kernel, [*ahead, 1, 0]) + F.pad(kernel, [*ahead, 0, 1])
    return kernel


def upsample(kind: UpKind, dims: int, inputs: int, outputs: int, *, bias: bool = True) -> nn.Module:
    """Doubles every side: "resize" nearest + 3x3, "linear" interpolated + 3x3, "transpose" a 4x4 of
    stride 2.
    """
    if kind == "transpose":
        return CONV_TRANSPOSE[dims](inputs, outputs, 4, 2, 1, bias=bias)
    is_linear = {"resize": False, "linear": True}[kind]
    return ResizeConv(dims, inputs, outputs, linear=is_linear, bias=bias)


class Blur(nn.Module):
    """Halves every side of (N, C, *size): weighs neighbours by 1, 2, 1 along each axis, then keeps
    every second position (Zhang, 2019, section 3.2). Sides must be even; borders are reflected.
    """

    kernel: Tensor

    def __init__(self, dims: int):
        super().__init__()
        kernel = torch.ones(())
        for _ in range(dims):
            kernel = kernel[..., None] * torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("kernel", kernel[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        dims = x.ndim - 2
        convolve = F.conv2d if dims == 2 else F.conv3d
        kernel = self.kernel.to(x.dtype).expand(x.shape[1], 1, *self.kernel.shape[2:])
        padded = F.pad(x, (1, 1) * dims, mode="reflect")
        return convolve(padded, kernel, stride=2, groups=x.shape[1])


def output_activation(kind: OutputKind) -> nn.Module:
    """The activation after the last layer: "tanh" to [-1, 1], "sigmoid" to [0, 1], "none" leaves
    values unchanged. Its `output_range` is what `gantk.method.check_output_range` reads.
    """
    activations = {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "none": nn.Identity}
    layer: Any = activations[kind]()
    if kind != "none":
        layer.output_range = (-1.0, 1.0) if kind == "tanh" else (0.0, 1.0)
    return layer


def draw_normal(weight: Tensor, mean: float) -> None:
    """Fill a weight with values of N(mean, 0.02); not one without memory, for which torch imports
    its compiler, two seconds long.
    """
    if not weight.is_meta:
        nn.init.normal_(weight, mean, 0.02)


def init_weights(module: nn.Module) -> nn.Module:
    """Convolutions N(0, 0.02), batch norm scales N(1, 0.02), offsets 0 (Radford et al., 2016,
    section 3).
    """
    for layer in module.modules():
        if isinstance(
            layer, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
        ):
            weight = getattr(getattr(layer, "parametrizations", None), "weight", None)
            draw_normal(weight.original if weight is not None else layer.weight, 0.0)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.affine:
            draw_normal(layer.weight, 1.0)
            nn.init.zeros_(layer.bias)

    return module


def init_weights_without_norm(module: nn.Module) -> nn.Module:
    """The same for a network without normalisation, which N(0, 0.02) would fade out: convolutions
    N(0, 2 / ((1 + 0.2^2) x inputs)), so that maps keep their variance through leaky ReLUs (He et
    al., 2015, equation 14). The last convolution, which gives the image, stays N(0, 0.02).
    """
    init_weights(module)
    convolutions = [layer for layer in module.modules() if isinstance(layer, _ConvNd)]
    for layer in convolutions[:-1]:
        nn.init.kaiming_normal_(layer.weight, 0.2)

    return module


def batch_independent(module: nn.Module) -> bool:
    """Whether a batch of N gives the results of N single passes: no layer mixes the images of a
    batch.
    """
    batch_norm = nn.modules.batchnorm._BatchNorm
    return not any(
        isinstance(m, batch_norm) or getattr(m, "mixes_batch", False) for m in module.modules()
    )


class Network(nn.Module):
    """Base class of networks: tells whether images of a batch are independent, so that passes may
    be joined.
    """

    @property
    def batch_independent(self) -> bool:
        """Whether a batch of N gives the results of N single passes."""
        return batch_independent(self)


def memory_format(x: Tensor) -> torch.memory_format:
    """The memory format of `x`: channels-last (of its dimensions) or contiguous."""
    last = CHANNELS_LAST[x.ndim - 2]
    return last if x.is_contiguous(memory_format=last) else torch.contiguous_format


def channels_last(x: Tensor) -> Tensor:
    """`x` with channels-last strides, even with one channel, where both layouts are the same bytes.

    torch would treat them as channels-first: the first convolution returns that, and every later
    one converts back.
    """
    if x.shape[1] == 1 and x.is_contiguous():
        return x.reshape(len(x), *x.shape[2:], 1).movedim(-1, 1)
    return x.contiguous(memory_format=CHANNELS_LAST[x.ndim - 2])


def in_layout_of(network: nn.Module, x: Tensor) -> Tensor:
    """`x` in channels-last if the network's kernels are, so that one `.to(memory_format=...)` sets
    both.
    """
    last = CHANNELS_LAST[x.ndim - 2]
    kernels = (
        p for p in network.parameters() if p.ndim == x.ndim and p.shape[1] > 1 and p.shape[2] > 1
    )
    kernel = next(kernels, None)
    if kernel is not None and kernel.is_contiguous(memory_format=last):
        return channels_last(x)
    return x


def require_size(
    size: tuple[int, ...], multiple: int, smallest: int, who: str, remedy: str
) -> None:
    """Raises a UserError with the nearest sizes that work unless every side is a multiple and large
    enough.
    """
    if all(side % multiple == 0 and side >= smallest for side in size):
        return

    def near(side: int) -> int:
        return max(side // multiple, -(-smallest // multiple)) * multiple

    around = [[near(side) for side in size], [near(side + multiple - 1) for side in size]]
    nearest = dict.fromkeys(map(str, around))
    rule = f"each side at least {smallest}" + (
        f" and a multiple of {multiple}" if multiple > 1 else ""
    )
    raise UserError(
        f"{who} cannot process images of {' x '.join(map(str, size))}",
        where="data.size",
        allowed=rule,
        remedy=f"Set data.size = {' or '.join(nearest)}, or {remedy}",
    )


def doublings(size: tuple[int, ...], who: str) -> int:
    """How often a map is doubled to become an image of `size`: the most that leave it whole sides
    of 4 pixels or more.

    3 times at 32 px, 4 at 64, 5 at 128. UserError with the nearest sizes where its shortest side
    would be longer than 16: a linear layer from a code to so large a map, or from the map to a
    code, has too many weights.
    """
    shortest = max(min(size), 8)
    remedy = "train on parts of the images (data.patch)"
    require_size(size, 2 ** max(1, ceil(log2(shortest / 16))), 8, who, remedy)
    most = int(log2(shortest / 4))
    return next(count for count in range(most, 0, -1) if all(side % 2**count == 0 for side in size))


class SelfAttention(nn.Module):
    """Adds to each position of a map an attention-weighted sum over all positions (Zhang et al.,
    2019, section 3).

    (N, channels, *size) to the same shape: x + gain * o(x), where o weights all positions' values
    by the softmax of query times key (equation 1) and projects them back (equation 2). Queries and
    keys have channels // 8 filters, values channels // 2; the gain starts at 0 (equation 3). Time
    grows with the square of the position count.
    """

    def __init__(self, dims: int, channels: int):
        super().__init__()
        narrow = max(1, channels // 8)
        half = max(1, channels // 2)
        self.query = conv(dims, channels, narrow, 1, bias=False)
        self.key = conv(dims, channels, narrow, 1, bias=False)
        self.value = conv(dims, channels, half, 1, bias=False)
        self.out = conv(dims, half, channels, 1, bias=False)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            layer(x).flatten(2).mT.unsqueeze(1) for layer in (self.query, self.key, self.value)
        )
        # (N, 1, positions, half); unscaled
        found = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        return x + self.gain * self.out(found.squeeze(1).mT.unflatten(2, x.shape[2:]))


def check_levels(attention: Collection[int], least: int, most: int, why: str = "") -> None:
    """UserError unless every level (number of halvings) of `attention` is from `least` to `most`."""
    for level in attention:
        if not least <= level <= most:
            raise UserError(
                f"self-attention is not possible after {level} halvings of the size",
                where="attention",
                allowed=f"{least} to {most}{why}",
            )


def pixel_norm(x: Tensor) -> Tensor:
    """Normalise each position's feature vector of (N, C, ...) to a mean square of 1 (Karras et al.
    2018, section 4.2).

    The mean square is computed in float32 at any input precision.
    """
    return x * (x.float().square().mean(1, keepdim=True) + 1e-8).rsqrt().to(x.dtype)


def one_hot(label: Tensor, classes: int) -> Tensor:
    """Labels (N,) as rows (N, classes) of one True each.

    torch's one_hot checks the range of labels on the CPU, which synchronises; here a label out of
    range has no True.
    """
    return label[:, None] == torch.arange(classes, device=label.device)


def with_class(x: Tensor, label: Tensor | None, classes: int) -> Tensor:
    """`x` (N, C, ...) with one more channel for each class, 1 for the label's own and 0 for others;
    0 classes: `x`.
    """
    if not classes:
        return x
    if label is None:
        raise ValueError(f"a network of {classes} classes needs the images' labels")

    planes = one_hot(label, classes).to(x.dtype)[(..., *[None] * (x.ndim - 2))]
    return torch.cat([x, planes.expand(-1, -1, *x.shape[2:])], 1)


def halvings(
    dims: int,
    inputs: int,
    filters: list[int],
    strides: list[int],
    kind: NormKind,
    affine: bool,
    spectral: bool,
    norm_first: bool = False,
    mode: Padding = "zeros",
) -> list[nn.Module]:
    """4x4 convolutions, each with a norm and leaky ReLU; the first has a norm only with
    `norm_first`. A first one of stride 1 is 3x3.
    """
    layers = []
    for level, (outputs, stride) in enumerate(zip(filters, strides, strict=True)):
        normed = norm_first or level > 0
        bias = kind == "none" or not normed  # a norm would subtract the offset again
        kernel = 3 if stride == 1 and level == 0 else 4
        layers.append(
            conv(
                dims,
                inputs,
                outputs,
                kernel,
                stride=stride,
                padding=1,
                mode=mode,
                bias=bias,
                spectral=spectral,
            )
        )
        if normed:
            layers.append(norm(kind, outputs, dims, affine=affine))
        layers.append(nn.LeakyReLU(0.2, inplace=True))
        inputs = outputs

    return layers


class Join(torch.autograd.Function):
    """ReLU of concatenated maps: (N, C1, *size) and (N, C2, *size) to (N, C1 + C2, *size); or of
    the first only.

    torch's concatenation returns slices of one gradient, and operations on slices are slow: up to
    six times in bfloat16 on a CPU. Here ReLU's gradient is computed on the whole, and each part is
    copied once.
    """

    @staticmethod
    def forward(ctx, x: Tensor, skip: Tensor, relu_skip: bool = True) -> Tensor:
        out = torch.cat([x, skip], 1)
        ctx.channels = x.shape[1]
        ctx.passed = out.shape[1] if relu_skip else x.shape[1]
        out[:, : ctx.passed].relu_()
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        (out,) = ctx.saved_tensors
        form = memory_format(out)
        if ctx.passed == out.shape[1]:
            gradient = torch.ops.aten.threshold_backward(
                gradient.contiguous(memory_format=form), out, 0
            )

        first = gradient[:, : ctx.channels]
        second = gradient[:, ctx.channels :]
        if ctx.passed < out.shape[1]:
            first = torch.ops.aten.threshold_backward(first, out[:, : ctx.channels], 0)
        return first.contiguous(memory_format=form), second.contiguous(memory_format=form), None
