"""DCGAN's networks (Radford et al., 2016): noise to an image by transposed convolutions, an image
to one logit.
"""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from gantk.nets import blocks as b
from gantk.nets.blocks import NormKind, UpKind
from gantk.plugin.spec import Depth, Width
from gantk_synthesis.noise import scale_to_range

LAST_MAP_SIDE = 4  # side of the discriminator's last map
SMALLEST_FIRST_SIDE = 2  # smallest side of the generator's first map, in pixels


def activation(slope: float) -> nn.Module:
    """ReLU, or LeakyReLU of that slope below 0."""
    return nn.LeakyReLU(slope, inplace=True) if slope else nn.ReLU(inplace=True)


def count_doublings(size: tuple[int, ...], layers: int | None) -> int:
    """The doublings of a generator of `layers` layers; None: as many as start from 4 pixels a side.

    Raises:
        UserError: the generator cannot make images of this size.
    """
    if layers is None:
        return b.doublings(size, "a DCGAN generator")

    count = layers - 1
    who = f"a DCGAN generator of {layers} layers"
    b.require_size(size, 2**count, SMALLEST_FIRST_SIDE * 2**count, who, "change method.layers")
    return count


class DCGANGenerator(nn.Module):
    """DCGAN generator: noise to a small map, then doubled by 4x4 convolutions (Radford et al.,
    figure 1).

    (N, inputs) to (N, out_channels, *size), within `ends`. A dense layer makes the first map. Each
    further layer doubles it and halves the filters, from at most 8 x width to `width`. Batch norm
    and ReLU, or LeakyReLU, follow every layer but the last, which ends in tanh. No layer has a
    bias, as batch norm brings one.

    Args:
        inputs: length of the noise vector, one-hot class included.
        size: of the image, 2 or 3 sides; see `gantk.nets.blocks.doublings` for the allowed sizes.
        layers: the dense layer and the doublings. None: as many as start from 4 pixels a side, as
          published. With 4 layers an image of 128 pixels starts from a map of 16.
        width: filters of the last map before the image.
        up: "transpose" as published; "resize" or "linear" leave no checkerboard.
        attention: positions of self-attention blocks, in doublings before the image.
        slope: of the activation below 0; 0 is a ReLU.
        ends: network intensities of black and white.
    """

    def __init__(
        self,
        inputs: int,
        out_channels: int,
        size: tuple[int, ...],
        *,
        layers: int | None,
        width: int,
        up: UpKind,
        attention: tuple[int, ...],
        slope: float,
        ends: tuple[float, float],
    ):
        super().__init__()
        dims = len(size)
        count = count_doublings(size, layers)
        b.check_levels(
            attention, 1, count, f", doublings before an image of {' x '.join(map(str, size))}"
        )
        filters = [width * min(2**level, 8) for level in reversed(range(count))] + [out_channels]
        self.start = (filters[0], *(side // 2**count for side in size))
        self.ends = ends
        # A transposed convolution of a single pixel is a linear layer, and faster as one.
        self.project = nn.Linear(inputs, prod(self.start), bias=False)
        self.first = nn.Sequential(b.norm("batch", filters[0], dims), activation(slope))
        self.doubles = nn.ModuleList()
        for step, (wide, narrow) in enumerate(pairwise(filters)):
            double = [b.SelfAttention(dims, wide)] if count - step in attention else []
            double.append(b.upsample(up, dims, wide, narrow, bias=False))
            if step < count - 1:
                double += [b.norm("batch", narrow, dims), activation(slope)]
            self.doubles.append(nn.Sequential(*double))

        self.out = b.output_activation("tanh")
        b.init_weights(self)

    def forward(self, z: Tensor) -> Tensor:
        x = self.project(z).unflatten(1, self.start)
        x = self.first(b.in_layout_of(self, x))
        for double in self.doubles:
            x = double(x)
        return scale_to_range(self.out(x), self.ends)


class DCGANDiscriminator(b.Network):
    """DCGAN discriminator: 4x4 convolutions of stride 2, then one logit per image (Radford et al.,
    2016).

    Maps (N, in_channels, *size) to (N, 1); every side must be at least 4 x 2**halvings. Filters
    double from `width` up to 8 x width. The last convolution takes a map of 4 pixels a side: with
    depth = 4 this is the published network at 64 px. A larger map is averaged to 4 pixels a side,
    so that the network takes any size and keeps coarse positions. It is better to increase `depth`
    by 1 for every doubling of the size than to average large maps.
    """

    def __init__(
        self,
        in_channels: int,
        dims: int,
        *,
        width: Width = 64,  # filters of the first convolution
        # convolutions before the last; each halves the size: 4 at 64 px, 5 at 128 px
        depth: Depth = 4,
        first_stride: Literal[1, 2] = 2,  # 1: the first convolution keeps the size
        norm: NormKind = "batch",  # normalization; wgan_gp needs "instance", "group" or "none"
        affine: bool = False,  # learn a scale and an offset in instance norm
        spectral: bool = False,  # spectral norm of every convolution (Miyato et al., 2018)
    ):
        super().__init__()
        self.dims = dims
        self.depth = depth
        self.halvings = depth - (first_stride == 1)
        filters = [width * min(2**level, 8) for level in range(depth)]
        strides = [first_stride] + [2] * (depth - 1)
        layers = b.halvings(dims, in_channels, filters, strides, norm, affine, spectral)
        self.layers = nn.Sequential(*layers)
        self.verdict = b.conv(dims, filters[-1], 1, LAST_MAP_SIDE, padding=0, spectral=spectral)
        b.init_weights(self)

    def check_size(self, size: tuple[int, ...]) -> None:
        """Raises a UserError where an image is too small to leave a map of 4 pixels a side."""
        who = f"a DCGAN discriminator of depth {self.depth}"
        b.require_size(
            size, 1, LAST_MAP_SIDE * 2**self.halvings, who, "lower the discriminator's depth"
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(b.in_layout_of(self, x))
        if any(side != LAST_MAP_SIDE for side in x.shape[2:]):
            x = (F.adaptive_avg_pool2d if self.dims == 2 else F.adaptive_avg_pool3d)(
                x, LAST_MAP_SIDE
            )
        return self.verdict(x).flatten(1)
