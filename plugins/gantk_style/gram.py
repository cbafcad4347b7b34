"""The Gram matrices of an image's feature maps, which describe its style, and the loss that
compares them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gantk.errors import UserError
from gantk.plugin.spec import Weight


def gram(features: Tensor) -> Tensor:
    """Gram matrix: the mean product of every two channels over all positions, (N, C, *size) to (N,
    C, C), float32.

    Gatys et al. (2016, equation 3) sum over positions; the mean does not depend on the image's
    size.
    """
    with torch.autocast(features.device.type, enabled=False):
        flat = features.float().flatten(2)
        return flat @ flat.transpose(1, 2) / flat.shape[2]


class GramStyle:
    """Mean square difference of Gram matrices, summed over layers (Gatys et al., 2016, equations 4
    and 5).

    `style(output_features, target_features)` takes one (N, C, *size) feature map per layer, 2-D or
    3-D; sizes of output and target may differ, channels may not. Fixed targets may be given as
    their `gram`, (N, C, C).
    """

    def __init__(
        self,
        *,
        # one weight per layer; None: equal weights with sum 1
        weights: tuple[Weight, ...] | None = None,
    ):
        self.weights = weights

    def __call__(self, output: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        weights = self.weights
        if not weights:
            weights = (1 / len(output),) * len(output)
        if not len(output) == len(target) == len(weights):
            counts = f"{len(output)} and {len(target)} feature maps and {len(weights)} weights"
            raise UserError(
                f"the style loss needs one of each per layer, but got {counts}", where="weights"
            )

        total = output[0].new_zeros((), dtype=torch.float32)
        for features, wanted, weight in zip(output, target, weights, strict=True):
            if wanted.ndim != 3:  # features, not yet their Gram matrix
                wanted = gram(wanted)
            difference = gram(features) - wanted
            total = total + weight * difference.square().mean()

        return total
