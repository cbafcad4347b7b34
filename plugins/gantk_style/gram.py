"""The Gram matrices of an image's feature maps, which describe its style, and the loss that
compares them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


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
    """Mean square difference of Gram matrices, averaged over layers (Gatys et al., 2016, equations 4
    and 5).

    `style(output_maps, target_maps)` takes two lists with one feature map (N, C, *size) per layer,
    2-D or 3-D. Sizes of output and target may differ, channels may not. A target may also be given
    as its `describe`, (N, C, C), or (1, C, C) for all outputs. Equal maps cost 0. Each layer's
    difference is divided by the mean square of the target's Gram matrix (not in the paper), so that
    all layers, images and networks count alike.
    """

    takes = "features"

    def __call__(self, output: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        layers = []
        for maps, wanted in zip(output, target, strict=True):
            known = wanted if wanted.ndim == 3 else gram(wanted)
            apart = mean_square(gram(maps) - known)
            layers.append(apart / mean_square(known).clamp(min=1e-20))
        return torch.stack(layers).mean(0).mean()  # of (layers, N)

    def describe(self, maps: Tensor) -> Tensor:
        """The Gram matrices of a layer's maps: (N, C, *size) to (N, C, C)."""
        return gram(maps)


def mean_square(matrices: Tensor) -> Tensor:
    """The mean square of each entry of a batch, (N,)."""
    return matrices.square().flatten(1).mean(1)
