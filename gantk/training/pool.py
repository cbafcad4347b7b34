"""The image pool: discriminators also see earlier fakes, which damps oscillation between the
networks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ImagePool(nn.Module):
    """A store of earlier fakes (Shrivastava et al. 2017, section 2.3; 50 images in Zhu et al.
    2017).

    Until the store is full, every image is stored and returned. Afterwards each image is exchanged
    for a random stored one with probability one half. The store is a buffer, so a resumed run
    continues with the same fakes.
    """

    images: Tensor  # (capacity, channels, *size)
    count: Tensor  # how many are stored
    sides: Tensor  # of the images inside, which may be smaller than the store

    def __init__(self, capacity: int, channels: int, size: tuple[int, ...]):
        super().__init__()
        self.capacity = capacity
        self.register_buffer("images", torch.zeros(capacity, channels, *size))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("sides", torch.tensor(size))

    def expect(self, size: tuple[int, ...]) -> None:
        """Set the size of the next images. Stored images of another size are dropped."""
        if self.sides.tolist() != list(size):
            self.sides.copy_(torch.tensor(size))
            self.count.zero_()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Exchange images (N, C, *size) with the store, as if one by one; returns as many images.

        Random numbers come from the global generator of the images' device.
        """
        if self.capacity == 0:
            return images

        inside: list[slice] = [slice(side) for side in images.shape[2:]]
        store = self.images[(slice(None), slice(None), *inside)]
        if self.images.is_contiguous():
            return self._exchange(images, store)

        # With channels-last memory, moving the channels to the last axis lets whole rows be copied.
        return self._exchange(images.movedim(1, -1), store.movedim(1, -1)).movedim(-1, 1)

    def _exchange(self, images: Tensor, store: Tensor) -> Tensor:
        """`forward` for images and store of one memory format, without a synchronisation; changes
        the store.
        """
        drawn = torch.randint(2 * self.capacity, (len(images),), device=images.device)
        returned = []
        for image, number in zip(images.split(1), drawn.split(1), strict=True):
            full = self.count >= self.capacity
            exchanged = full & (number < self.capacity)
            place = torch.where(full, number % self.capacity, self.count)
            stored = store.index_select(0, place)
            kept = torch.where(full & ~exchanged, stored, image.to(store.dtype))
            store.index_copy_(0, place, kept)
            returned.append(torch.where(exchanged, stored.to(image.dtype), image))
            self.count.add_(1).clamp_(max=self.capacity)
        return torch.cat(returned)
