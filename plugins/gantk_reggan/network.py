"""The registration network of RegGAN, images moved by its fields, and the losses L_Corr and L_Smooth."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gantk.errors import UserError
from gantk.losses.reconstruction import difference
from gantk.nets import blocks as b

COARSE = 3  # convolutions at the smallest size, for a large receptive field


class Registration(b.Network):
    """R(y^, y): predicts the field T that lays y^ on y, (N, dims, *size) float32, in pixels, at most `limit`.

    Convolutions halve the size `depth` times; T has a control point each 2**depth pixels, linear in between: eight
    points a side find a smooth field in a tenth of the steps that one point a pixel takes. Further passes see y^ as it
    was moved so far, and add to T (Zhao et al. 2019, recursive cascades). At first T = 0.
    """

    def __init__(self, channels: int, dims: int, *, width: int, depth: int, passes: int, limit: float):
        super().__init__()
        self.depth, self.passes, self.limit = depth, passes, limit
        layers, inputs = [], 2 * channels
        for level in range(depth + COARSE):
            halves, filters = level < depth, width * 2 ** min(level, depth - 1, 2)
            kernel = {"kernel": 4, "stride": 2, "padding": 1} if halves else {"kernel": 3}
            layers += [b.conv(dims, inputs, filters, **kernel), nn.LeakyReLU(0.2)]
            inputs = filters
        last = b.conv(dims, inputs, dims, 3)
        for weight in last.parameters():
            nn.init.zeros_(weight)
        self.layers = nn.Sequential(*layers, last)

    def check_size(self, size: tuple[int, ...]) -> None:
        """Raises a UserError where halving leaves nothing."""
        b.require_size(size, 1, 2**self.depth, f"a registration of depth {self.depth}", "lower registration_depth")

    def forward(self, fake: Tensor, real: Tensor) -> Tensor:
        size, raw, shown = fake.shape[2:], 0.0, fake
        linear = "bilinear" if len(size) == 2 else "trilinear"
        for number in range(self.passes):
            if number:
                shown = moved(fake, self.limited(raw)).to(fake.dtype)
            found = self.layers(b.in_layout_of(self, torch.cat([shown, real], 1)))
            raw = raw + F.interpolate(found.float(), size, mode=linear)
        return self.limited(raw)

    def limited(self, raw: Tensor) -> Tensor:
        """Displacement in pixels; an output of 1 is a quarter of the limit, so that the first steps are small."""
        return self.limit * torch.tanh(raw / 4)


def correction(laid: Tensor, real: Tensor) -> Tensor:
    """L_Corr = |y - y^ o T|, the mean over all pixels, of y and y^ o T; float32."""
    return difference(real, laid).abs().mean()


def roughness(field: Tensor) -> Tensor:
    """L_Smooth = |grad T|^2: for each axis the mean square change of (N, dims, *size) from pixel to pixel, summed."""
    return sum(field.diff(dim=axis).square().mean() for axis in range(2, field.ndim))


def moved(image: Tensor, field: Tensor) -> Tensor:
    """`image` o T: (N, C, *size) sampled where `field` (N, dims, *size), in pixels, points to; float32, edges repeated.

    Channel k of the field is along axis k of the size. Of zeros it leaves the image as it is.
    """
    if image.shape[2:] != field.shape[2:] or field.shape[1] != image.ndim - 2:
        what = f"a field of {tuple(field.shape)} cannot move images of {tuple(image.shape)}"
        raise UserError(what, allowed="one channel for each axis, on the images' own grid")
    places = []
    for axis, side in enumerate(image.shape[2:]):  # grid_sample has -1 and 1 in the middle of the outermost pixels
        line = torch.arange(side, device=field.device).view([-1 if n == axis else 1 for n in range(field.shape[1])])
        places.append((line + field[:, axis].float()) * (2 / max(1, side - 1)) - 1)
    grid = torch.stack(places[::-1], -1)  # it wants x first
    return F.grid_sample(image.float(), grid, padding_mode="border", align_corners=True)
