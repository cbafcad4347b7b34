"""Finds the body in an image of any contrast, and a loss that keeps an output's body that of its
input.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gantk.plugin.spec import Fraction, Positive, Weight


class Outline:
    """The area in which the bodies of output and input differ, as a share of the input's body. 0 is
    best.

    A body is the area enclosed by pixels above `threshold`. It includes the skull, which is dark in
    MR and bright in CT, so equal outlines cost 0 in any contrast. The area itself has no gradient.
    Instead, pixels in only one of the bodies get the gradient of a sigmoid that never saturates,
    towards brighter or darker.
    """

    takes = "source"

    def __init__(
        self,
        *,
        weight: Weight = 1.0,  # weight of the loss
        # pixels further above black than this share of data_range belong to the body
        threshold: Fraction = 0.05,
        softness: Positive = 0.1,  # width of the gradient's sigmoid, as a share of data_range
        data_range: Positive = 2.0,  # width of the intensity range, 2 for [-1, 1]
        black: float = -1.0,  # intensity of air
    ):
        self.weight = weight
        self.threshold = threshold
        self.softness = softness
        self.data_range = data_range
        self.black = black

    def __call__(self, output: Tensor, source: Tensor) -> Tensor:
        """The loss of images (N, C, *size), 2-D or 3-D; numbers of channels may differ. The source
        has no gradient.
        """
        shown, wanted = (self.above(image) for image in (output, source.detach()))
        own = body(shown.detach() > 0)
        its = body(wanted > 0)
        steps = shown / self.softness
        soft = 0.5 * steps / (1 + steps.abs())
        # the second term is 0 and has the gradient
        apart = (own - its).abs() + (own - its) * (soft - soft.detach())
        axes = tuple(range(1, apart.ndim))
        return self.weight * (apart.sum(axes) / its.sum(axes).clamp_min(1)).mean()

    def above(self, image: Tensor) -> Tensor:
        """The brightest channel's distance above the threshold, (N, 1, *size), as a share of the
        range.
        """
        return (image.float().amax(1, keepdim=True) - self.black) / self.data_range - self.threshold


def body(bright: Tensor) -> Tensor:
    """The mask (1 or 0) of pixels that have bright pixels on both sides along every axis, from (N,
    1, *size), bool.

    Single bright pixels, such as noise in air, are removed first by a median over 3 pixels a side.
    """
    pool = F.avg_pool2d if bright.ndim == 4 else F.avg_pool3d
    dims = bright.ndim - 2
    kept = (pool(F.pad(bright.float(), (1,) * (2 * dims)), 3, 1) > 0.5).float()
    ways = (kept.flip(axis).cummax(axis).values.flip(axis) for axis in range(2, 2 + dims))
    return torch.stack([*(kept.cummax(axis).values for axis in range(2, 2 + dims)), *ways]).amin(0)
