"""The objective of style transfer (Gatys et al., CVPR 2016): one loss for each image of a batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from gantk.errors import UserError
from gantk.plugin.spec import Count, FeatureMapLoss, Seed, Weight, bind
from gantk_style.encoder import VGG19, Layers
from gantk_style.gram import mean_square

Sigma = Annotated[float, Field(ge=0, le=64)]


@dataclass(frozen=True, kw_only=True)
class StyleOptions:
    """Options shared by the method, the post-step and the command."""

    # weights of VGG19; "random" needs no download
    weights: Literal["pretrained", "random"] = "pretrained"
    content_layers: Layers = ("conv4_2",)  # layers of the content loss: conv1_1 to conv5_4
    # layers of the style loss
    style_layers: Layers = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")
    content_weight: Weight = 1.0  # weight of the content loss; the loss is 1 where all maps are 0
    # weight of the style loss; "gram" is 1 where all Gram matrices are 0
    style_weight: Weight = 100.0
    style_loss: FeatureMapLoss = "gram"  # loss of the maps at style_layers
    # divide each filter by its mean activation over content and style (Gatys et al. 2016)
    rescale: bool = False
    # sigma in pixels of a Gaussian filter that softens strong edges of the result
    smooth: Sigma = 0.0
    seed: Seed = 0  # seed of random weights

    def __post_init__(self):
        if not self.content_weight and not self.style_weight:
            raise UserError(
                "content_weight and style_weight are both 0, so there is nothing to optimise",
                where="content_weight",
            )

    @property
    def note(self) -> str:
        """A sentence for the user: that random filters are used; "" with pretrained ones."""
        if self.weights == "pretrained":
            return ""
        return (
            "style transfer uses VGG19 with random filters, which stand in for the published,"
            " pretrained ones: style_weight = 1000 and 50 steps are smoother. Lesions change too"
        )

    def encoder(self, range: tuple[float, float]) -> VGG19:
        """VGG19 up to the deepest layer used, for images of that range."""
        layers = list(dict.fromkeys([*self.content_layers, *self.style_layers]))
        return VGG19(layers, self.weights, seed=self.seed, range=range)


DEFAULTS = StyleOptions()


@dataclass(frozen=True, kw_only=True)
class PaintOptions(StyleOptions):
    """Options of the post-step and the command."""

    steps: Count = 100  # optimizer steps of each batch
    batch: Count = 16  # images that are optimised at once


PAINT_DEFAULTS = PaintOptions()


class Objective:
    """The content and style losses of each image (Gatys et al. 2016, equation 7).

    The style loss is the registered loss `how.style_loss`. Differences are divided by the mean
    square of the content's maps, or (in `gram`) of the style's Gram matrices, so that a weight means
    the same for every layer, image and network. With `rescale`,
    every filter of VGG is first scaled to mean activation 1 over the positions of both images
    (Gatys et al. 2016, section 2, over ImageNet), so that rare textures count as common ones do.
    ReLU and average pooling are homogeneous: dividing the maps equals scaling the weights.

    Args:
        content: (N, C, *size), targets of the maps at `content_layers` (equation 1).
        style: (M, C, *size), targets of the maps at `style_layers` (equations 4 and 5): the mean of
            their Gram matrices for all images or, if not `shared`, style i for image i.
    """

    def __init__(
        self,
        content: Tensor,
        style: Tensor,
        encoder: VGG19,
        how: StyleOptions,
        *,
        shared: bool = True,
    ):
        self.encoder = encoder
        self.how = how
        self.factors: dict[str, Tensor] = {}  # by layer, (N, channels, 1, ...)
        with torch.no_grad():
            kept = self._maps(content)
            painted = self._maps(style)
            if how.rescale:
                self.factors = {
                    layer: _factors(kept[layer], painted[layer], shared) for layer in kept
                }

            self.content = self._scaled_maps(kept, how.content_layers)
            self.compare_style = bind("loss", how.style_loss)()
            self.style_layers = list(dict.fromkeys(how.style_layers))
            self.style = [self._style_targets(painted, n, shared) for n in range(len(content))]

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        """The weighted losses by name, (N,) each; losses of weight 0 are left out."""
        how = self.how
        maps = self._maps(image)
        losses = {}
        if how.content_weight:
            found = self._scaled_maps(maps, how.content_layers)
            losses["content"] = how.content_weight * _difference(found, self.content)

        if how.style_weight:
            found = self._scaled_maps(maps, self.style_layers)
            means = []  # over several targets, (N)
            for number, targets in enumerate(self.style):
                own = [each[number : number + 1] for each in found]
                with torch.autocast(image.device.type, enabled=False):
                    each = [self.compare_style(own, target) for target in targets]
                means.append(torch.stack(each).mean())
            losses["style"] = how.style_weight * torch.stack(means)

        return losses

    def _maps(self, image: Tensor) -> dict[str, Tensor]:
        """Feature maps by layer, in float32 without autocast: the curvature is estimated from small
        changes.
        """
        with torch.autocast(image.device.type, enabled=False):
            return dict(zip(self.encoder.layers, self.encoder(image.float()), strict=True))

    def _scaled_maps(
        self, maps: dict[str, Tensor], layers: Iterable[str], images: slice = slice(None)
    ) -> list[Tensor]:
        """The layers' maps, rescaled by the filters' factors of these images."""
        if not self.factors:
            return [maps[layer] for layer in layers]
        return [maps[layer] * self.factors[layer][images] for layer in layers]

    def _style_targets(
        self, painted: dict[str, Tensor], image: int, shared: bool
    ) -> list[list[Tensor]]:
        """What one image's maps are compared with: lists of one tensor per layer.

        A loss with `describe` gets the mean description of all styles. Any other loss gets the maps
        of each style.
        """
        own = slice(image, image + 1)
        maps = painted if shared else {layer: each[own] for layer, each in painted.items()}
        layers = self._scaled_maps(maps, self.style_layers, own)
        if hasattr(self.compare_style, "describe"):
            described = [self.compare_style.describe(maps) for maps in layers]
            return [[each.mean(0, keepdim=True) for each in described]]
        return [[maps[style : style + 1] for maps in layers] for style in range(len(layers[0]))]


def _factors(content: Tensor, style: Tensor, shared: bool) -> Tensor:
    """Factors (N, channels, 1, ...) that give each filter mean activation 1 over a content and its style
    (or shared styles).

    Filters with less than 1 % of their layer's mean activation are treated as if they had 1 %.
    """
    own = content.flatten(2).mean(2)
    other = style.flatten(2).mean(2)
    if shared:
        other = other.mean(0, keepdim=True)

    mean = (own + other) / 2
    factors = 1 / torch.maximum(mean, 0.01 * mean.mean(1, keepdim=True)).clamp(min=1e-20)
    return factors.view(*factors.shape, *[1] * (content.ndim - 2))


def _difference(found: Sequence[Tensor], known: Sequence[Tensor]) -> Tensor:
    """Mean over layers of the squared difference divided by the target's square, (N,)."""
    shares = [
        mean_square(maps - target) / mean_square(target).clamp(min=1e-20)
        for maps, target in zip(found, known, strict=True)
    ]
    return torch.stack(shares).mean(0)
