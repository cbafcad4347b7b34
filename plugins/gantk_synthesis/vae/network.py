"""A VAE's encoder, which is also its discriminator's architecture, and its decoder: convolutional
networks.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn

from gantk.nets import blocks as b
from gantk_synthesis.noise import scale_to_range


def filters_of(width: int, size: tuple[int, ...]) -> list[int]:
    """Filters of each level for images of `size`, largest map first: they double from `width` up to
    8 x width.
    """
    return [width * min(2**level, 8) for level in range(b.doublings(size, "a VAE"))]


class Encoder(nn.Module):
    """Images (N, in_channels, *size) to codes (N, outputs).

    4x4 convolutions of stride 2 with leaky ReLU and, except for the first one, group norm; then a
    linear layer.
    """

    batch_independent = True

    def __init__(self, in_channels: int, outputs: int, size: tuple[int, ...], width: int):
        super().__init__()
        dims = len(size)
        filters = filters_of(width, size)
        self.levels = nn.ModuleList()
        inputs = in_channels
        for level, wide in enumerate(filters):
            layers = [b.conv(dims, inputs, wide, 4, stride=2, padding=1)]
            if level > 0:
                layers.append(b.norm("group", wide, dims))
            layers.append(nn.LeakyReLU(0.2))
            self.levels.append(nn.Sequential(*layers))
            inputs = wide

        pixels = prod(side // 2 ** len(filters) for side in size)
        self.code = nn.Linear(filters[-1] * pixels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = b.in_layout_of(self, x)
        for level in self.levels:
            x = level(x)
        return self.code(x.contiguous().flatten(1))


class Decoder(nn.Module):
    """Codes (N, inputs) to images (N, out_channels, *size) within `ends`, network intensities of
    black and white.

    A linear layer, then upsamplings by 2 with group norm and ReLU; tanh at the end. A `noisy`
    decoder adds a given noise map (N, 1, *size), times a learned weight for each filter, before the
    last ReLU.
    """

    batch_independent = True

    def __init__(
        self,
        inputs: int,
        out_channels: int,
        size: tuple[int, ...],
        width: int,
        ends: tuple[float, float],
        noisy: bool,
    ):
        super().__init__()
        dims = len(size)
        filters = filters_of(width, size)[::-1]
        self.start = (filters[0], *(side // 2 ** len(filters) for side in size))
        self.ends = ends
        self.project = nn.Linear(inputs, prod(self.start))
        self.doubles = nn.ModuleList()
        for wide, narrow in zip(filters, [*filters[1:], filters[-1]], strict=True):
            layers = (
                b.norm("group", wide, dims),
                nn.ReLU(),
                b.upsample("resize", dims, wide, narrow),
            )
            self.doubles.append(nn.Sequential(*layers))

        if noisy:
            self.strength = nn.Parameter(torch.full((filters[-1], *[1] * dims), 0.1))

        self.out = nn.Sequential(
            nn.ReLU(), b.conv(dims, filters[-1], out_channels, 3), b.output_activation("tanh")
        )

    def forward(self, z: Tensor, noise: Tensor | None = None) -> Tensor:
        x = b.in_layout_of(self, self.project(z).unflatten(1, self.start))
        for double in self.doubles:
            x = double(x)
        if noise is not None:
            x = x + (self.strength * noise).to(x.dtype)
        return scale_to_range(self.out(x), self.ends)
