"""The attention U-Net (Oktay et al., 2018): attention gates weigh the features of its skip
connections.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from gantk.nets import blocks as b
from gantk.nets.blocks import NormKind, OutputKind, UpKind
from gantk.plugin.spec import Width

MAX_MULTIPLIER = 16  # a layer has at most width x this many filters


class AttentionUNet(b.Network):
    """U-Net generator with attention gates on all its skip connections (Oktay et al., 2018, equation
    1), in the shape of a published Pix2Pix for tumour MR.

    Maps (N, in_channels, *size) to (N, out_channels, *size). Every side must be a multiple of
    2**depth, and at least twice that. An encoder unit is one convolution, LeakyReLU and norm, in
    this order: 3x3 at full resolution, then 4x4 of stride 2. A decoder unit is the upsampling,
    LeakyReLU and norm, concatenated with the gated skip, and ReLU. A 3x3 convolution produces the
    image. Filters double from `width` at every level up to 16 x width.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dims: int,
        *,
        width: Width = 64,  # filters at full resolution
        # halvings of the size: sides must be multiples of 2**depth
        depth: Annotated[int, Field(ge=2, le=12)] = 4,
        norm: NormKind = "instance",  # normalization; "batch" mixes the images of a batch
        up: UpKind = "resize",  # upsampling: nearest + 3x3, linear + 3x3, or a transposed 4x4
        activation_out: OutputKind = "tanh",  # output activation: tanh for [-1, 1], sigmoid for [0, 1]
    ):
        super().__init__()
        self.depth = depth
        filters = [width * min(2**level, MAX_MULTIPLIER) for level in range(depth + 1)]

        def unit(layer: nn.Module, channels: int) -> nn.Sequential:
            leaky = nn.LeakyReLU(0.2, inplace=True)
            return nn.Sequential(layer, leaky, b.norm(norm, channels, dims))

        self.encoder = nn.ModuleList([unit(b.conv(dims, in_channels, width, 3), width)])
        for narrow, wide in pairwise(filters):
            layer = b.conv(dims, narrow, wide, 4, stride=2, padding=1)
            self.encoder.append(unit(layer, wide))

        self.enlarge = nn.ModuleList()
        self.gates = nn.ModuleList()
        below = filters[depth]  # channels of the map below a decoder unit
        for outputs in reversed(filters[:-1]):
            self.enlarge.append(unit(b.upsample(up, dims, below, outputs), outputs))
            self.gates.append(AttentionGate(dims, outputs, below))
            below = 2 * outputs  # with the skip

        self.last = b.conv(dims, below, out_channels, 3)
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
        maps = [b.in_layout_of(self, x)]
        for unit in self.encoder:
            maps.append(unit(maps[-1]))
        return maps[1:]

    def forward(self, x: Tensor) -> Tensor:
        *skips, x = self.features(x)
        for enlarge, gate in zip(self.enlarge, self.gates, strict=True):
            skip = gate(skips.pop(), x)
            x = b.Join.apply(enlarge(x), skip)
        return self.activation_out(self.last(x))


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
