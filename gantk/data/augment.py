"""Augments batches on the device. The bundled augmentations are in plugins/gantk_parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from gantk.method import Batch
from gantk.plugin.spec import Share


@dataclass(eq=False)
class Augmentation:
    """A random change of a batch: `apply` changes every image, and each result is used with
    probability `p`.

    Each image has its own change, the same for all its channels, so that concatenated pairs stay
    registered. Random numbers come only from the global generator of the images' device:
    `torch.manual_seed` repeats them. Nothing is computed on the host and no shape depends on a
    value, so that a CUDA graph can contain every change.
    """

    dims: int
    p: Share = field(default=0.5, kw_only=True)  # share of images
    geometric: ClassVar[bool] = False  # moves pixels: registered images have to move together

    def __call__(self, image: Tensor) -> Tensor:
        """(N, C, *spatial) -> (N, C, *spatial)."""
        left = self.draw(image) >= self.p
        # the result gets the memory format of `image`
        return torch.where(left, image, self.apply(image))

    def apply(self, image: Tensor) -> Tensor:
        """The change, for every image."""
        raise NotImplementedError

    def draw(self, image: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
        """One uniform float32 number for each image, shaped (N, 1, ...) to multiply with it."""
        number = torch.rand(len(image), *[1] * (self.dims + 1), device=image.device)
        return number if (low, high) == (0, 1) else number.mul_(high - low).add_(low)


def augment_batch(batch: Batch, augments: Sequence[Augmentation], paired: bool) -> Batch:
    """The batch after random changes, which are drawn from the global generator of its device.

    A geometric change moves an image, its mask and companions, and the other image of a registered
    pair in the same way. Other changes affect only images. Labels stay.
    """
    images = [
        name for name in batch if batch[name].ndim > 1 and not name.startswith(("mask_", "near_"))
    ]
    moving = [
        [name for name in (image, f"mask_{image}", f"near_{image}") if name in batch]
        for image in images
    ]
    moving = [sum(moving, [])] if paired else moving
    changed = Batch(batch)
    for augment in augments:
        for names in (
            moving if getattr(augment, "geometric", False) else [[name] for name in images]
        ):
            parts = [changed[name] for name in names]
            if len(parts) == 1:
                changed[names[0]] = augment(parts[0])
                continue

            # concatenated as channels they get the same change
            whole = augment(torch.cat(parts, dim=1)).split([part.shape[1] for part in parts], dim=1)
            for name, part, before in zip(names, whole, parts, strict=True):
                # in the memory format of the image
                changed[name] = torch.empty_like(before).copy_(part)

    return changed


def hide_contrasts(batch: Batch, data) -> Batch:
    """The batch with random contrasts set to black, so that a network learns to work without them;
    `data` is the run's.

    Of a domain with several contrasts each image loses, with probability 1/2, a random subset that
    is neither empty nor whole; neighbouring slices lose the same. Paired methods keep their
    targets: only domain a is changed.
    """
    hidden = Batch(batch)
    for name, contrasts in data.contrasts.items():
        count = len(contrasts)
        if count < 2 or name not in batch or (data.paired and name != "a"):
            continue

        image = batch[name]
        rows = len(image)
        device = image.device
        chosen = torch.randint(1, 2**count - 1, (rows, 1), device=device)
        drawn = (torch.rand(rows, 1, device=device) < 0.5) & (
            chosen >> torch.arange(count, device=device) & 1
        ).bool()
        kept = ~drawn.repeat(1, image.shape[1] // count).view(
            *image.shape[:2], *[1] * (image.ndim - 2)
        )
        hidden[name] = torch.where(kept, image, data.range[0])

    return hidden
