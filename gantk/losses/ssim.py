"""The loss 1 - SSIM, mixed with L1."""

from __future__ import annotations

from torch import Tensor

from gantk.losses.reconstruction import L1, weighted_mean
from gantk.plugin.spec import Share


class SSIM(L1):
    """`share` x (1 - SSIM) + (1 - `share`) x L1, as in equation 8 of Zhao et al., 2017, with one
    scale.

    SSIM has Gaussian windows of sigma 1.5 pixels and the data range 2 of the networks, [-1, 1].
    (Zhao et al., Loss functions for image restoration with neural networks, IEEE TCI.)
    """

    def __init__(
        self,
        *,
        share: Share = 0.5,  # weight of 1 - SSIM
    ):
        self.share = share

    def __call__(self, output: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        from kornia.losses import SSIM3DLoss, SSIMLoss  # a slow import (1 s)

        compare = SSIMLoss if output.ndim == 4 else SSIM3DLoss
        unlike = 2 * compare(11, max_val=2.0, reduction="none")(output.float(), target.float())
        plain = super().__call__(output, target, weight)
        return self.share * weighted_mean(unlike, weight) + (1 - self.share) * plain
