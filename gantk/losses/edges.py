"""A loss that keeps the edges of the input in the output, for any contrast. It compares the
directions of gradients.
"""

from __future__ import annotations

from functools import reduce
from itertools import combinations

import torch
from torch import Tensor

from gantk.losses.reconstruction import difference
from gantk.plugin.spec import Weight


class EdgeDirection:
    """Mean squared difference of the `edges` of an output and its source, from 0 (best) to 2.

    Like `local_ncc` it is invariant to contrast. Unlike it, this loss compares the direction of
    edges, and it shifts them less towards their brighter side. It does not know which tissue is
    bright: combine it with a loss that does, such as a loss on pairs.
    """

    takes = "source"

    def __init__(
        self,
        *,
        weight: Weight = 20.0,  # weight of the loss
    ):
        self.weight = weight

    def __call__(self, output: Tensor, source: Tensor) -> Tensor:
        """The loss of images (N, C, *size), 2-D or 3-D; numbers of channels may differ. The source
        has no gradient.
        """
        return (
            self.weight * difference(edges(output), edges(source.detach())).square().sum(1).mean()
        )


def edges(image: Tensor) -> Tensor:
    """Return g g^T / (|g|^2 + c^2) of the gradient g, c its mean length: (N, dims (dims + 1) / 2,
    *size) float32.

    These are the positions and the directions of edges, which are similar in every contrast of one
    head (normalised gradients, Haber and Modersitzki 2006). The first `dims` channels have a sum of
    0 to 1.
    """
    with torch.autocast(image.device.type, enabled=False):
        # more would draw edges towards the brighter side
        gray = gaussian_blur(image.float().mean(1, keepdim=True), 0.35)
        slopes = torch.gradient(gray, dim=(axes := [*range(2, gray.ndim)]))
        parts = [x.square() for x in slopes] + [2**0.5 * x * y for x, y in combinations(slopes, 2)]
        length = reduce(torch.add, parts[: len(slopes)]) + 1e-10  # of g, squared
        return torch.cat(parts, 1) / (
            length + length.detach().sqrt().mean(axes, keepdim=True).square()
        )


def gaussian_blur(image: Tensor, deviation: float) -> Tensor:
    """Blur images (N, C, *size) by a Gaussian of so many pixels, cut off at the border; 0: not at
    all.
    """
    lines = [torch.arange(float(side), device=image.device) for side in image.shape[2:]]
    weights = [
        torch.exp(-0.5 * ((line - line[:, None]) / max(deviation, 0.01)).square()) for line in lines
    ]
    return along_axes(image, [matrix / matrix.sum(0) for matrix in weights])


def along_axes(maps: Tensor, matrices: list[Tensor]) -> Tensor:
    """Multiply maps (N, C, *sides) along each axis by its matrix (side, K): (N, C, *K)."""
    return reduce(
        lambda product, matrix: torch.tensordot(product, matrix, ([2], [0])), matrices, maps
    )
