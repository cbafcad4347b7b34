"""The Gram matrices of an image's feature maps, which describe its style, and their difference."""

from __future__ import annotations

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


def gram_difference(maps: Tensor, target: Tensor) -> Tensor:
    """Mean square difference of the Gram matrices of a layer's maps (N, C, *size) from those of a
    style, (1 or N, C, C) (Gatys et al., 2016, equation 4): (N,).

    It is divided by the mean square of the target (not in the paper), so that all layers, images and
    networks count alike.
    """
    return mean_square(gram(maps) - target) / mean_square(target).clamp(min=1e-20)


def mean_square(matrices: Tensor) -> Tensor:
    """The mean square of each entry of a batch, (N,)."""
    return matrices.square().flatten(1).mean(1)
