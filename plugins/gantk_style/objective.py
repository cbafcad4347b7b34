"""What a stylised image is asked for (Gatys et al., CVPR 2016), as one number for each image of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from gantk.errors import UserError
from gantk.plugin.spec import Positive, Seed, Weight
from gantk_style.encoder import VGG19
from gantk_style.gram import gram

Sigma = Annotated[float, Field(ge=0, le=64)]


@dataclass(frozen=True)
class How:
    """The options that the method, the post-step and the command share."""

    weights: Literal["pretrained", "random"] = "pretrained"  # of VGG19; random ones need no download
    content_layers: tuple[str, ...] = ("conv4_2",)  # maps that are kept: conv1_1 to conv5_4
    style_layers: tuple[str, ...] = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")  # whose Grams are matched
    content_weight: Weight = 1.0  # 1 is the cost of maps that have nothing of the content's
    style_weight: Weight = 100.0  # 1 is the cost of Gram matrices that have nothing of the style's
    variation: Weight = 0.0  # weight of the mean difference of neighbouring pixels, as a share of the range
    rescale: bool = False  # each filter by its mean activation over content, style and positions (Gatys et al. 2016)
    optimizer: Literal["lbfgs", "adam"] = "lbfgs"  # both move each image by its own gradient alone
    lr: Positive | None = None  # length of a step; None: 1 for lbfgs, 0.05 for adam
    init: Literal["content", "noise", "style"] = "content"  # what the result starts as
    color: Literal["style", "content", "gray"] = "style"  # content: only the brightness changes; gray: no colour
    smooth: Sigma = 0.0  # sigma in pixels of a Gaussian that softens the strong edges of the result
    seed: Seed = 0  # of random weights and of a start from noise

    def __post_init__(self):
        weights = {name: getattr(self, name) for name in ("content_weight", "style_weight", "variation")}
        if not any(weights.values()):
            raise UserError(f"{', '.join(weights)} are all 0: nothing is asked of the image", where="content_weight")

    def encoder(self, range: tuple[float, float]) -> VGG19:
        """VGG19 up to the maps that are looked at, for images of that range."""
        layers = list(dict.fromkeys([*self.content_layers, *self.style_layers]))
        return VGG19(layers, self.weights, seed=self.seed, range=range)


DEFAULTS = How()


class Objective:
    """Content, style and smoothness of each image (Gatys et al. 2016, equation 7).

    Differences are divided by the mean square of the content's maps, or of the style's Gram matrices: a weight then
    means the same for every layer, image and network. With `rescale`, every filter of VGG first has mean activation 1
    over the positions of both images (Gatys et al. 2016, section 2, over ImageNet): rare textures count as common ones
    do. ReLU and average pooling keep factors, so that dividing the maps is the same as scaling the weights.

    Args:
        content: (N, C, *size), whose maps at `content_layers` are to be kept (equation 1).
        style: (M, C, *size), whose Gram matrices at `style_layers` are to be reached (equations 4 and 5): their mean,
            or, not `shared`, those of image i by image i.
    """

    def __init__(self, content: Tensor, style: Tensor, encoder: VGG19, how: How, *, shared: bool = True):
        self.encoder, self.how = encoder, how
        self.factors: dict[str, Tensor] = {}  # by layer, (N, channels)
        with torch.no_grad():
            kept, painted = self._maps(content), self._maps(style)
            if how.rescale:
                self.factors = {layer: _factors(kept[layer], painted[layer], shared) for layer in kept}
            self.content = [self._scaled(kept, layer) for layer in how.content_layers]
            grams = self._grams(painted)
            self.style = [each.mean(0, keepdim=True) for each in grams] if shared else grams

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        """The weighted losses by name, (N,) each; what weighs nothing is left out."""
        how, maps, losses = self.how, self._maps(image), {}
        if how.content_weight:
            kept = _difference([self._scaled(maps, layer) for layer in how.content_layers], self.content)
            losses["content"] = how.content_weight * kept
        if how.style_weight:
            losses["style"] = how.style_weight * _difference(self._grams(maps), self.style)
        if how.variation:
            low, high = self.encoder.range
            losses["variation"] = how.variation * total_variation(image) / (high - low)
        return losses

    def _maps(self, image: Tensor) -> dict[str, Tensor]:
        """Feature maps by layer, in float32 whatever autocast says: curvature is learnt from small changes."""
        with torch.autocast(image.device.type, enabled=False):
            return dict(zip(self.encoder.layers, self.encoder(image.float()), strict=True))

    def _scaled(self, maps: dict[str, Tensor], layer: str) -> Tensor:
        """A content layer's maps, filters rescaled."""
        found, factors = maps[layer], self.factors.get(layer)
        return found if factors is None else found * factors.view(*factors.shape, *[1] * (found.ndim - 2))

    def _grams(self, maps: dict[str, Tensor]) -> list[Tensor]:
        """Gram matrices, filters rescaled afterwards: styles may be fewer than the contents whose factors they take."""
        found = {layer: gram(maps[layer]) for layer in self.how.style_layers}
        for layer in found if self.factors else ():
            found[layer] = found[layer] * self.factors[layer][:, :, None] * self.factors[layer][:, None]
        return list(found.values())


def _factors(content: Tensor, style: Tensor, shared: bool) -> Tensor:
    """(N, channels): what gives each filter mean activation 1 over a content and its style, or over all shared styles.

    A filter that hardly answers, at a hundredth of its layer's mean, is not raised beyond that.
    """
    own, other = (maps.flatten(2).mean(2) for maps in (content, style))
    mean = (own + (other.mean(0, keepdim=True) if shared else other)) / 2
    return 1 / torch.maximum(mean, 0.01 * mean.mean(1, keepdim=True)).clamp(min=1e-20)


def _difference(found: Sequence[Tensor], known: Sequence[Tensor]) -> Tensor:
    """(N,): the mean over the layers of the squared difference, as a share of the square of what is known."""
    pairs = zip(found, known, strict=True)
    return torch.stack([_mean_square(a - b) / _mean_square(b).clamp(min=1e-20) for a, b in pairs]).mean(0)


def _mean_square(maps: Tensor) -> Tensor:
    return maps.square().flatten(1).mean(1)


def total_variation(image: Tensor) -> Tensor:
    """Mean absolute difference of neighbours, summed over the axes: (N, C, *size) to (N,)."""
    return torch.stack([image.diff(dim=axis).abs().flatten(1).mean(1) for axis in range(2, image.ndim)]).sum(0)
