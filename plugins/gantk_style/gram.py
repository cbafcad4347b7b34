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
    """Mean square difference of Gram matrices, averaged over layers (Gatys et al., 2016, equations 4
    and 5).

    `style(output_maps, target_maps)` takes two lists with one feature map (N, C, *size) per layer,
    2-D or 3-D. Sizes of output and target may differ, channels may not. A target may also be given
    as its `describe`, (N, C, C), or (1, C, C) for all outputs. Equal maps cost 0.
    """

    takes = "features"

    def __init__(
        self,
        *,
        # one weight per layer; None: equal weights with sum 1
        weights: tuple[Weight, ...] | None = None,
        # divide each layer's difference by the mean square of the target's Gram matrix, so that
        # all layers, images and networks count alike; false: as in the paper
        relative: bool = True,
    ):
        self.weights = weights
        self.relative = relative

    def __call__(self, output: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        if isinstance(output, Tensor) or isinstance(target, Tensor):
            raise TypeError("the loss 'gram' takes lists of feature maps, not images")
        count = len(self.weights) if self.weights else len(output)
        if not len(output) == len(target) == count:
            what = (
                f"the style loss got {len(output)} feature maps of the output, {len(target)} of the"
                f" style and {count} weights, but needs one of each for every layer"
            )
            raise UserError(what, where="weights")

        layers = [self._of_layer(maps, wanted) for maps, wanted in zip(output, target, strict=True)]
        by_layer = torch.stack(layers)  # (layers, N)
        if not self.weights:
            return by_layer.mean(0).mean()
        weights = by_layer.new_tensor(self.weights)
        return (weights[:, None] * by_layer).sum(0).mean()

    def describe(self, maps: Tensor) -> Tensor:
        """The Gram matrices of a layer's maps: (N, C, *size) to (N, C, C)."""
        return gram(maps)

    def _of_layer(self, maps: Tensor, wanted: Tensor) -> Tensor:
        """The loss of one layer, (N,)."""
        target = wanted if wanted.ndim == 3 else gram(wanted)
        error = _mean_square(gram(maps) - target)
        if not self.relative:
            return error
        return error / _mean_square(target).clamp(min=1e-20)


def _mean_square(matrices: Tensor) -> Tensor:
    return matrices.square().flatten(1).mean(1)
