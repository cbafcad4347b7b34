"""VGG19, whose feature maps are compared in style transfer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from gantk import timm_model
from gantk.errors import UserError

VGG = "vgg19.tv_in1k"
# convolutions between poolings (Simonyan and Zisserman 2015, table 1, column E)
BLOCKS = (2, 2, 4, 4, 4)
LAYERS = tuple(
    f"conv{block}_{number}"
    for block, count in enumerate(BLOCKS, 1)
    for number in range(1, count + 1)
)
Layers = Annotated[tuple[Literal[LAYERS], ...], Field(min_length=1)]
# ImageNet's, for each colour, in [0, 1]
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)


class VGG19(nn.Module):
    """Feature maps of VGG19 at named layers, "conv1_1" to "conv5_4", each after its ReLU; frozen.

    `encoder(image)` takes (N, 1 or 3, *size) in network intensities and returns one map for each of
    `layers`: (N, channels, *size / 2^(block - 1)). Gray is copied to all three colours. A volume
    (N, C, D, H, W) is processed slice by slice, and its maps keep D. Layers after the deepest one
    needed are not run. Poolings average, as in Gatys et al. (2016, section 2), which gives smoother
    images when pixels are optimised through the network. UserError for images that are too small
    or have other channels.

    Args:
        layers: names of the maps.
        weights: "pretrained" on ImageNet, or "random", drawn from `seed`: random filters capture
          style too, coarsely.
        range: network intensities of black and white.
    """

    def __init__(
        self,
        layers: Sequence[str],
        weights: Literal["pretrained", "random"] = "pretrained",
        *,
        seed: int = 0,
        range: tuple[float, float] = (-1.0, 1.0),
    ):
        super().__init__()
        self.layers = tuple(layers)
        self.range = range
        depth = max(map(LAYERS.index, layers)) + 1
        drawn = weights == "random" and not torch.empty(0).is_meta
        if drawn:
            convolutions = _random_vgg(seed)
        else:
            convolutions = _convolutions(timm_model(VGG, weights, seed=seed))

        self.blocks = nn.ModuleDict(dict(list(convolutions.items())[:depth]))
        self.pool = nn.AvgPool2d(2)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer(
            "deviation", torch.tensor(DEVIATION).view(1, 3, 1, 1), persistent=False
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """The feature maps in the order of `layers`."""
        check_colours(image.shape[1])
        self.check_size(tuple(image.shape[2:]))
        slices = image.transpose(1, 2).flatten(0, 1) if image.ndim == 5 else image
        low, high = self.range
        maps = ((slices - low) / (high - low) - self.mean) / self.deviation
        seen = {}
        for name, convolution in self.blocks.items():
            if name.endswith("_1") and name != LAYERS[0]:
                maps = self.pool(maps)
            maps = seen[name] = torch.relu(convolution(maps))

        found = [seen[name] for name in self.layers]
        if image.ndim == 4:
            return found

        count = len(image)
        return [maps.unflatten(0, (count, -1)).transpose(1, 2) for maps in found]

    def check_size(self, size: tuple[int, ...]) -> None:
        """Raise UserError where an image is too small for the poolings before the deepest layer."""
        deepest = list(self.blocks)[-1]
        least = 2 ** (int(deepest[4]) - 1)
        if min(size[-2:]) < least:
            raise UserError(
                f"an image of {' x '.join(map(str, size))} is too small for the layer {deepest} of"
                " VGG19",
                allowed=f"{least} or more pixels on each side",
                remedy="use earlier layers or larger images",
            )


def check_colours(channels: int) -> None:
    """Raise UserError where `channels` is neither 1 (gray) nor 3 (RGB): VGG19 was trained on
    photographs.
    """
    if channels not in (1, 3):
        raise UserError(
            f"VGG19 takes gray or RGB images, but an image has {channels} channels", allowed="1, 3"
        )


@lru_cache(maxsize=1)
def _random_vgg(seed: int) -> dict[str, nn.Module]:
    """Convolutions with random weights; cached, because drawing VGG19 with its 120 M classifier
    weights takes 1 s.
    """
    return _convolutions(timm_model(VGG, "random", seed=seed))


def _convolutions(network: nn.Module) -> dict[str, nn.Module]:
    """VGG19's convolutions, name -> layer."""
    convolutions = [layer for layer in network.features if isinstance(layer, nn.Conv2d)]
    return dict(zip(LAYERS, convolutions, strict=True))
