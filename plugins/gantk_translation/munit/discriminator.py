"""MUNIT's discriminators: one network for each of several image scales."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from gantk.errors import UserError
from gantk.nets.blocks import Network, conv, halvings, in_layout_of, init_weights, require_size
from gantk.plugin.spec import Depth, Part, Width

POOL = {2: F.avg_pool2d, 3: F.avg_pool3d}


class Strided(Network):
    """Discriminator of strided 4x4 convolutions (stride 2) and one 1x1 convolution (Huang et al.
    2018, appendix B.1).

    Maps (N, in_channels, *size) to (N, 1, *size / 2**layers). The smallest image has 2**layers
    pixels a side. Filters double from `width` up to 8 x width.
    """

    def __init__(
        self,
        in_channels: int,
        dims: int,
        *,
        width: Width = 64,  # filters of the first convolution
        layers: Depth = 4,  # convolutions of stride 2
    ):
        super().__init__()
        self.halvings = layers
        filters = [width * min(2**level, 8) for level in range(layers)]
        strides = [2] * layers
        parts = halvings(dims, in_channels, filters, strides, "none", False, False, mode="reflect")
        self.layers = nn.Sequential(*parts, conv(dims, filters[-1], 1, 1))
        init_weights(self)

    def check_size(self, size: tuple[int, ...]) -> None:
        """Raise UserError where an image is too small to be halved `layers` times."""
        who = f"a discriminator of {self.halvings} strided layers"
        require_size(size, 1, 2**self.halvings, who, "lower the discriminator's layers")

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(in_layout_of(self, x))


class MultiScale(Network):
    """One discriminator for the image and one for each smaller version of it (Wang et al. 2018,
    section 3.2).

    `forward` returns a list of logits, full size first; each scale has half the size of the one
    before.
    """

    def __init__(self, discriminator: Part, channels: int, dims: int, scales: int):
        super().__init__()
        self.dims = dims
        self.judges = nn.ModuleList(discriminator(channels, dims) for _ in range(scales))

    def check_size(self, size: tuple[int, ...]) -> None:
        """Raise UserError where an image, at any scale, is too small for its discriminator."""
        for level, judge in enumerate(self.judges):
            small = tuple(math.ceil(side / 2**level) for side in size)
            try:
                if hasattr(judge, "check_size"):
                    judge.check_size(small)
            except UserError as error:
                raise UserError(
                    f"at scale {level + 1} of {len(self.judges)}, {error.what}",
                    where="method.scales",
                    allowed=error.allowed,
                    remedy="reduce method.scales or the discriminator's layers, or increase data.size",
                ) from None

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """The image and its halved versions: means over 3 pixels a side without the padding."""
        images = [image]
        while len(images) < len(self.judges):
            images.append(
                POOL[self.dims](images[-1], 3, stride=2, padding=1, count_include_pad=False)
            )
        return images

    def forward(self, image: Tensor) -> list[Tensor]:
        return [judge(small) for judge, small in zip(self.judges, self.pyramid(image), strict=True)]
