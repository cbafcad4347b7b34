"""The DCGAN discriminator: one verdict an image."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from gantk.nets.blocks import (
    NormKind,
    batch_independent,
    conv,
    in_layout_of,
    init_weights,
    require_size,
)
from gantk.nets.blocks import norm as make_norm

FINAL = 4  # side of the map that the last convolution turns into one logit


class DCGANDiscriminator(nn.Module):
    """DCGAN discriminator: 4x4 convolutions of stride 2, then one logit an image (Radford et al., 2016).

    (N, in_channels, *size) to (N, 1); every side at least 4 x 2**depth. Filters double from `width` up to 8 x width.
    A map of 4 pixels a side meets the last convolution as it is: with depth=4 that is the published network at 64 px.
    A larger one is averaged down to 4 pixels a side, so that the network takes any size and still knows where in the
    image things are; better than averaging far is one `depth` more for every doubling of the size.
    """

    def __init__(
        self,
        in_channels: int,
        dims: int,
        *,
        width: int = 64,  # filters of the first convolution
        depth: int = 4,  # halvings of the size: 4 at 64 px, 5 at 128 px
        norm: NormKind = "batch",  # wgan_gp needs "instance", "group" or "none"
        affine: bool = False,  # learned scale and offset in instance norm
        spectral: bool = False,  # spectral norm of every convolution (Miyato et al., 2018)
    ):
        super().__init__()
        self.dims, self.depth = dims, depth
        filters = [width * min(2**level, 8) for level in range(depth)]
        parts = [conv(dims, in_channels, width, 4, stride=2, padding=1, spectral=spectral)]
        parts.append(nn.LeakyReLU(0.2, inplace=True))
        for narrow, wide in zip(filters[:-1], filters[1:], strict=True):
            parts += [
                conv(dims, narrow, wide, 4, stride=2, padding=1, bias=norm == "none", spectral=spectral),
                make_norm(norm, wide, dims, affine=affine),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        self.layers = nn.Sequential(*parts)
        self.verdict = conv(dims, filters[-1], 1, FINAL, padding=0, spectral=spectral)
        init_weights(self)

    @property
    def batch_independent(self) -> bool:
        return batch_independent(self)

    def check_size(self, size: tuple[int, ...]) -> None:
        """Raises a UserError where an image is too small to leave a map of 4 pixels a side."""
        who = f"a DCGAN discriminator of depth {self.depth}"
        require_size(size, 1, FINAL * 2**self.depth, who, "lower the discriminator's depth")

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(in_layout_of(self, x))
        if any(side != FINAL for side in x.shape[2:]):
            x = (F.adaptive_avg_pool2d if self.dims == 2 else F.adaptive_avg_pool3d)(x, FINAL)
        return self.verdict(x).flatten(1)
