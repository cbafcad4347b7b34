"""An L1 loss with a lower weight outside the body."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gantk.losses.reconstruction import difference, weighted_mean
from gantk.plugin.spec import Positive, Share


class BodyL1:
    """Mean absolute difference, with a lower weight (or 0) for pixels outside the target's body.

    The body is the largest connected region brighter than air, with holes filled. All images have
    the same weight.
    """

    takes = "images"

    def __init__(
        self,
        *,
        # weight of pixels outside the body (1 inside); 0 ignores the background
        background: Share = 0.1,
        threshold: Share = 0.1,  # share of the intensity range above black; darker pixels are air
        data_range: Positive = 2.0,  # width of the intensity range, 2 for [-1, 1]
        black: float = -1.0,  # intensity of air
    ):
        self.background = background
        self.level = black + threshold * data_range

    def __call__(self, output: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        counts = self.background + (1 - self.background) * body_of(target, self.level)
        return weighted_mean(
            difference(output, target).abs(), counts if weight is None else counts * weight
        )


def body_of(images: Tensor, level: float) -> Tensor:
    """Body masks (N, 1, *size) of images (N, C, *size): 1 in the largest region above `level`,
    holes filled; else 0.
    """
    from scipy.ndimage import binary_fill_holes, label

    bodies = []
    for bright in (images.detach().amax(1) > level).cpu().numpy():
        parts, _ = label(bright)
        bodies.append(
            binary_fill_holes(bright & (parts == np.bincount(parts[bright], minlength=2).argmax()))
        )

    return torch.from_numpy(np.stack(bodies)[:, None]).to(images.device, torch.float32)
