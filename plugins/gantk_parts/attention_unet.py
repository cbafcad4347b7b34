"""The attention U-Net (Oktay et al., 2018): attention gates weigh the features of its skip
connections.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from gantk.nets import blocks as b
from gantk.nets.blocks import Join, NormKind, OutputKind, UpKind
from gantk.plugin.spec import Fraction, Width

Units = Annotated[int, Field(ge=2, le=12)]  # encoder units


class PooledUnits:
    """Units of two 3x3 convolutions, each with norm and ReLU, as published."""

    def __init__(self, dims: int, norm: NormKind, affine: bool):
        self.dims = dims
        self.bias = norm == "none"  # a norm subtracts the bias of the layer before it
        self.norm = partial(b.norm, norm, dims=dims, affine=affine)

    def encoder(self, level: int, inputs: int, outputs: int) -> nn.Sequential:
        return self._unit(inputs, outputs)

    def enlarge(self, kind: UpKind, inputs: int, outputs: int) -> nn.Sequential:
        upsample = b.upsample(kind, self.dims, inputs, outputs, bias=self.bias)
        return nn.Sequential(upsample, self.norm(outputs))

    def decoder(self, channels: int, dropout: float) -> nn.Sequential:
        unit = self._unit(2 * channels, channels)
        if dropout:
            unit.append(nn.Dropout(dropout))
        return unit

    def _unit(self, inputs: int, outputs: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for channels in (inputs, outputs):
            layer = b.conv(self.dims, channels, outputs, 3, bias=self.bias)
            layers += [layer, self.norm(outputs), nn.ReLU(inplace=True)]
        return nn.Sequential(*layers)


class StridedUnits:
    """Units of one convolution, LeakyReLU and norm, in this order."""

    def __init__(self, dims: int, norm: NormKind, affine: bool):
        self.dims = dims
        self.norm = partial(b.norm, norm, dims=dims, affine=affine)

    def encoder(self, level: int, inputs: int, outputs: int) -> nn.Sequential:
        if level == 0:
            return self._unit(b.conv(self.dims, inputs, outputs, 3), outputs)
        return self._unit(b.conv(self.dims, inputs, outputs, 4, stride=2, padding=1), outputs)

    def enlarge(self, kind: UpKind, inputs: int, outputs: int) -> nn.Sequential:
        return self._unit(b.upsample(kind, self.dims, inputs, outputs), outputs)

    def decoder(self, channels: int, dropout: float) -> nn.Module:
        return nn.Dropout(dropout) if dropout else nn.Identity()

    def _unit(self, layer: nn.Module, channels: int) -> nn.Sequential:
        return nn.Sequential(layer, nn.LeakyReLU(0.2, inplace=True), self.norm(channels))


class AttentionUNet(b.Network):
    """U-Net generator with attention gates on its skip connections (Oktay et al., 2018, section 2.2
    and figure 1).

    Maps (N, in_channels, *size) to (N, out_channels, *size). Every side must be a multiple of
    2**depth, and at least twice that. The network has `depth` encoder units of two 3x3
    convolutions, each followed by 2x2 max pooling, one more unit at the bottom, and `depth` decoder
    units. A decoder unit takes the upsampled map below and the gated skip. As published, the skip
    at full resolution has no gate, because its features are too simple. Filters double from `width`
    at every level up to width x max_multiplier.

    With down = "stride" a unit is one convolution, LeakyReLU and norm, in this order: 3x3 at full
    resolution, and 4x4 of stride 2 instead of pooling below. A decoder unit is the upsampling,
    LeakyReLU and norm, concatenated with the skip. All skips are gated, and a 3x3 convolution
    produces the image.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dims: int,
        *,
        width: Width = 64,  # filters at full resolution
        # encoder units; each halves the size, so sides must be multiples of 2**depth
        depth: Units = 4,
        # downsampling unit: two 3x3 convolutions and max pooling, or one 4x4 of stride 2
        down: Literal["pool", "stride"] = "pool",
        max_multiplier: Width = 16,  # a layer has at most width x this many filters
        norm: NormKind = "instance",  # normalization; "batch" mixes the images of a batch
        affine: bool = False,  # learn a scale and an offset in instance norm
        up: UpKind = "resize",  # upsampling: nearest + 3x3, linear + 3x3, or a transposed 4x4
        dropout: Fraction = 0.0,  # dropout in the first three decoder units, as in pix2pix
        # numbers of halvings after which to insert a self-attention block
        attention: tuple[int, ...] = (),
        activation_out: OutputKind = "tanh",  # output activation: tanh for [-1, 1], sigmoid for [0, 1]
    ):
        super().__init__()
        strided = down == "stride"
        b.check_levels(attention, 0, depth)
        self.dims = dims
        self.depth = depth
        self.strided = strided
        filters = [min(width * 2**level, width * max_multiplier) for level in range(depth + 1)]
        units = StridedUnits(dims, norm, affine) if strided else PooledUnits(dims, norm, affine)

        self.encoder = nn.ModuleList()
        for level in range(depth + 1):
            inputs = filters[level - 1] if level else in_channels
            self.encoder.append(units.encoder(level, inputs, filters[level]))

        for level in sorted(set(attention)):
            self.encoder[level].append(b.SelfAttention(dims, filters[level]))

        upwards = list(reversed(range(depth)))
        below = []  # channels of the map below each decoder unit
        for level in upwards:
            joined = strided and level < depth - 1  # with the skip of that level
            below.append(2 * filters[level + 1] if joined else filters[level + 1])

        self.enlarge = nn.ModuleList(
            units.enlarge(up, inputs, filters[level])
            for inputs, level in zip(below, upwards, strict=True)
        )
        gated = depth if strided else depth - 1
        self.gates = nn.ModuleList(
            AttentionGate(dims, filters[level], inputs)
            for inputs, level in zip(below[:gated], upwards[:gated], strict=True)
        )
        self.decoder = nn.ModuleList(
            units.decoder(filters[level], dropout if number < 3 else 0.0)
            for number, level in enumerate(upwards)
        )
        if strided:
            self.last = b.conv(dims, 2 * width, out_channels, 3)
        else:
            self.last = b.conv(dims, width, out_channels, 1)

        self.activation_out = b.output_activation(activation_out)
        b.init_weights(self)

    def check_size(self, size: tuple[int, ...]) -> None:
        """Raise UserError unless every side is a multiple of 2**depth and at least twice that."""
        multiple = 2**self.depth
        who = f"an attention U-Net of depth {self.depth}"
        b.require_size(size, multiple, 2 * multiple, who, "lower the generator's depth")

    def features(self, x: Tensor) -> list[Tensor]:
        """The encoder's feature maps, shallow to deep: one at full resolution and one for every
        halving.
        """
        x = b.in_layout_of(self, x)
        maps = []
        for level, unit in enumerate(self.encoder):
            if level and not self.strided:
                x = F.max_pool2d(x, 2) if self.dims == 2 else F.max_pool3d(x, 2)
            x = unit(x)
            maps.append(x)

        return maps

    def forward(self, x: Tensor) -> Tensor:
        skips = self.features(x)
        x = skips.pop()
        for step, (enlarge, unit) in enumerate(zip(self.enlarge, self.decoder, strict=True)):
            skip = skips.pop()
            if step < len(self.gates):
                skip = self.gates[step](skip, x)
            x = unit(Join.apply(enlarge(x), skip))

        # On one CPU thread torch returns a 1x1x1 convolution of channels-last volumes as
        # channels-first.
        return self.activation_out(self.last(x).contiguous(memory_format=b.memory_format(x)))


class AttentionGate(nn.Module):
    """Multiplies a skip by an attention map computed from the skip and the decoder (Oktay et al.,
    2018, equation 1).

    Takes the skip (N, channels, *size) and the gating map g (N, gating, *half of size); returns the
    skip times alpha, alpha = sigmoid(psi(ReLU(W_x skip + W_g g))), one value from 0 to 1 per pixel.
    W_x (2x2, stride 2) and W_g map both to channels / 2 filters on the grid of g; linear
    interpolation upsamples alpha to the skip's grid.
    """

    def __init__(self, dims: int, channels: int, gating: int):
        super().__init__()
        inner = max(1, channels // 2)
        # W_g has the bias for both
        self.w_x = b.conv(dims, channels, inner, 2, stride=2, padding=0, bias=False)
        self.w_g = b.conv(dims, gating, inner, 1)
        self.psi = b.conv(dims, inner, 1, 1)
        self.enlarge = "bilinear" if dims == 2 else "trilinear"

    def forward(self, skip: Tensor, g: Tensor) -> Tensor:
        alpha = torch.sigmoid(self.psi(F.relu(self.w_x(skip) + self.w_g(g))))
        return skip * F.interpolate(alpha, scale_factor=2, mode=self.enlarge)
