"""The image pool: discriminators see earlier fakes too, which damps oscillation between the two networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gantk.errors import UserError


class ImagePool(nn.Module):
    """A store of earlier fakes (Shrivastava et al. 2017, section 2.3; 50 images in Zhu et al. 2017).

    Until it is full every image is stored and returned; then each image is, with probability one half, exchanged for a
    random stored one. The store is a buffer, so that a resumed run continues with the same fakes.
    """

    def __init__(self, capacity: int, channels: int, size: tuple[int, ...]):
        super().__init__()
        self.capacity = capacity
        self.register_buffer("images", torch.zeros(capacity, channels, *size))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("sides", torch.tensor(size))  # of the images inside, which may be smaller than the store

    def expect(self, size: tuple[int, ...]) -> None:
        """Set the size of the next images; stored images of another size are dropped."""
        if self.sides.tolist() != list(size):
            self.sides.copy_(torch.tensor(size))
            self.count.zero_()

    def _load_from_state_dict(self, *args) -> None:
        super()._load_from_state_dict(*args)
        sides = zip(self.sides.tolist(), self.images.shape[2:], strict=True)
        if not 0 <= int(self.count) <= self.capacity or any(not 0 < side <= most for side, most in sides):
            raise UserError("an image pool of the checkpoint holds more than fits", where=args[1])

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Exchange images (N, C, *size) with the store as if one by one; returns as many. Two may draw the same place.

        Random choices come from the global generator of the images' device.
        """
        if self.capacity == 0:
            return images
        store = self.images[(slice(None), slice(None), *(slice(side) for side in images.shape[2:]))]
        if self.images.is_contiguous():
            return self._exchange(images, store)
        # With channels-last memory, moving the channels to the last axis lets whole rows be copied.
        return self._exchange(images.movedim(1, -1), store.movedim(1, -1)).movedim(-1, 1)

    def _exchange(self, images: Tensor, store: Tensor) -> Tensor:
        batch, capacity = len(images), self.capacity
        drawn = torch.randint(2 * capacity, (batch,), device=images.device)  # below capacity: the place to exchange
        order = torch.arange(batch, device=images.device)
        full = self.count + order >= capacity
        place = torch.where(full, drawn % capacity, self.count + order)
        exchanged = full & (drawn < capacity)
        passed = full ^ exchanged  # returned, and not stored
        stored = store.index_select(0, place)
        given = kept = images
        if batch > 1:
            met = (place == place[:, None]) & ~passed  # row i: images stored at image i's place
            met = torch.where(met, order, -1)
            before, last = torch.where(order < order[:, None], met, -1).amax(1), met.amax(1)
            given = images.index_select(0, torch.where(exchanged & (before >= 0), before, order))
            kept = images.index_select(0, last.clamp(min=0))
            exchanged, passed = exchanged & (before < 0), last < 0

        def either(chosen: Tensor, one: Tensor, other: Tensor) -> Tensor:
            return torch.where(chosen.view(-1, *[1] * (one.ndim - 1)), one, other)

        # A place may occur twice: the same value is written each time, so that the order does not matter.
        store.index_copy_(0, place, either(passed, stored, kept.to(store.dtype)))
        self.count.add_(batch).clamp_(max=capacity)
        return either(exchanged, stored.to(images.dtype), given)
