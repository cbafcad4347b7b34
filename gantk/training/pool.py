"""The image pool: discriminators are shown earlier fakes too, which keeps the two players from circling."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gantk.errors import UserError


class ImagePool(nn.Module):
    """A store of earlier fakes (Shrivastava et al. 2017, section 2.3; 50 images in Zhu et al. 2017).

    Until it is full every image is stored and returned; then each image is, with probability one half, exchanged for a
    random stored one. It is a buffer of the method, so that a resumed run goes on with the same fakes.
    """

    def __init__(self, capacity: int, channels: int, size: tuple[int, ...]):
        super().__init__()
        self.capacity = capacity
        self.register_buffer("images", torch.zeros(capacity, channels, *size))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("sides", torch.tensor(size))  # of the images inside, which may be smaller than the store

    def expect(self, size: tuple[int, ...]) -> None:
        """Images of this size come from now on; stored ones of another size are forgotten."""
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
        """Images (N, C, *size) in, as many out, as if they came one by one: two of a batch may meet at one place.

        Random choices come from the global generator of the images' device.
        """
        if self.capacity == 0:
            return images
        store = self.images[(slice(None), slice(None), *(slice(side) for side in images.shape[2:]))]
        if self.images.is_contiguous():
            return self._exchange(images, store)
        # Channels-last memory is copied in whole rows where the channels are the last axis too.
        return self._exchange(images.movedim(1, -1), store.movedim(1, -1)).movedim(-1, 1)

    def _exchange(self, images: Tensor, store: Tensor) -> Tensor:
        batch, capacity = len(images), self.capacity
        drawn = torch.randint(2 * capacity, (batch,), device=images.device)  # heads: a place; tails: none
        order = torch.arange(batch, device=images.device)
        full = self.count + order >= capacity
        place = torch.where(full, drawn % capacity, self.count + order)
        exchanged = full & (drawn < capacity)
        passed = full ^ exchanged  # given back, and not stored
        stored = store.index_select(0, place)
        given = kept = images
        if batch > 1:
            met = (place == place[:, None]) & ~passed  # row i: the images that are put where image i looks
            met = torch.where(met, order, -1)
            before, last = torch.where(order < order[:, None], met, -1).amax(1), met.amax(1)
            given = images.index_select(0, torch.where(exchanged & (before >= 0), before, order))
            kept = images.index_select(0, last.clamp(min=0))
            exchanged, passed = exchanged & (before < 0), last < 0

        def either(chosen: Tensor, one: Tensor, other: Tensor) -> Tensor:
            return torch.where(chosen.view(-1, *[1] * (one.ndim - 1)), one, other)

        # Places may repeat; then the same is written there each time, so that the order does not matter.
        store.index_copy_(0, place, either(passed, stored, kept.to(store.dtype)))
        self.count.add_(batch).clamp_(max=capacity)
        return either(exchanged, stored.to(images.dtype), given)
