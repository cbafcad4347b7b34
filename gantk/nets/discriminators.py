"""The PatchGAN discriminator: one logit for each patch of an image."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from gantk.errors import UserError
from gantk.nets import blocks as b
from gantk.nets.blocks import NormKind
from gantk.plugin.spec import Halvings, Width

# Side of the patch that one logit sees -> number of 4x4 convolutions, all but the last two of
# stride 2.
CONVOLUTIONS = {16: 3, 34: 4, 70: 5, 142: 6, 286: 7}


class PatchGAN(b.Network):
    """PatchGAN discriminator: a map of logits, one for each overlapping patch (Isola et al., 2017,
    section 6.1.2).

    Maps (N, in_channels, *size) to (N, 1, *patches). A patch is `receptive_field` pixels wide. Each
    side of an image needs at least 3 x 2**(layers - 2) pixels. That is 24 for the usual patch of 70
    pixels, which has 5 convolutions. Filters double from `width` up to 8 x width. The last
    convolution is not normalised, and the first only with `norm_first`.

    `layers` counts all convolutions, with the last one, which gives the map. With
    `strided` = s, an image needs at least (layers - s + 1) x 2**s pixels a side.

    Published shapes:

    * 5 convolutions, each with a norm, and one to the map, for 64 px: layers=6, strided=3,
      norm_first=True. 64 px become a map of 5 x 5.
    """

    def __init__(
        self,
        in_channels: int,
        dims: int,
        *,
        width: Width = 64,  # filters of the first convolution
        receptive_field: Literal[16, 34, 70, 142, 286] = 70,  # side of a patch in pixels
        # number of convolutions, in place of receptive_field; none = as receptive_field says
        layers: Literal[3, 4, 5, 6, 7, 8, 9, 10, 11, 12] | None = None,
        # how many of these, from the first on, are of stride 2; none = all but the last two
        strided: Halvings | None = None,
        # normalisation; "none" is usual with spectral; "batch" mixes the images of a batch
        norm: NormKind = "instance",
        norm_first: bool = False,  # normalise the first convolution too
        affine: bool = False,  # learned scale and offset in instance norm
        spectral: bool = False,  # spectral norm of every convolution (Miyato et al., 2018)
        # add positions as channels, from -1 to 1 along each axis (Liu et al., 2018)
        coordinates: bool = False,
    ):
        super().__init__()
        convolutions = layers or CONVOLUTIONS[receptive_field]
        self.convolutions = convolutions
        self.strided = convolutions - 2 if strided is None else strided
        if self.strided >= convolutions:
            raise UserError(
                f"strided = {strided} leaves no convolution for the map of logits",
                where="method.discriminator.strided",
                allowed=f"0 to {convolutions - 1}, as there are {convolutions} convolutions",
            )

        self.coordinates = coordinates
        filters = [width * min(2**level, 8) for level in range(convolutions - 1)]
        inputs = in_channels + (dims if coordinates else 0)
        strides = [2] * self.strided + [1] * (convolutions - 1 - self.strided)
        parts = b.halvings(dims, inputs, filters, strides, norm, affine, spectral, norm_first)
        self.layers = nn.Sequential(
            *parts, b.conv(dims, filters[-1], 1, 4, padding=1, spectral=spectral)
        )
        b.init_weights(self)

    def check_size(self, size: tuple[int, ...]) -> None:
        """Raises a UserError if an image is too small for one patch."""
        # the others take a pixel each
        smallest = (self.convolutions - self.strided + 1) * 2**self.strided
        who = f"a PatchGAN with {self.convolutions} convolutions"
        b.require_size(
            size, 1, smallest, who, "lower the discriminator's receptive_field or layers"
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(b.in_layout_of(self, with_coordinates(x) if self.coordinates else x))


def with_coordinates(x: Tensor) -> Tensor:
    """`x` with an extra channel for each axis that runs from -1 to 1 along it (CoordConv, Liu et
    al., 2018).
    """
    n, _, *size = x.shape
    lines = [torch.linspace(-1.0, 1.0, side, device=x.device, dtype=x.dtype) for side in size]
    return torch.cat(
        [x, torch.stack(torch.meshgrid(*lines, indexing="ij")).expand(n, -1, *size)], 1
    )
