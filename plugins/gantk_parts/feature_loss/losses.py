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
from gantk.plugin.spec import Positive, Share, Weight
from gantk_parts.feature_loss.networks import open_network


class FeatureLoss:
    """Perceptual loss: the difference of a frozen network's features of two images, relative to the
    features of the second (Johnson et al. 2016, eq. 2).

    It compares the output with the target, or with the input to keep content. The network is a run
    of the method `segmenter`, or a feature network of the metrics that supports gradients. It is
    neither trained nor stored. The run's recipe records the SHA-256 of its weights; resuming with
    other weights is an error. A 2-D network processes volumes slice by slice.
    """

    takes = ("images", "source")

    def __init__(
        self,
        *,
        # run folder of the method segmenter, or a feature network: a timm name, or random
        network: str = "random",
        # names of the layers to compare, or "output"; (): the network's levels
        layers: tuple[str, ...] = (),
        layer_weights: tuple[Weight, ...] = (),  # one per layer; (): equal weights with sum 1
        norm: Literal["l1", "l2"] = "l1",  # absolute or squared differences
        weight: Weight = 1.0,  # weight of the loss
        data_range: Positive = 2.0,  # width of the intensity range, 2 for [-1, 1]
        black: float = -1.0,  # intensity of air
        sha256: str = "",  # SHA-256 of the network's weights; set when a training starts
    ):
        if layer_weights and len(layer_weights) != len(layers):
            raise UserError(
                f"the loss has {len(layer_weights)} layer_weights for {len(layers)} layers",
                allowed="one weight per layer",
            )

        self.source = (network, tuple(layers))
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
