"""Random flips, rotations, crops, contrasts, bias fields, blur, noise. Warps repeat the image's border."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from gantk import Augmentation
from gantk.plugin.spec import Share, Weight

option_fields = dataclass(kw_only=True, eq=False)  # the fields are the options in recipes


class HFlip(Augmentation):
    """Mirror left and right."""

    geometric = True
    axis = -1

    def apply(self, image: Tensor) -> Tensor:
        return image.flip(self.axis)


class VFlip(HFlip):
    """Mirror top and bottom (anterior and posterior of an axial slice)."""

    axis = -2


class Rot90(Augmentation):
    """Rotate by 90, 180 or 270 degrees in the plane of the last two axes; only by 180 if their
    lengths differ.
    """

    geometric = True

    def apply(self, image: Tensor) -> Tensor:
        half = image.rot90(2, (-2, -1))
        if image.shape[-1] != image.shape[-2]:
            return half
        turn = self.draw(image, 0, 3)
        quarters = torch.where(turn < 1, image.rot90(1, (-2, -1)), image.rot90(3, (-2, -1)))
        return torch.where(turn < 2, quarters, half)


@option_fields
class Affine(Augmentation):
    """Rotate, shift and scale by small random amounts about the centre."""

    degrees: Annotated[float, Field(ge=0, le=360)] = 10.0  # largest rotation, about every axis
    shift: Share = 0.05  # largest shift, as a share of each side
    # largest change of size: 0.1 scales by 0.9 to 1.1
    scale: Annotated[float, Field(ge=0, le=0.99)] = 0.1
    nearest: bool = False  # nearest-neighbour interpolation, for label maps and for keeping noise
    geometric = True

    def apply(self, image: Tensor) -> Tensor:
        # takes 0.5 s
        from kornia.geometry.conversions import (
            angle_to_rotation_matrix,
            axis_angle_to_rotation_matrix,
        )

        angles = 1 if self.dims == 2 else 3
        number = torch.rand(len(image), self.dims + 1 + angles, device=image.device).sub_(0.5)
        shift, size, turns = number.split([self.dims, 1, angles], dim=1)
        if self.dims == 2:
            turn = angle_to_rotation_matrix(2 * self.degrees * turns[:, 0])
        else:
            turn = axis_angle_to_rotation_matrix(math.pi / 90 * self.degrees * turns)

        linear = turn / (1 + 2 * self.scale * size[:, :, None])
        moved = (linear * in_pixels(2 * self.shift * shift, image)[:, None]).sum(2)
        return warp(image, linear, moved, "nearest" if self.nearest else "bilinear")


@option_fields
class Rotate(Affine):
    """Rotate about the centre by a random angle, at most `degrees`."""

    shift: Share = field(default=0.0, init=False)
    scale: Annotated[float, Field(ge=0, le=0.99)] = field(default=0.0, init=False)


@option_fields
class Translate(Affine):
    """Shift along each axis by a random amount, at most `shift` of its side."""

    shift: Share = 0.1  # largest shift, as a share of each side
    degrees: Annotated[float, Field(ge=0, le=360)] = field(default=0.0, init=False)
    scale: Annotated[float, Field(ge=0, le=0.99)] = field(default=0.0, init=False)


@option_fields
class Crop(Augmentation):
    """Cut out a random part of the image and enlarge it to the full size.

    With equal `smallest` and `largest`, this is a resize to a larger size and a random crop. For
    256 px out of 286 px, both are 256 / 286 = 0.895.
    """

    # smallest side of the part, as a share of the image's
    smallest: Annotated[float, Field(ge=0.01, le=1)] = 0.8
    largest: Annotated[float, Field(ge=0.01, le=1)] = 1.0  # largest side, likewise
    geometric = True

    def apply(self, image: Tensor) -> Tensor:
        # uniform in the area of pictures, in the side of volumes
        power = 2 if self.dims == 2 else 1
        part = self.draw(image, self.smallest**power, self.largest**power)
        part = part.view(-1, 1) ** (1 / power)
        place = (torch.rand(len(image), self.dims, device=image.device) - 0.5) * (1 - part)
        linear = torch.eye(self.dims, device=image.device) * part[:, :, None]
        return warp(image, linear, in_pixels(place, image))


@option_fields
class Brightness(Augmentation):
    """Change the brightness: add one random number to every value of an image."""

    by: Weight = 0.1  # largest change, in network intensities

    def apply(self, image: Tensor) -> Tensor:
        return image + self.draw(image, -self.by, self.by).to(image.dtype)


@option_fields
class Contrast(Augmentation):
    """Change the contrast: stretch each channel of an image about its mean."""

    by: Weight = 0.1  # largest change: 0.1 stretches by 0.9 to 1.1

    def apply(self, image: Tensor) -> Tensor:
        mean = image.mean(dim=tuple(range(2, image.ndim)), keepdim=True)
        return torch.lerp(mean, image, self.draw(image, 1 - self.by, 1 + self.by).to(image.dtype))


@option_fields
class Noise(Augmentation):
    """Add Gaussian noise of a random strength."""

    std: Weight = 0.05  # largest standard deviation of the noise, in network intensities

    def apply(self, image: Tensor) -> Tensor:
        return image + torch.randn_like(image) * self.draw(image, 0, self.std).to(image.dtype)


@option_fields
class Curve(Augmentation):
    """Map intensities by a random increasing curve, as if another scanner had acquired the image.

    The order of the tissues stays, and so does black, the image's smallest value. `by` is the
    standard deviation of the logarithm of each of 8 slopes. The idea follows the random contrasts of
    SynthSeg (Billot et al. 2023), which draws the value of every tissue.
    """

    by: Weight = 0.5  # standard deviation of the logarithm of the curve's slopes
    steps: ClassVar[int] = 8

    def apply(self, image: Tensor) -> Tensor:
        axes = tuple(range(1, image.ndim))
        # the networks' range is about 2 wide
        black = image.amin(dim=axes, keepdim=True)
        step = 2 / self.steps
        drawn = torch.randn(len(image), self.steps, device=image.device)
        slopes = drawn.mul(self.by).exp().to(image.dtype)
        changed = black
        for number, slope in enumerate(slopes.T):
            part = (image - black - number * step).clamp_min(0)
            if number < self.steps - 1:
                part = part.clamp_max(step)
            changed = changed + part * slope.view(-1, *[1] * (image.ndim - 1))

        return changed


@option_fields
class BiasField(Augmentation):
    """Multiply by a smooth random field, like the bias field of a coil. Black, the image's smallest
    value, stays.
    """

    # standard deviation of the field's logarithm, drawn at 4 points along each side
    by: Weight = 0.3

    def apply(self, image: Tensor) -> Tensor:
        drawn = torch.randn(len(image), 1, *[4] * self.dims, device=image.device) * self.by
        smooth = "bicubic" if self.dims == 2 else "trilinear"
        field = F.interpolate(drawn, image.shape[2:], mode=smooth, align_corners=True)
        field = field.exp().to(image.dtype)
        black = image.amin(dim=tuple(range(1, image.ndim)), keepdim=True)
        return black + (image - black) * field


@option_fields
class Blur(Augmentation):
    """Blur by a random share of a 5-pixel binomial filter; negative shares of `by` sharpen."""

    # smallest and largest share of the filter
    by: tuple[Annotated[float, Field(ge=-1)], Annotated[float, Field(le=1)]] = (-0.3, 1.0)

    def apply(self, image: Tensor) -> Tensor:
        soft = image
        for axis in [*range(2, image.ndim)] * 2:
            first = soft.narrow(axis, 0, 1)
            last = soft.narrow(axis, soft.shape[axis] - 1, 1)
            wide = torch.cat([first, soft, last], axis)
            side = soft.shape[axis]
            soft = (wide.narrow(axis, 0, side) + wide.narrow(axis, 2, side)) / 4 + soft / 2
        return torch.lerp(image, soft, self.draw(image, *self.by).to(image.dtype))


def in_pixels(shares: Tensor, image: Tensor) -> Tensor:
    """Convert shifts (N, dims), x first, from shares of an image's sides to pixels."""
    return torch.stack([x * side for x, side in zip(shares.T, image.shape[:1:-1], strict=True)], 1)


def warp(image: Tensor, linear: Tensor, shift: Tensor, mode: str = "bilinear") -> Tensor:
    """Resample images (N, C, *spatial) at `linear` (N, dims, dims) times the pixel coordinates plus
    `shift` (N, dims).

    Coordinates are pixels from the centre, x first, float32 under any autocast. Linear
    interpolation unless `mode` is "nearest"; the border is repeated outside the image.
    """
    from kornia.geometry.transform import homography_warp, homography_warp3d

    middle = [(side - 1) / 2 for side in image.shape[:1:-1]]
    offset = shift - sum(linear[:, :, axis] * centre for axis, centre in enumerate(middle))
    offset = torch.stack([x + centre for x, centre in zip(offset.T, middle, strict=True)], 1)
    places = F.pad(torch.cat([linear, offset[:, :, None]], dim=2), (0, 0, 0, 1))
    places[:, -1, -1].fill_(1)
    sample = homography_warp if image.ndim == 4 else homography_warp3d
    kept = {"mode": mode, "padding_mode": "border", "normalized_coordinates": False}
    return sample(image.float(), places, tuple(image.shape[2:]), **kept).to(image.dtype)
