"""Two losses of images: on features of a frozen network, and an L1 loss with a lower weight outside
the body.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from gantk.errors import UserError
from gantk.losses.reconstruction import difference, weighted_mean
from gantk.plugin.spec import Positive, Share, Side, Weight
from gantk_parts.feature_loss.networks import open_network


class FeatureLoss:
    """Difference of a frozen network's features of two images, relative to the second's (Johnson et
    al. 2016, eq. 2).

    `loss(output, target)`, or (output, input) to keep content. The network is a run of the method
    `segmenter`, or a feature network of the metrics that supports gradients; it is neither trained
    nor saved. A run's recipe records the SHA-256 of its weights: resuming with others is an error.
    A 2-D network processes volumes slice by slice.
    """

    def __init__(
        self,
        *,
        # folder of a run of the method segmenter; or a feature network: timm's name, random
        network: str = "random",
        # for feature networks: a file of weights; None: its default weights
        weights: str | None = None,
        # for feature networks: images are resized to this side; None: the network's own
        side: Side | None = None,
        # layers to compare, by name, or "output"; (): the network's levels
        layers: tuple[str, ...] = (),
        layer_weights: tuple[Weight, ...] = (),  # one per layer; (): equal weights with sum 1
        norm: Literal["l1", "l2"] = "l1",  # of the differences: absolute or squared
        weight: Weight = 1.0,  # weight of the loss
        data_range: Positive = 2.0,  # width of the intensity range, 2 for [-1, 1]
        black: float = -1.0,  # intensity of air
        sha256: str = "",  # of the network's weights; filled in when a training begins
    ):
        if layer_weights and len(layer_weights) != len(layers):
            raise UserError(
                f"{len(layer_weights)} layer_weights for {len(layers)} layers",
                allowed="one for each",
            )

        self.source = (network, weights, side, tuple(layers))
        self.norm = norm
        self.weight = weight
        self.layer_weights = layer_weights
        self.data_range = data_range
        self.black = black

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        network = open_network(*self.source)
        scale = (self.black, self.data_range)
        with torch.autocast(output.device.type, enabled=False):
            made = network(output, *scale)
            real = network(target.detach(), *scale)

        weights = self.layer_weights or (1 / len(made),) * len(made)
        size = torch.abs if self.norm == "l1" else torch.square
        errors = (
            size(x - y).mean(1) / size(y).mean(1).clamp_min(1e-3)
            for x, y in zip(made, real, strict=True)
        )
        return self.weight * sum(
            weight * error.mean() for weight, error in zip(weights, errors, strict=True)
        )


class BodyL1:
    """Mean absolute difference, with a lower weight (or 0) for pixels outside the target's body.

    The body is the largest connected region brighter than air, with holes filled. Every image has
    the same weight.
    """

    def __init__(
        self,
        *,
        # weight of a pixel outside the body, 1 inside; 0 ignores the background
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
