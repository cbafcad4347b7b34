"""Augmentation on the device, differentiable: random flips, affine warps, crops, brightness, contrast, noise, cutout.

Every image of a batch draws its own change; all its channels share it, so that concatenated pairs stay registered.
Random numbers come from the global generator of the images' device alone: `torch.manual_seed` repeats them. Nothing is
drawn or made on the host and no shape depends on a value, so that a CUDA graph can hold every change.
What moves in from beyond the border repeats it, since 0 is no background in network intensities.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from gantk.errors import UserError
from gantk.method import Batch

option_fields = dataclass(kw_only=True, eq=False)  # fields are the options that recipes know
ANY, SHARE = (0, math.inf), (0.01, 1)
LIMITS = {"p": (0, 1), "degrees": ANY, "shift": ANY, "scale": (0, 0.99), "smallest": SHARE, "side": SHARE}


@dataclass(eq=False)
class Augment:
    """A change of some images of a batch: `apply` changes all of them, `p` is the share that takes it."""

    dims: int
    p: float = field(default=0.5, kw_only=True)  # share of images
    geometric: ClassVar[bool] = False  # moves pixels: registered images have to move together

    def __post_init__(self):
        for name, (low, high) in LIMITS.items():
            if not low <= getattr(self, name, low) <= high:
                what = f"{name} = {getattr(self, name):g} is out of range"
                raise UserError(what, where="data.augment", allowed=f"{low:g} to {high:g}")

    def __call__(self, image: Tensor) -> Tensor:
        """(N, C, *spatial) -> (N, C, *spatial)."""
        left = self.draw(image) >= self.p
        return torch.where(left, image, self.apply(image))  # the first of the two gives the result its memory format

    def apply(self, image: Tensor) -> Tensor:
        """The change, for every image."""
        raise NotImplementedError

    def draw(self, image: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
        """One uniform float32 number for each image, shaped (N, 1, ...) to multiply with it."""
        number = torch.rand(len(image), *[1] * (self.dims + 1), device=image.device)
        return number if (low, high) == (0, 1) else number.mul_(high - low).add_(low)


class HFlip(Augment):
    """Mirror left and right."""

    geometric, axis = True, -1

    def apply(self, image: Tensor) -> Tensor:
        return image.flip(self.axis)


class VFlip(HFlip):
    """Mirror top and bottom (anterior and posterior of an axial slice)."""

    axis = -2


class Rot90(Augment):
    """Turn by 90, 180 or 270 degrees in the plane of the last two axes; by 180 alone where they differ in length."""

    geometric = True

    def apply(self, image: Tensor) -> Tensor:
        half = image.rot90(2, (-2, -1))
        if image.shape[-1] != image.shape[-2]:
            return half
        turn = self.draw(image, 0, 3)
        quarters = torch.where(turn < 1, image.rot90(1, (-2, -1)), image.rot90(3, (-2, -1)))
        return torch.where(turn < 2, quarters, half)


@option_fields
class Affine(Augment):
    """A small turn, shift and change of size, about the middle."""

    degrees: float = 10.0  # largest turn, about every axis
    shift: float = 0.05  # largest shift, as a share of each side
    scale: float = 0.1  # largest change of size: 0.1 is from 0.9 to 1.1
    geometric = True

    def apply(self, image: Tensor) -> Tensor:
        from kornia.geometry.conversions import angle_to_rotation_matrix, axis_angle_to_rotation_matrix  # takes 0.5 s

        angles = 1 if self.dims == 2 else 3
        number = torch.rand(len(image), self.dims + 1 + angles, device=image.device).sub_(0.5)
        shift, size, turns = number.split([self.dims, 1, angles], dim=1)
        if self.dims == 2:
            turn = angle_to_rotation_matrix(2 * self.degrees * turns[:, 0])
        else:
            turn = axis_angle_to_rotation_matrix(math.pi / 90 * self.degrees * turns)
        linear = turn / (1 + 2 * self.scale * size[:, :, None])
        return warp(image, linear, (linear * in_pixels(2 * self.shift * shift, image)[:, None]).sum(2))


@option_fields
class Rotate(Affine):
    """A random turn about the centre, by up to `degrees`."""

    shift: float = field(default=0.0, init=False)
    scale: float = field(default=0.0, init=False)


@option_fields
class Translate(Affine):
    """A random shift along each axis, by up to `shift` of its side."""

    shift: float = 0.1  # largest shift, as a share of each side
    degrees: float = field(default=0.0, init=False)
    scale: float = field(default=0.0, init=False)


@option_fields
class Crop(Augment):
    """A random part of the image, enlarged to its full size."""

    smallest: float = 0.8  # smallest side of the part, as a share of the image's
    geometric = True

    def apply(self, image: Tensor) -> Tensor:
        power = 2 if self.dims == 2 else 1  # of pictures every area is as likely, of volumes every side
        part = self.draw(image, self.smallest**power, 1.0).view(-1, 1) ** (1 / power)
        place = (torch.rand(len(image), self.dims, device=image.device) - 0.5) * (1 - part)
        return warp(image, torch.eye(self.dims, device=image.device) * part[:, :, None], in_pixels(place, image))


@option_fields
class Brightness(Augment):
    """Brighter or darker: the same random number added to every value of an image."""

    by: float = 0.1  # largest change, in network intensities

    def apply(self, image: Tensor) -> Tensor:
        return image + self.draw(image, -self.by, self.by).to(image.dtype)


@option_fields
class Contrast(Augment):
    """Stretch each channel of an image about its mean."""

    by: float = 0.1  # largest change: 0.1 is from 0.9 to 1.1

    def apply(self, image: Tensor) -> Tensor:
        mean = image.mean(dim=tuple(range(2, image.ndim)), keepdim=True)
        return torch.lerp(mean, image, self.draw(image, 1 - self.by, 1 + self.by).to(image.dtype))


@option_fields
class Noise(Augment):
    """Add Gaussian noise of a random strength."""

    std: float = 0.05  # strongest noise, in network intensities

    def apply(self, image: Tensor) -> Tensor:
        return image + torch.randn_like(image) * self.draw(image, 0, self.std).to(image.dtype)


@option_fields
class Cutout(Augment):
    """Hide a box: it takes the image's smallest value, which is air."""

    side: float = 0.3  # side of the box, as a share of the image's
    geometric = True  # the same box in registered images, else one shows what the other has lost

    def apply(self, image: Tensor) -> Tensor:
        shown = torch.zeros((), dtype=torch.bool, device=image.device)
        for axis, side in enumerate(image.shape[2:], start=2):
            width = max(1, round(self.side * side))
            index = torch.arange(side, device=image.device).view([side if i == axis else 1 for i in range(image.ndim)])
            behind = index - (self.draw(image) * (side - width + 1)).floor()
            shown = shown | (behind < 0) | (behind >= width)
        return torch.where(shown, image, image.amin(dim=tuple(range(2, image.ndim)), keepdim=True))


def in_pixels(shares: Tensor, image: Tensor) -> Tensor:
    """Shifts (N, dims) as shares of an image's sides, x first, in pixels."""
    return torch.stack([x * side for x, side in zip(shares.T, image.shape[:1:-1], strict=True)], 1)


def warp(image: Tensor, linear: Tensor, shift: Tensor) -> Tensor:
    """Images (N, C, *spatial), each sampled at `linear` (N, dims, dims) times a pixel's place, plus `shift` (N, dims).

    In pixels from the middle, x first. Linear interpolation, borders repeated; places are float32 under any autocast.
    """
    from kornia.geometry.transform import homography_warp, homography_warp3d

    middle = [(side - 1) / 2 for side in image.shape[:1:-1]]
    offset = shift - sum(linear[:, :, axis] * centre for axis, centre in enumerate(middle))
    offset = torch.stack([x + centre for x, centre in zip(offset.T, middle, strict=True)], 1)
    places = F.pad(torch.cat([linear, offset[:, :, None]], dim=2), (0, 0, 0, 1))
    places[:, -1, -1].fill_(1)
    sample = homography_warp if image.ndim == 4 else homography_warp3d
    kept = {"padding_mode": "border", "normalized_coordinates": False}
    return sample(image.float(), places, tuple(image.shape[2:]), **kept).to(image.dtype)


def augmented(batch: Batch, augments: Sequence[Augment], paired: bool) -> Batch:
    """The batch after random changes, drawn from the global generator of its device: what moves pixels moves an image
    with its mask, and pairs together; what changes brightness changes images alone. Labels stay."""
    images = [name for name in batch if batch[name].ndim > 1 and not name.startswith("mask_")]
    moving = [[name for name in (image, f"mask_{image}") if name in batch] for image in images]
    moving = [sum(moving, [])] if paired else moving
    changed = Batch(batch)
    for augment in augments:
        for names in moving if augment.geometric else [[name] for name in images]:
            parts = [changed[name] for name in names]
            if len(parts) == 1:
                changed[names[0]] = augment(parts[0])
                continue
            # side by side as channels they get the same change
            whole = augment(torch.cat(parts, dim=1)).split([part.shape[1] for part in parts], dim=1)
            for name, part, before in zip(names, whole, parts, strict=True):
                changed[name] = torch.empty_like(before).copy_(part)  # in the memory format of the image
    return changed


def hide_contrasts(batch: Batch, data) -> Batch:
    """The batch with some contrasts of every second image turned black, so that a network learns to do without them.

    Of a domain with several contrasts each image loses, with probability 1/2, a random subset that is neither empty
    nor whole; neighbouring slices lose the same. Paired methods keep their targets: only domain a is touched. `data` is
    the run's `Data`. Random numbers come from the global generator of the batch's device.
    """
    hidden = Batch(batch)
    for name, contrasts in data.contrasts.items():
        count = len(contrasts)
        if count < 2 or name not in batch or (data.paired and name != "a"):
            continue
        image = batch[name]
        rows, device = len(image), image.device
        chosen = torch.randint(1, 2**count - 1, (rows, 1), device=device)
        drawn = (torch.rand(rows, 1, device=device) < 0.5) & (chosen >> torch.arange(count, device=device) & 1).bool()
        kept = ~drawn.repeat(1, image.shape[1] // count).view(*image.shape[:2], *[1] * (image.ndim - 2))
        hidden[name] = torch.where(kept, image, data.range[0])
    return hidden
