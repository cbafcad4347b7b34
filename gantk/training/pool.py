"""The image pool: discriminators also see earlier fakes, which damps oscillation between the
networks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gantk.errors import UserError


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

    def _load_from_state_dict(self, *args) -> None:
        super()._load_from_state_dict(*args)
        sides = zip(self.sides.tolist(), self.images.shape[2:], strict=True)
        if not 0 <= int(self.count) <= self.capacity or any(
            not 0 < side <= most for side, most in sides
        ):
            raise UserError(
                "an image pool of the checkpoint holds more images than its size allows",
                where=args[1],
            )

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Exchange images (N, C, *size) with the store, as if one by one; returns as many images.

        Two images may draw the same place in the store. Random numbers come from the global
        generator of the images' device.
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
        batch = len(images)
        capacity = self.capacity
        drawn = torch.randint(2 * capacity, (batch,), device=images.device)
        number = torch.arange(batch, device=images.device)  # of each image in the batch
        full = self.count + number >= capacity
        place = torch.where(full, drawn % capacity, self.count + number)
        exchanged = full & (drawn < capacity)
        bypassing = full ^ exchanged  # returned, and not stored
        stored = store.index_select(0, place)
        returned = written = images  # instead of a stored image; into the store
        # images that draw the same place: a later one gets the one before it, the last one stays
        # there
        if batch > 1:
            # row i: those at image i's place
            rivals = torch.where((place == place[:, None]) & ~bypassing, number, -1)
            before = torch.where(number < number[:, None], rivals, -1).amax(1)
            last = rivals.amax(1)
            returned = images.index_select(
                0, torch.where(exchanged & (before >= 0), before, number)
            )
            written = images.index_select(0, last.clamp(min=0))
            exchanged = exchanged & (before < 0)
            bypassing = last < 0

        def where(condition: Tensor, images: Tensor, others: Tensor) -> Tensor:
            return torch.where(condition.view(-1, *[1] * (images.ndim - 1)), images, others)

        # A place may occur twice: the same value is written each time, so that the order does not
        # matter.
        store.index_copy_(0, place, where(bypassing, stored, written.to(store.dtype)))
        self.count.add_(batch).clamp_(max=capacity)
        return where(exchanged, stored.to(images.dtype), returned)
