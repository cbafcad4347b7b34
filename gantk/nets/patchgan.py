"""The PatchGAN discriminator: judges every patch of an image instead of the image as a whole."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from gantk.errors import UserError
from gantk.nets.blocks import (
    NormKind,
    batch_independent,
    conv,
    in_layout_of,
    init_weights,
    require_size,
)
from gantk.nets.blocks import norm as make_norm

# Convolutions of 4x4 in all -> side of the patch that one logit sees: each of stride 2 but the last two.
RECEPTIVE_FIELDS = {3: 16, 4: 34, 5: 70, 6: 142, 7: 286}


class PatchGAN(nn.Module):
    """PatchGAN discriminator: a map of logits, one for each overlapping patch (Isola et al., 2017, section 6.1.2).

    (N, in_channels, *size) to (N, 1, *patches). A patch is `receptive_field` pixels wide; the smallest image is
    3 x 2**(layers - 2) pixels a side (24 for the usual 70-pixel patch, which has 5 convolutions). Filters double from
    `width` up to 8 x width. The first and the last convolution are not normalised.
    """

    def __init__(
        self,
        in_channels: int,
        dims: int,
        *,
        width: int = 64,  # filters of the first convolution
        receptive_field: Literal[16, 34, 70, 142, 286] = 70,  # side of a patch in pixels
        layers: int | None = None,  # convolutions in all, 3 or more; overrules receptive_field
        norm: NormKind = "instance",  # "none" is usual with spectral; "batch" mixes the images of a batch
        affine: bool = False,  # learned scale and offset in instance norm
        spectral: bool = False,  # spectral norm of every convolution (Miyato et al., 2018)
        coordinates: bool = False,  # tell where a patch lies: [-1, 1] per axis as extra channels (Liu et al., 2018)
    ):
        super().__init__()
        self.convolutions = convolutions(receptive_field, layers)
        self.coordinates = coordinates
        bias = norm == "none"
        filters = [width * min(2**level, 8) for level in range(self.convolutions - 1)]

        inputs = in_channels + (dims if coordinates else 0)
        parts = [conv(dims, inputs, width, 4, stride=2, padding=1, spectral=spectral), nn.LeakyReLU(0.2, inplace=True)]
        for level in range(1, len(filters)):
            stride = 2 if level < len(filters) - 1 else 1
            narrow, wide = filters[level - 1], filters[level]
            parts += [
                conv(dims, narrow, wide, 4, stride=stride, padding=1, bias=bias, spectral=spectral),
                make_norm(norm, wide, dims, affine=affine),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        parts.append(conv(dims, filters[-1], 1, 4, padding=1, spectral=spectral))
        self.layers = nn.Sequential(*parts)
        init_weights(self)

    @property
    def batch_independent(self) -> bool:
        return batch_independent(self)

    def check_size(self, size: tuple[int, ...]) -> None:
        """Raises a UserError where an image is too small to leave one patch."""
        fitting = [str(field) for count, field in RECEPTIVE_FIELDS.items() if smallest_side(count) <= min(size)]
        remedy = f"set the discriminator's receptive_field = {' or '.join(fitting)}" if fitting else "use larger images"
        smallest = smallest_side(self.convolutions)
        require_size(size, 1, smallest, f"a PatchGAN of {self.convolutions} convolutions", remedy)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(in_layout_of(self, with_coordinates(x) if self.coordinates else x))


def smallest_side(layers: int) -> int:
    """The smallest image that leaves one patch: halved layers - 2 times, then twice one pixel less."""
    return 3 * 2 ** (layers - 2)


def convolutions(receptive_field: int, layers: int | None) -> int:
    """How many convolutions in all: `layers` where given, else what the receptive field needs."""
    if layers is not None:
        if layers < 3:
            raise UserError(f"a PatchGAN of {layers} convolutions does not exist", where="layers", allowed="3 or more")
        return layers
    for count, field in RECEPTIVE_FIELDS.items():
        if field == receptive_field:
            return count
    allowed = map(str, RECEPTIVE_FIELDS.values())
    raise UserError(f"no PatchGAN sees {receptive_field} pixels", where="receptive_field", allowed=allowed)


def with_coordinates(x: Tensor) -> Tensor:
    """`x` with one channel more per axis that runs from -1 to 1 along it (CoordConv, Liu et al., 2018)."""
    n, _, *size = x.shape
    lines = [torch.linspace(-1.0, 1.0, side, device=x.device, dtype=x.dtype) for side in size]
    grid = torch.stack(torch.meshgrid(*lines, indexing="ij")).expand(n, -1, *size)
    return torch.cat([x, grid], 1)
