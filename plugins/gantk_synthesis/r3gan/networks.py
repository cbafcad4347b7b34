"""R3GAN's networks (Huang et al. 2024, section 4): residual blocks without norms, doubled and
halved bilinearly.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from math import gcd, prod, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gantk.nets import blocks as b
from gantk_synthesis.progan.layers import HE, halve, leaky

GROUP = 16  # filters in each group of a block's 3x3 convolution
POINT = partial(b.conv, kernel=1)
HALVE = partial(b.conv, kernel=4, stride=2, padding=1)
DOUBLE = partial(b.upsample, "resize")  # pixels repeated, and a 3x3 convolution


def double(x: Tensor) -> Tensor:
    """(N, C, *size) interpolated linearly to sides twice as long."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear" if x.ndim == 4 else "trilinear")


class Residual(nn.Module):
    """x + W3 a(W2 a(W1 x)): 1x1 to twice the filters, 3x3 in groups of GROUP filters,
    1x1 back; no norm.

    Fixup (Zhang et al. 2019): W3 starts at zero, so that the block begins as the identity; W1 and
    W2 are He's numbers times blocks**(-1/4), for a network of so many blocks.
    """

    def __init__(self, dims: int, width: int, blocks: int):
        super().__init__()
        inner = 2 * width
        self.widen = b.conv(dims, width, inner, 1)
        self.mix = b.conv(dims, inner, inner, 3, groups=inner // gcd(inner, GROUP))
        self.narrow = b.conv(dims, inner, width, 1, bias=False)
        for layer in (self.widen, self.mix):
            draw_weights(layer, HE * blocks**-0.25)
        nn.init.zeros_(self.narrow.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.narrow(leaky(self.mix(leaky(self.widen(x)))))


def draw_weights(layer: nn.Module, gain: float = 1.0) -> nn.Module:
    """The layer with weights of deviation gain / sqrt(inputs of an output) and offsets of 0."""
    inner = getattr(layer, "conv", layer)  # of what doubles
    nn.init.normal_(inner.weight, 0.0, gain / sqrt(inner.weight[0].numel()))
    if inner.bias is not None:
        nn.init.zeros_(inner.bias)
    return layer


class Body(b.Network):
    """What both networks are made of: `blocks` residual blocks at each size, 1x1 convolutions where
    filters change.

    Filters double from `width` at the largest size with each halving, up to 8 x width; that is the
    image's size, or half of it with `plain`. `levels` are the blocks at each size, the smallest
    first; `changes` lie between them. `plain` has no blocks: what changes the size are DCGAN's
    convolutions (Radford et al. 2016).
    """

    def __init__(self, size: tuple[int, ...], width: int, blocks: int, plain: bool):
        super().__init__()
        self.dims = len(size)
        self.plain = plain
        count = b.doublings(size, "R3GAN")
        self.filters = [width * min(2**level, 8) for level in reversed(range(count + 1 - plain))]
        self.start = (self.filters[0], *(side // 2**count for side in size))
        total = blocks * len(self.filters)
        self.levels = nn.ModuleList()
        for filters in self.filters:
            own = range(0 if plain else blocks)
            level = (Residual(self.dims, filters, total) for _ in own)
            self.levels.append(nn.Sequential(*level))

    def changes(self, filters: list[int], plain: Callable) -> nn.ModuleList:
        """Layers from so many filters to the next: 1x1 convolutions, or those that `plain` makes."""
        make = plain if self.plain else partial(POINT, bias=False)
        gain = HE if self.plain else 1.0
        return nn.ModuleList(
            draw_weights(make(self.dims, *pair), gain) for pair in pairwise(filters)
        )


class Generator(Body):
    """Generator of R3GAN: (N, inputs) to images (N, channels, *size); nothing bounds them.

    A learned map of 4 pixels a side, each of its channels times a number that a linear layer makes
    of the noise, passes residual blocks and is doubled, up to the image's size. With `plain` pixels
    are normed, and a tanh keeps to `ends`.
    """

    def __init__(
        self,
        inputs: int,
        channels: int,
        size: tuple[int, ...],
        ends: tuple[float, float],
        **options: int,
    ):
        super().__init__(size, **options)
        self.ends = ends
        self.basis = nn.Parameter(torch.randn(self.start[0], prod(self.start[1:])))
        self.scale = draw_weights(nn.Linear(inputs, self.start[0], bias=False))
        self.narrow = self.changes(self.filters, DOUBLE)
        self.to_image = draw_weights(
            (DOUBLE if self.plain else POINT)(self.dims, self.filters[-1], channels)
        )

    def forward(self, noise: Tensor) -> Tensor:
        x = (self.basis * self.scale(noise)[:, :, None]).unflatten(2, self.start[1:])
        x = self.levels[0](b.in_layout_of(self, x))
        for change, level in zip(self.narrow, self.levels[1:], strict=True):
            if self.plain:
                x = change(leaky(b.pixel_norm(x)))
            else:
                x = level(double(change(x)))

        if not self.plain:
            return self.to_image(x).float()

        image = self.to_image(leaky(b.pixel_norm(x))).float()
        low, high = self.ends
        return low + (high - low) / 2 * (1 + torch.tanh(image))


class Discriminator(Body):
    """Discriminator of R3GAN: images (N, channels, *size) to float32 logits (N, 1), the generator's
    mirror.

    At 4 pixels a side a depthwise convolution takes one number of each channel, and a linear layer
    the logit of these. With classes there is a logit for each, and the label's counts.
    """

    def __init__(self, channels: int, size: tuple[int, ...], classes: int = 0, **options: int):
        super().__init__(size, **options)
        self.from_image = draw_weights(
            (HALVE if self.plain else POINT)(self.dims, channels, self.filters[-1])
        )
        self.widen = self.changes(self.filters[::-1], HALVE)
        places = prod(self.start[1:])
        self.whole = nn.Parameter(torch.randn(self.start[0], places) / sqrt(places))
        self.score = draw_weights(nn.Linear(self.start[0], max(1, classes), bias=False))
        self.classes = classes

    def forward(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        x = self.levels[-1](self.from_image(b.in_layout_of(self, image)))
        for change, level in zip(self.widen, self.levels[-2::-1], strict=True):
            if self.plain:
                x = change(leaky(x))
            else:
                x = level(change(halve(x)))

        # logits far from 0 have no room for detail in bf16
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            if self.plain:
                x = leaky(x)
            scores = self.score((x.flatten(2) * self.whole).sum(2))

        return scores.gather(1, label[:, None]) if self.classes else scores
