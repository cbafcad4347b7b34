"""What a stylised image is asked for (Gatys et al., CVPR 2016), as one number for each image of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gantk.errors import UserError
from gantk.losses.reconstruction import GramStyle, gram
from gantk.nets.pretrained import VGG19
from gantk_style.canvas import total_variation

CONTENT_LAYERS = ("conv4_2",)  # section 2.1
STYLE_LAYERS = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")  # section 2.2


def encoder_for(content_layers: Sequence[str], style_layers: Sequence[str], *args, **options) -> VGG19:
    """VGG19 with the maps that both need; the other arguments are VGG19's."""
    return VGG19(list(dict.fromkeys([*content_layers, *style_layers])), *args, **options)


def maps_of(image: Tensor, encoder: VGG19) -> dict[str, Tensor]:
    """Feature maps by layer, in float32 whatever autocast says: curvature is learnt from small changes of gradients."""
    with torch.autocast(image.device.type, enabled=False):
        return dict(zip(encoder.layers, encoder(image.float()), strict=True))


def style_of(image: Tensor, encoder: VGG19, layers: Sequence[str]) -> list[Tensor]:
    """Gram matrices of images (N, C, *size): one (N, channels, channels) a layer."""
    with torch.no_grad():
        maps = maps_of(image, encoder)
        return [gram(maps[layer]) for layer in layers]


class Objective:
    """Content, style and smoothness of each image (Gatys et al. 2016, equation 7).

    Maps are scaled so that the mean square of the content's maps, and of the style's Gram matrices, is 1: a weight then
    means the same for every layer, image and network. (Gatys et al. rescale the filters of VGG to that end.)

    Args:
        content: (N, C, *size), whose maps at `content_layers` are to be kept (equation 1).
        style: (M, C, *size), whose Gram matrices at `style_layers` are to be reached (equations 4 and 5): their mean,
            or, not `shared`, those of image i by image i.
        variation: weight of the mean difference of neighbouring pixels, as a share of the range.
    """

    def __init__(
        self,
        content: Tensor,
        style: Tensor,
        *,
        shared: bool = True,
        encoder: VGG19,
        content_layers: Sequence[str],
        style_layers: Sequence[str],
        content_weight: float,
        style_weight: float,
        variation: float = 0.0,
    ):
        check_weights(content_weight=content_weight, style_weight=style_weight, variation=variation)
        self.weights = {"content": content_weight, "style": style_weight, "variation": variation}
        self.encoder, self.content_layers, self.style_layers = encoder, tuple(content_layers), tuple(style_layers)
        with torch.no_grad():
            maps = maps_of(content, encoder)
            self.content_scales = [_mean_square(maps[layer]).rsqrt() for layer in content_layers]
            grams = style_of(style, encoder, style_layers)
            grams = [each.mean(0, keepdim=True) for each in grams] if shared else grams
            self.style_scales = [_mean_square(each).pow(-0.25) for each in grams]  # a Gram matrix is of maps squared
            self.content = self._contents(maps)
            self.style = [_times(each, scale.square()) for each, scale in zip(grams, self.style_scales, strict=True)]
        self.gram = GramStyle()

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        """The weighted losses by name, (N,) each; what weighs nothing is left out."""
        maps, losses = maps_of(image, self.encoder), {}
        if self.weights["content"]:
            pairs = zip(self._contents(maps), self.content, strict=True)
            losses["content"] = torch.stack([(a - b).square().flatten(1).mean(1) for a, b in pairs]).mean(0)
        if self.weights["style"]:
            pairs = zip(self.style_layers, self.style_scales, strict=True)
            losses["style"] = self.gram.each([_times(maps[layer], scale) for layer, scale in pairs], self.style)
        if self.weights["variation"]:
            low, high = self.encoder.range
            losses["variation"] = total_variation(image) / (high - low)
        return {name: self.weights[name] * loss for name, loss in losses.items()}

    def _contents(self, maps: dict[str, Tensor]) -> list[Tensor]:
        pairs = zip(self.content_layers, self.content_scales, strict=True)
        return [_times(maps[layer], scale) for layer, scale in pairs]


def check_weights(**weights: float) -> None:
    """UserError for the first weight below 0, and where none is above."""
    for name, weight in weights.items():
        if weight < 0:
            raise UserError(f"{name} = {weight:g} is below 0", where=name, allowed="0 or more")
    if not any(weights.values()):
        raise UserError(f"{', '.join(weights)} are all 0: nothing is asked of the image", where=next(iter(weights)))


def _mean_square(maps: Tensor) -> Tensor:
    """(N,); an image without any response is not divided by zero."""
    return maps.square().flatten(1).mean(1).clamp(min=1e-20)


def _times(maps: Tensor, scale: Tensor) -> Tensor:
    return maps * scale.view(-1, *[1] * (maps.ndim - 1))
