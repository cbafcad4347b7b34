"""The registration network of RegGAN, images moved by its fields, and the loss L_Smooth."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gantk.nets import blocks as b


class Registration(b.Network):
    """R(y^, y): predicts the field T that lays y^ on y, (N, dims, *size) float32, in pixels, at
    most `limit`.

    Convolutions halve the size `depth` times; T has a control point each 2**depth pixels, linear in
    between: eight points a side find a smooth field in a tenth of the steps that one point a pixel
    takes. At first T = 0.
    """

    def __init__(self, channels: int, dims: int, width: int, depth: int, limit: float):
        super().__init__()
        self.depth = depth
        self.limit = limit
        layers = []
        inputs = 2 * channels
        for level in range(depth + 3):  # three at the smallest size, for a large receptive field
            filters = width * 2 ** min(level, depth - 1, 2)
            kernel = {"kernel": 4, "stride": 2, "padding": 1} if level < depth else {"kernel": 3}
            layers += [b.conv(dims, inputs, filters, **kernel), nn.LeakyReLU(0.2)]
            inputs = filters

        self.layers = nn.Sequential(*layers, b.conv(dims, inputs, dims, 3))
        for weight in self.layers[-1].parameters():
            nn.init.zeros_(weight)

    def check_size(self, size: tuple[int, ...]) -> None:
        """Raises a UserError where halving leaves nothing."""
        b.require_size(
            size,
            1,
            2**self.depth,
            f"a registration of depth {self.depth}",
            "lower registration_depth",
        )

    def forward(self, fake: Tensor, real: Tensor) -> Tensor:
        found = self.layers(b.in_layout_of(self, torch.cat([fake, real], 1))).float()
        found = F.interpolate(
            found, fake.shape[2:], mode="bilinear" if fake.ndim == 4 else "trilinear"
        )
        # an output of 1 is a quarter of the limit: small first steps
        return self.limit * torch.tanh(found / 4)


def roughness(field: Tensor) -> Tensor:
    """L_Smooth = |grad T|^2: for each axis the mean square change of (N, dims, *size) from pixel to
    pixel, summed.
    """
    return sum(field.diff(dim=axis).square().mean() for axis in range(2, field.ndim))


def warp(image: Tensor, field: Tensor, mode: str = "bilinear") -> Tensor:
    """`image` o T: (N, C, *size) sampled where `field` (N, dims, *size), in pixels, points to;
    float32, edges repeated.

    Channel k of the field is along axis k of the size. Of zeros it leaves the image as it is.
    `mode` is grid_sample's.
    """
    # grid_sample has -1 and 1 in the middle of the outermost pixels, and wants x first
    sides = image.shape[2:]
    at = torch.meshgrid(
        *(torch.linspace(-1, 1, side, device=field.device) for side in sides), indexing="ij"
    )
    at = [line + field[:, n].float() * (2 / max(1, sides[n] - 1)) for n, line in enumerate(at)]
    return F.grid_sample(
        image.float(), torch.stack(at[::-1], -1), mode, padding_mode="border", align_corners=True
    )
