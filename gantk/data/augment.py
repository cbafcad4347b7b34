"""Random changes of training images, on the device and differentiable: (N, C, *spatial) in, the same shape out.

Every image of a batch draws its own change; all its channels share it, so that concatenated pairs stay registered.
Random numbers come from torch's global generators alone: `torch.manual_seed` repeats them.
What moves in from beyond the border repeats it, since 0 is no background in network intensities.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from gantk.errors import UserError


class Augment:
    """A change of some images of a batch: `apply` changes all of them, `p` is the share that takes it."""

    geometric: ClassVar[bool] = False  # moves pixels: registered images have to move together

    def __init__(self, dims: int, p: float):
        if not 0 <= p <= 1:
            raise UserError(f"p = {p:g} is no probability", where="data.augment", allowed="0 to 1")
        self.dims, self.p = dims, p

    def __call__(self, image: Tensor) -> Tensor:
        """(N, C, *spatial) -> (N, C, *spatial)."""
        taken = self.draw(image) < self.p
        return torch.where(taken, self.apply(image), image)

    def apply(self, image: Tensor) -> Tensor:
        """The change, for every image."""
        raise NotImplementedError

    def draw(self, image: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
        """One uniform number for each image, shaped (N, 1, ...) to multiply with it."""
        number = torch.rand(len(image), *[1] * (self.dims + 1), device=image.device, dtype=torch.float32)
        return (low + (high - low) * number).to(image.dtype)


class HFlip(Augment):
    """Mirror left and right."""

    geometric = True
    axis: ClassVar[int] = -1

    def __init__(
        self,
        dims: int,
        *,
        p: float = 0.5,  # share of images
    ):
        super().__init__(dims, p)

    def apply(self, image: Tensor) -> Tensor:
        """Mirror all."""
        return image.flip(self.axis)


class VFlip(HFlip):
    """Mirror top and bottom (anterior and posterior of an axial slice)."""

    axis = -2


class Rot90(Augment):
    """Turn by 90, 180 or 270 degrees in the plane of the last two axes; by 180 alone where they differ in length."""

    geometric = True

    def __init__(
        self,
        dims: int,
        *,
        p: float = 0.5,  # share of images
    ):
        super().__init__(dims, p)

    def apply(self, image: Tensor) -> Tensor:
        """Turn all, each by its own angle."""
        half = image.rot90(2, (-2, -1))
        if image.shape[-1] != image.shape[-2]:
            return half
        turn = self.draw(image, 0, 3)
        quarters = torch.where(turn < 1, image.rot90(1, (-2, -1)), image.rot90(3, (-2, -1)))
        return torch.where(turn < 2, quarters, half)


class Affine(Augment):
    """A small turn, shift and change of size."""

    geometric = True

    def __init__(
        self,
        dims: int,
        *,
        p: float = 0.5,  # share of images
        degrees: float = 10.0,  # largest turn, about every axis
        shift: float = 0.05,  # largest shift, as a share of each side
        scale: float = 0.1,  # largest change of size: 0.1 is from 0.9 to 1.1
    ):
        super().__init__(dims, p)
        if min(degrees, shift, scale) < 0 or scale >= 1:
            what = f"degrees = {degrees:g}, shift = {shift:g}, scale = {scale:g} are out of range"
            raise UserError(
                what, where="data.augment", allowed="degrees and shift of 0 or more, scale from 0 to below 1"
            )
        self.degrees, self.shift, self.scale = degrees, shift, scale
        self._planar = self._kornia() if dims == 2 else None

    def apply(self, image: Tensor) -> Tensor:
        """Change all: pictures by kornia, volumes about their middle with voxels taken as cubes."""
        if self._planar is not None:
            return self._planar(image)
        turns = [self.draw(image, -self.degrees, self.degrees).flatten() for _ in range(3)]
        size = 1 / self.draw(image, 1 - self.scale, 1 + self.scale).flatten()
        shifts = torch.stack([2 * self.draw(image, -self.shift, self.shift).flatten() for _ in range(3)], dim=1)
        return warp(image, size[:, None, None] * _rotations(turns), shifts)

    def _kornia(self):
        from kornia.augmentation import RandomAffine

        return RandomAffine(
            self.degrees,
            translate=(self.shift, self.shift) if self.shift else None,
            scale=(1 - self.scale, 1 + self.scale) if self.scale else None,
            padding_mode="border",
            p=1.0,
        )


class Rotate(Affine):
    """A random turn about the centre, by up to `degrees`."""

    def __init__(
        self,
        dims: int,
        *,
        p: float = 0.5,  # share of images
        degrees: float = 10.0,  # largest turn, about every axis
    ):
        super().__init__(dims, p=p, degrees=degrees, shift=0.0, scale=0.0)


class Translate(Affine):
    """A random shift along each axis, by up to `shift` of its side."""

    def __init__(
        self,
        dims: int,
        *,
        p: float = 0.5,  # share of images
        shift: float = 0.1,  # largest shift, as a share of each side
    ):
        super().__init__(dims, p=p, degrees=0.0, shift=shift, scale=0.0)


class Crop(Augment):
    """A random part of the image, enlarged to its full size."""

    geometric = True

    def __init__(
        self,
        dims: int,
        *,
        p: float = 0.5,  # share of images
        smallest: float = 0.8,  # smallest side of the part, as a share of the image's
    ):
        super().__init__(dims, p)
        if not 0 < smallest <= 1:
            raise UserError(f"smallest = {smallest:g} is no part", where="data.augment", allowed="above 0, up to 1")
        self.smallest = smallest
        self._planar: dict[tuple[int, int], torch.nn.Module] = {}  # kornia's crop, by the size that it fills

    def apply(self, image: Tensor) -> Tensor:
        """Enlarge a part of all."""
        if self.dims == 2:
            height, width = image.shape[2:]
            if (height, width) not in self._planar:
                self._planar[height, width] = self._kornia(height, width)
            return self._planar[height, width](image)
        size = self.draw(image, self.smallest, 1.0).flatten()
        room = (1 - size)[:, None]  # how far the part's middle may lie from the image's, in half sides
        shifts = torch.cat([room * self.draw(image, -1, 1).flatten(1) for _ in range(3)], dim=1)
        return warp(image, size[:, None, None] * torch.eye(3, device=image.device), shifts)

    def _kornia(self, height: int, width: int):
        from kornia.augmentation import RandomResizedCrop

        areas, aspect = (self.smallest**2, 1.0), width / height
        size = (height, width)
        return RandomResizedCrop(size, scale=areas, ratio=(aspect, aspect), p=1.0, cropping_mode="resample")


class Brightness(Augment):
    """Brighter or darker: the same random number added to every value of an image."""

    def __init__(
        self,
        dims: int,
        *,
        p: float = 0.5,  # share of images
        by: float = 0.1,  # largest change, in network intensities
    ):
        super().__init__(dims, p)
        self.by = by

    def apply(self, image: Tensor) -> Tensor:
        """Brighten or darken all."""
        return image + self.draw(image, -self.by, self.by)


class Contrast(Augment):
    """Stretch about the image's mean."""

    def __init__(
        self,
        dims: int,
        *,
        p: float = 0.5,  # share of images
        by: float = 0.1,  # largest change: 0.1 is from 0.9 to 1.1
    ):
        super().__init__(dims, p)
        self.by = by

    def apply(self, image: Tensor) -> Tensor:
        """Stretch all; each channel about its own mean."""
        mean = image.mean(dim=tuple(range(2, image.ndim)), keepdim=True)
        return mean + (image - mean) * self.draw(image, 1 - self.by, 1 + self.by)


class Noise(Augment):
    """Add Gaussian noise of a random strength."""

    def __init__(
        self,
        dims: int,
        *,
        p: float = 0.5,  # share of images
        std: float = 0.05,  # strongest noise, in network intensities
    ):
        super().__init__(dims, p)
        self.std = std

    def apply(self, image: Tensor) -> Tensor:
        """Noise on all, each of its own strength."""
        return image + torch.randn_like(image) * self.draw(image, 0, self.std)


class Cutout(Augment):
    """Hide a box: it takes the image's smallest value, which is air."""

    geometric = True  # the same box in registered images, else one shows what the other has lost

    def __init__(
        self,
        dims: int,
        *,
        p: float = 0.5,  # share of images
        side: float = 0.3,  # side of the box, as a share of the image's
    ):
        super().__init__(dims, p)
        if not 0 < side <= 1:
            raise UserError(f"side = {side:g} is no box", where="data.augment", allowed="above 0, up to 1")
        self.side = side

    def apply(self, image: Tensor) -> Tensor:
        """Hide a box in all."""
        hidden = torch.ones_like(image[:, :1], dtype=torch.bool)
        for axis, side in enumerate(image.shape[2:], start=2):
            width = max(1, round(self.side * side))
            first = (self.draw(image) * (side - width + 1)).floor()
            shape = [side if i == axis else 1 for i in range(image.ndim)]
            index = torch.arange(side, device=image.device).view(shape)
            hidden = hidden & (index >= first) & (index < first + width)
        return torch.where(hidden, image.amin(dim=tuple(range(2, image.ndim)), keepdim=True), image)


def warp(image: Tensor, linear: Tensor, shifts: Tensor) -> Tensor:
    """Volumes (N, C, D, H, W) sampled at `linear` (N, 3, 3) times their voxel offsets from the middle, x first, plus
    `shifts` (N, 3) in half sides; linear interpolation, borders repeated."""
    sides = torch.tensor(image.shape[:1:-1], device=image.device, dtype=torch.float32)  # W, H, D
    theta = torch.cat([linear * sides / sides[:, None], shifts[:, :, None]], dim=2)
    grid = F.affine_grid(theta, list(image.shape), align_corners=False)
    return F.grid_sample(image.float(), grid, padding_mode="border", align_corners=False).to(image.dtype)


def _rotations(degrees: list[Tensor]) -> Tensor:
    """(N, 3, 3) turns about x, then y, then z, by (N,) degrees each."""
    product = None
    for axis, angle in enumerate(degrees):
        cos, sin = torch.cos(angle * math.pi / 180), torch.sin(angle * math.pi / 180)
        one, zero = torch.ones_like(cos), torch.zeros_like(cos)
        i, j = [k for k in range(3) if k != axis]
        rows = [[one if r == c else zero for c in range(3)] for r in range(3)]
        rows[i][i], rows[i][j], rows[j][i], rows[j][j] = cos, -sin, sin, cos
        turn = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
        product = turn if product is None else turn @ product
    return product
