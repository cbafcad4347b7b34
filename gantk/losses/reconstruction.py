"""Losses that compare two images pixel by pixel, in a pair or after a cycle, or the Gram matrices of their features.

Those by pixel take a `weight`, (N, 1, *size) and not negative, for pixels that count more than others: see `weighted`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from gantk.errors import UserError
from gantk.plugin.spec import Positive, Weight


class L1:
    """Mean absolute difference, in intensity units; keeps edges where the mean square blurs (Isola et al., 2017)."""

    def __call__(self, output: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        return weighted(difference(output, target).abs(), weight)


class L2:
    """Mean square difference, in squared intensity units."""

    def __call__(self, output: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        return weighted(difference(output, target).square(), weight)


class Charbonnier:
    """A smooth L1, mean sqrt(d^2 + epsilon^2) - epsilon: 0 for equal images (Charbonnier et al., 1994)."""

    def __init__(
        self,
        *,
        epsilon: Positive = 0.001,  # differences well below this count squared, in intensity units
    ):
        self.epsilon = epsilon

    def __call__(self, output: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        return weighted((difference(output, target).square() + self.epsilon**2).sqrt() - self.epsilon, weight)


class Norm:
    """Mean absolute ("l1") or mean square ("l2") difference."""

    def __init__(
        self,
        *,
        norm: Literal["l1", "l2"] = "l1",  # l2 is harder on large differences and blurs
    ):
        self.compare = L1() if norm == "l1" else L2()

    def __call__(self, output: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        return self.compare(output, target, weight)


class Cycle(Norm):
    """An image that went to the other domain and back is itself: `cycle(cycled_a, real_a)` (Zhu et al., 2017)."""


class Identity(Norm):
    """A generator leaves images of its target domain alone: `identity(g_ab(real_b), real_b)` (Zhu et al., 2017)."""


def difference(output: Tensor, target: Tensor) -> Tensor:
    """output - target in float32; the shapes must agree, since broadcasting would compare the wrong pixels."""
    if output.shape != target.shape:
        shapes = f"{tuple(output.shape)} with {tuple(target.shape)}"
        raise UserError(f"a pixel-by-pixel loss cannot compare {shapes}", allowed="two images of one shape")
    return output.float() - target.float()


def weighted(values: Tensor, weight: Tensor | None) -> Tensor:
    """Mean of (N, C, *size) values, each pixel as often as its weight (N, 1, *size) says; None: all alike.

    Weights are divided by their image's own mean: every image counts as much as any other, whatever it is weighed by,
    so that a batch gives the mean of what its images give. A weight that is 0 everywhere is a loss of 0.
    """
    if weight is None:
        return values.mean()
    if weight.shape != (len(values), 1, *values.shape[2:]):
        shapes = f"{tuple(weight.shape)} cannot weigh images of {tuple(values.shape)}"
        raise UserError(f"a map of {shapes}", allowed="one channel, on the images' own grid")
    weight = weight.float()
    mean = weight.mean(tuple(range(1, weight.ndim)), keepdim=True)
    return (values * weight / mean.clamp_min(1e-6)).mean()


def lesion_weight(mask: Tensor | None, lesion: float) -> Tensor | None:
    """The weights 1 + (lesion - 1) x mask of a lesion mask (N, 1, *size) from 0 to 1; None where lesion is 1.

    UserError where lesions are to be weighed and the batch has no mask.
    """
    if lesion == 1:
        return None
    if mask is None:
        what = f"lesion = {lesion:g} weighs the pixels of lesions, and the batch has no mask of them"
        raise UserError(what, where="method.lesion", remedy="set data.mask = true, or method.lesion = 1.0")
    return 1 + (lesion - 1) * mask.float()


def gram(features: Tensor) -> Tensor:
    """Mean product of every two channels over all positions: (N, C, *size) to (N, C, C), float32.

    Gatys et al. (2016, equation 3) sum; the mean makes the values independent of the image's size.
    """
    with torch.autocast(features.device.type, enabled=False):
        flat = features.float().flatten(2)
        return flat @ flat.transpose(1, 2) / flat.shape[2]


class GramStyle:
    """Mean square difference of Gram matrices, summed over layers (Gatys et al., 2016, equations 4 and 5).

    `style(output_features, target_features)` takes one (N, C, *size) feature map a layer, 2-D or 3-D; sizes of output
    and target may differ, channels may not. Targets that stay the same may be given as `gram` of themselves, (N, C, C).
    """

    def __init__(
        self,
        *,
        weights: tuple[Weight, ...] | None = None,  # one a layer; None weighs all alike, summing to 1
    ):
        self.weights = weights

    def __call__(self, output: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        weights = self.weights or (1 / len(output),) * len(output)
        if not len(output) == len(target) == len(weights):
            counts = f"{len(output)} and {len(target)} feature maps and {len(weights)} weights"
            raise UserError(f"style compares layer by layer, but got {counts}", where="weights")
        total = output[0].new_zeros((), dtype=torch.float32)
        for features, wanted, weight in zip(output, target, weights, strict=True):
            wanted = wanted if wanted.ndim == 3 else gram(wanted)
            total = total + weight * (gram(features) - wanted).square().mean()
        return total
