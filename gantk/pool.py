"""The image pool: discriminators are shown earlier fakes too, which keeps the two players from circling."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, *size) in, as many out; random choices come from torch's global generator."""
        if self.capacity == 0:
            return images
        given = images.clone()
        corner = (slice(None), slice(None), *(slice(side) for side in images.shape[2:]))
        store = self.images[corner]
        for i, image in enumerate(images):  # one at a time: two images of a batch may meet the same place
            full = self.count >= self.capacity
            chosen = torch.randint(self.capacity, (), device=images.device)
            place = torch.where(full, chosen, self.count.clamp(max=self.capacity - 1))
            stored = store.index_select(0, place[None])[0].to(image.dtype)
            exchange = full & (torch.rand((), device=images.device) < 0.5)
            given[i] = torch.where(exchange, stored, image)
            kept = torch.where(exchange | ~full, image, stored)
            store.index_copy_(0, place[None], kept[None].to(store.dtype))
            self.count += (~full).long()
        return given
