"""ProGAN's generator and discriminator: they hold the layers of all sizes; `level` selects how many
are used.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from gantk.nets.blocks import in_layout_of, pixel_norm, with_class
from gantk_synthesis.progan.layers import (
    HE,
    EqualConv,
    EqualLinear,
    MinibatchDeviation,
    double,
    halve,
    leaky,
)

FIRST_SIDE = 4  # side of level 0's images; level k has 4 * 2**k


def filters_at(levels: int, base: int, width: int) -> list[int]:
    """Filters at each size from 4 on: base / (size / 2), at most `width`; 8192 and 512 in the
    paper.
    """
    return [max(1, min(base // (FIRST_SIDE * 2**level // 2), width)) for level in range(levels)]


class Generator(nn.Module):
    """Generator of ProGAN (Karras et al. 2018, table 2): (N, latent) to float32 images (N,
    channels, *size).

    A level is an upsampling by 2 and two 3x3 convolutions, each followed by pixel norm. A 1x1
    convolution of the current level makes the image; its values are not bounded.

    Args:
        filters: of each level's feature maps, level 0 (4 px) first.
        classes: number of classes; labels are appended to the latent vector as one-hot vectors. 0:
          no labels.
    """

    def __init__(self, channels: int, dims: int, filters: list[int], latent: int, classes: int = 0):
        super().__init__()
        self.dims = dims
        self.classes = classes
        # The paper's 4x4 convolution of a 1x1 map, as a linear layer; He's constant is that of the
        # convolution.
        area = FIRST_SIDE**dims
        gain = HE / math.sqrt(area)
        self.first = EqualLinear(latent + classes, filters[0] * area, gain=gain, bias=False)
        self.first_bias = nn.Parameter(torch.zeros(filters[0]))
        self.second = EqualConv(dims, filters[0], filters[0], 3)
        self.grow = nn.ModuleList(
            EqualConv(dims, small, large, 3) for small, large in pairwise(filters)
        )
        self.refine = nn.ModuleList(EqualConv(dims, large, large, 3) for large in filters[1:])
        self.to_image = nn.ModuleList(
            EqualConv(dims, count, channels, 1, gain=1.0) for count in filters
        )

    def forward(
        self, latent: Tensor, level: int, alpha: Tensor | None = None, label: Tensor | None = None
    ) -> Tensor:
        """Images of 4 * 2**level pixels a side; `alpha`, a scalar, fades from the level below (0)
        to this one (1).
        """
        x = self._first(latent, label)
        below = None
        for grow, refine in zip(self.grow[:level], self.refine[:level], strict=True):
            below = x
            x = pixel_norm(leaky(grow.after_doubling(x)))
            x = pixel_norm(leaky(refine(x)))

        image = self.to_image[level](x).float()
        if alpha is None or below is None:
            return image

        coarse = self.to_image[level - 1](below).float()
        return torch.lerp(double(coarse), image, alpha)

    def _first(self, latent: Tensor, label: Tensor | None) -> Tensor:
        """The first block: feature maps of 4 pixels a side."""
        z = with_class(pixel_norm(latent), label, self.classes)
        maps = self.first(z).unflatten(1, (-1, *[FIRST_SIDE] * self.dims))
        x = maps + self.first_bias.view(1, -1, *[1] * self.dims)
        x = pixel_norm(leaky(in_layout_of(self, x)))
        return pixel_norm(leaky(self.second(x)))


class Discriminator(nn.Module):
    """Discriminator of ProGAN (Karras et al. 2018, table 2): images of a level's size to float32
    logits (N, 1).

    It mirrors the generator: a level is two 3x3 convolutions and a downsampling by 2; no norm, but
    minibatch deviation at 4 px. With classes, it computes one logit for each and returns the
    label's, a projection of the features on the class (Miyato and Koyama 2018).
    """

    def __init__(self, channels: int, dims: int, filters: list[int], classes: int = 0):
        super().__init__()
        self.classes = classes
        self.from_image = nn.ModuleList(EqualConv(dims, channels, count, 1) for count in filters)
        self.refine = nn.ModuleList(EqualConv(dims, large, large, 3) for large in filters[1:])
        self.shrink = nn.ModuleList(
            EqualConv(dims, large, small, 3) for small, large in pairwise(filters)
        )
        self.deviation = MinibatchDeviation()
        self.last = EqualConv(dims, filters[0] + 1, filters[0], 3)
        # the paper's 4x4 convolution to 1x1
        self.whole = EqualLinear(filters[0] * FIRST_SIDE**dims, filters[0])
        self.score = EqualLinear(filters[0], max(1, classes), gain=1.0)

    def forward(
        self,
        image: Tensor,
        level: int,
        alpha: Tensor | None = None,
        label: Tensor | None = None,
        batches: int = 1,
    ) -> Tensor:
        """Logits of images; `alpha` blends the halved image's features (0) with this level's (1).

        `batches`: the input is this many equal batches, concatenated; each is scored as if it were
        alone.
        """
        image = in_layout_of(self, image)
        x = leaky(self.from_image[level](image))
        for k in reversed(range(level)):
            x = halve(leaky(self.shrink[k](leaky(self.refine[k](x)))))
            if alpha is not None and k == level - 1:
                x = torch.lerp(leaky(self.from_image[k](halve(image))), x, alpha.to(x.dtype))

        x = leaky(self.last(self.deviation(x, batches)))
        x = leaky(self.whole(x.flatten(1)))
        # bf16 is too coarse for logits far from 0
        with torch.autocast(x.device.type, enabled=False):
            scores = self.score(x.float())

        return scores.gather(1, label[:, None]) if self.classes else scores
