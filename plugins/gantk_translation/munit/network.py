"""MUNIT's networks: an autoencoder for each domain that encodes an image as content and style."""

from __future__ import annotations

from itertools import pairwise
from math import prod

import torch.nn.functional as F
from torch import Tensor, nn

from gantk.nets.blocks import (
    CONV,
    CONV_TRANSPOSE,
    InstanceNorm,
    Network,
    OutputKind,
    conv,
    in_layout_of,
    norm,
    output_activation,
    require_size,
    summed_kernel,
)

TRANSPOSED = {2: F.conv_transpose2d, 3: F.conv_transpose3d}


class Autoencoder(Network):
    """Content encoder, style encoder and decoder of one domain (Huang et al. 2018, appendix B.1).

    (N, channels, *size) has a content code (N, width * 2**downs, *size / 2**downs), the structure,
    and a style code (N, style_dim), the appearance in this domain. Every side is a multiple of
    2**downs and at least 2**(downs + 2). `forward` encodes an image and decodes it again.
    """

    def __init__(
        self,
        channels: int,
        dims: int,
        width: int,
        downs: int,
        blocks: int,
        style_dim: int,
        mlp_dim: int,
        activation_out: OutputKind,
    ):
        super().__init__()
        self.downs = downs
        self.content = ContentEncoder(channels, dims, width, downs, blocks)
        self.style = StyleEncoder(channels, dims, width, downs, style_dim)
        self.decode = Decoder(
            channels, dims, width, downs, blocks, style_dim, mlp_dim, activation_out
        )
        kaiming(self)

    def check_size(self, size: tuple[int, ...]) -> None:
        """Raise UserError unless every side can be halved `downs` times and is large enough for the
        style encoder.
        """
        who = f"an autoencoder with {self.downs} downs"
        require_size(size, 2**self.downs, 2 ** (self.downs + 2), who, "lower method.downs")

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.content(x), self.style(x))


class ContentEncoder(nn.Module):
    """7x7 convolution, strided 4x4 convolutions, residual blocks; no style, by instance norm."""

    def __init__(self, channels: int, dims: int, width: int, downs: int, blocks: int):
        super().__init__()
        layers = [*with_norm_and_relu(conv(dims, channels, width, 7, mode="reflect"), dims)]
        for level in range(downs):
            layers += with_norm_and_relu(
                halving(dims, width * 2**level, width * 2 ** (level + 1)), dims
            )
        layers += [ContentBlock(width * 2**downs, dims) for _ in range(blocks)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(in_layout_of(self, x))


class ContentBlock(nn.Module):
    """Two 3x3 convolutions with instance norm, added to the input; no activation after the sum."""

    def __init__(self, channels: int, dims: int):
        super().__init__()
        first, second = (conv(dims, channels, channels, 3, mode="reflect") for _ in range(2))
        self.layers = nn.Sequential(
            *with_norm_and_relu(first, dims), second, norm("instance", channels, dims)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class StyleEncoder(nn.Module):
    """7x7 convolution, `downs` + 2 strided 4x4 convolutions, the mean over all positions, a linear
    layer.

    No norm: it would remove the means and deviations of the maps, which are the style (appendix
    B.1). The last two halvings keep the number of filters.
    """

    def __init__(self, channels: int, dims: int, width: int, downs: int, style_dim: int):
        super().__init__()
        filters = [width * 2 ** min(level, downs) for level in range(downs + 3)]
        layers = [conv(dims, channels, width, 7, mode="reflect"), nn.ReLU(inplace=True)]
        for inputs, outputs in pairwise(filters):
            layers += [halving(dims, inputs, outputs), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)
        self.code = nn.Linear(filters[-1], style_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(N, style_dim), float32."""
        return self.code(self.layers(in_layout_of(self, x)).float().flatten(2).mean(2)).float()


class Decoder(nn.Module):
    """Residual blocks with AdaIN, whose scales and offsets an MLP computes from the style, then
    upsampling by 2.
    """

    def __init__(
        self,
        channels: int,
        dims: int,
        width: int,
        downs: int,
        blocks: int,
        style_dim: int,
        mlp_dim: int,
        activation_out: OutputKind,
    ):
        super().__init__()
        deepest = width * 2**downs
        self.blocks = nn.ModuleList(StyledBlock(deepest, dims) for _ in range(blocks))
        self.mlp = nn.Sequential(
            nn.Linear(style_dim, mlp_dim),
            nn.ReLU(inplace=True),
            nn.Linear(mlp_dim, mlp_dim),
            nn.ReLU(inplace=True),
            # scale and offset of two AdaIN layers per block
            nn.Linear(mlp_dim, 4 * deepest * blocks),
        )
        layers = []
        for level in range(downs, 0, -1):
            inputs = width * 2**level
            outputs = width * 2 ** (level - 1)
            layers += [Doubling(inputs, outputs, dims), LayerNorm(outputs), nn.ReLU(inplace=True)]

        layers += [
            conv(dims, width, channels, 7, mode="reflect"),
            output_activation(activation_out),
        ]
        self.layers = nn.Sequential(*layers)

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        if len(self.blocks):
            # (N, blocks, scale or offset and layer, channels)
            numbers = self.mlp(style).float().reshape(style.shape[0], len(self.blocks), 4, -1)
            for block, own in zip(self.blocks, numbers.unbind(1), strict=True):
                content = block(content, own)
        return self.layers(content)


class StyledBlock(nn.Module):
    """Two 3x3 convolutions with AdaIN, added to the input; no activation after the sum."""

    def __init__(self, channels: int, dims: int):
        super().__init__()
        self.first, self.second = (
            conv(dims, channels, channels, 3, mode="reflect") for _ in range(2)
        )
        self.adain = AdaIN(channels)

    def forward(self, x: Tensor, numbers: Tensor) -> Tensor:
        """`numbers` (N, 4, channels): scale and offset of the first layer, then of the second."""
        scale1, offset1, scale2, offset2 = numbers.unbind(1)
        y = F.relu(self.adain(self.first(x), scale1, offset1))
        return x + self.adain(self.second(y), scale2, offset2)


class AdaIN(nn.Module):
    """Adaptive instance norm: scale * (x - mean) / deviation + offset for each channel of each
    image (equation 8).

    `scale` and `offset` (N, C) are arguments of `forward` (Huang & Belongie 2017); statistics are
    float32.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.norm = InstanceNorm(channels)

    def forward(self, x: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
        shape = (*scale.shape, *[1] * (x.ndim - 2))
        return (self.norm(x) * scale.reshape(shape) + offset.reshape(shape)).to(x.dtype)


class LayerNorm(nn.GroupNorm):
    """Normalises each image over all channels and positions, then scales and shifts each channel
    (Ba et al. 2016).

    Unlike instance norm it keeps the channels' strengths relative to each other, in which AdaIN has
    encoded the style. Statistics are float32.
    """

    def __init__(self, channels: int):
        super().__init__(1, channels)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).to(x.dtype)


class Doubling(nn.Module):
    """Upsamples by 2 (nearest), then convolves 5x5 with replicated borders.

    Computed as the equivalent transposed 6x6 convolution of stride 2: 9 instead of 25 values per
    pixel (27 instead of 125 in 3-D). Small maps, where summing the kernel costs more than it saves,
    are computed in two steps.
    """

    def __init__(self, inputs: int, outputs: int, dims: int):
        super().__init__()
        self.dims = dims
        self.conv = conv(dims, inputs, outputs, 5, mode="replicate")

    def forward(self, x: Tensor) -> Tensor:
        if prod(x.shape[2:]) < 512:
            return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
        framed = F.pad(x, (1,) * (2 * self.dims), mode="replicate")  # two pixels of the doubled map
        return TRANSPOSED[self.dims](
            framed, summed_kernel(self.conv.weight), self.conv.bias, stride=2, padding=4
        )


def halving(dims: int, inputs: int, outputs: int) -> nn.Module:
    """A 4x4 convolution of stride 2, which halves every side."""
    return conv(dims, inputs, outputs, 4, stride=2, padding=1, mode="reflect")


def with_norm_and_relu(layer: nn.Module, dims: int) -> list[nn.Module]:
    """The layers of a convolution, instance norm and ReLU."""
    return [layer, norm("instance", layer.out_channels, dims), nn.ReLU(inplace=True)]


def kaiming(module: nn.Module) -> None:
    """Draw weights from N(0, 2 / inputs), which keeps the variance through ReLU layers (He et al.
    2015); biases 0.
    """
    for layer in module.modules():
        if isinstance(layer, (*CONV.values(), *CONV_TRANSPOSE.values(), nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
