"""Augmentation on the device, differentiable: random flips, affine warps, crops, brightness, contrast, noise, cutout.

Every image of a batch draws its own change; all its channels share it, so that concatenated pairs stay registered.
Random numbers come from the global generator of the images' device alone: `torch.manual_seed` repeats them. Nothing is
drawn or made on the host and no shape depends on a value, so that a CUDA graph can hold every change.
What moves in from beyond the border repeats it, since 0 is no background in network intensities.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, groupby
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from gantk.errors import UserError
from gantk.method import Batch


class Augment:
    """A change of some images of a batch: `apply` changes all of them, `p` is the share that takes it."""

    geometric: ClassVar[bool] = False  # moves pixels: registered images have to move together

    def __init__(self, dims: int, p: float):
        if not 0 <= p <= 1:
            raise UserError(f"p = {p:g} is no probability", where="data.augment", allowed="0 to 1")
        self.dims, self.p = dims, p

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

    def apply(self, image: Tensor) -> Tensor:
        """Change all, about their middle; pixels are taken as squares, voxels as cubes."""
        dims, planes = self.dims, list(combinations(range(self.dims), 2))[::-1]
        number = torch.rand(len(image), dims + 1 + len(planes), device=image.device).sub_(0.5)
        shift, size, turns = number.split([dims, 1, len(planes)], dim=1)
        unit = torch.eye(dims, device=image.device).expand(len(image), -1, -1)
        part = torch.cat([unit, 4 * self.shift * shift[:, :, None]], dim=2) / (1 + 2 * self.scale * size[:, :, None])
        return warp(image, turned(part, planes, math.pi / 90 * self.degrees * turns, image.shape[:1:-1]))


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

    def apply(self, image: Tensor) -> Tensor:
        """Enlarge a part of all: of pictures every area is as likely, of volumes every side."""
        power = 2 if self.dims == 2 else 1
        side = self.draw(image, self.smallest**power, 1.0).view(-1, 1, 1) ** (1 / power)
        offset = (torch.rand(len(image), self.dims, 1, device=image.device) * 2 - 1) * (1 - side)
        return warp(image, torch.cat([torch.eye(self.dims, device=image.device) * side, offset], dim=2))


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
        return image + self.draw(image, -self.by, self.by).to(image.dtype)


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
        return torch.lerp(mean, image, self.draw(image, 1 - self.by, 1 + self.by).to(image.dtype))


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
        return image + torch.randn_like(image) * self.draw(image, 0, self.std).to(image.dtype)


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
        shown = None
        for axis, side in enumerate(image.shape[2:], start=2):
            width = max(1, round(self.side * side))
            index = torch.arange(side, device=image.device).view([side if i == axis else 1 for i in range(image.ndim)])
            behind = index - (self.draw(image) * (side - width + 1)).floor()
            beside = (behind < 0) | (behind >= width)
            shown = beside if shown is None else shown | beside
        return torch.where(shown, image, image.amin(dim=tuple(range(2, image.ndim)), keepdim=True))


def warp(image: Tensor, part: Tensor) -> Tensor:
    """Images (N, C, *spatial), seen through `part` (N, dims, dims + 1): the affine map from a place in the result to
    the place in the image, x first, in half sides from the middle. Linear interpolation, borders repeated.

    Places are float32 under any autocast; `affine_grid` would round them to bf16 there.
    """
    places = part[:, :, -1]
    for axis, side in enumerate(image.shape[:1:-1]):  # x is the innermost axis of the grid: it grows outwards
        centres = torch.linspace(1 / side - 1, 1 - 1 / side, side, device=image.device)
        column = part[:, :, axis].view(len(image), *[1] * (axis + 1), -1)
        places = centres.view(-1, *[1] * (axis + 1)) * column + places[:, None]
    return F.grid_sample(image.float(), places, padding_mode="border", align_corners=False).to(image.dtype)


def turned(part: Tensor, planes: Sequence[tuple[int, int]], turns: Tensor, sides: Sequence[int]) -> Tensor:
    """An affine map (N, dims, dims + 1) in half sides, followed by turns (N, len(planes)) in radians, each from the
    first axis of its plane to the second; `sides` are the image's in pixels, x first."""
    rows, cosines, sines = list(part.unbind(1)), torch.cos(turns), torch.sin(turns)
    for k, (i, j) in enumerate(planes):
        cos, sin, stretch = cosines[:, k, None], sines[:, k, None], sides[j] / sides[i]
        rows[i], rows[j] = (
            torch.addcmul(cos * rows[i], sin, rows[j], value=-stretch),
            torch.addcmul(cos * rows[j], sin, rows[i], value=1 / stretch),
        )
    return torch.stack(rows, dim=1)


def augmented(batch: Batch, augments: Sequence, paired: bool) -> Batch:
    """The batch after random changes, drawn from the global generator of its device: what moves pixels moves an image
    with its mask, and pairs together; what changes brightness changes images alone. Labels stay."""
    images = [name for name in batch if batch[name].ndim > 1 and not name.startswith("mask_")]
    alone = [[name] for name in images]
    moved = [[n for n in (name, f"mask_{name}") if n in batch] for name in images]
    moved = [sum(moved, [])] if paired else moved
    changed = Batch(batch)
    for groups, changes in groupby(augments, key=lambda augment: moved if augment.geometric else alone):
        _change(changed, groups, list(changes))
    return changed


def _change(batch: Batch, groups: list[list[str]], changes: Sequence) -> None:
    """Put changed images into the batch. What stands in one group gets the same change: it lies side by side, as
    channels. Groups lie one after the other where their shapes allow: one call serves them all."""
    stacks = [_joined([batch[name] for name in names], 1) for names in groups]
    counts, alike = [len(stack) for stack in stacks], len({stack.shape[1:] for stack in stacks}) == 1
    stacks = [_joined(stacks, 0)] if alike else stacks
    for change in changes:
        stacks = [change(stack) for stack in stacks]
    stacks = stacks[0].split(counts) if alike else stacks
    for names, stack in zip(groups, stacks, strict=True):
        parts = stack.split([batch[name].shape[1] for name in names], dim=1)
        for name, part in zip(names, parts, strict=True):
            # Channels that lay beside others are brought back into the memory format of the image.
            batch[name] = torch.empty_like(batch[name]).copy_(part) if len(names) > 1 else part


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    return torch.cat(parts, dim) if len(parts) > 1 else parts[0]


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
