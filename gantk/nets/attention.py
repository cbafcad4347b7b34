"""Self-attention: every place of a map looks at every other, however far apart they lie."""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gantk.errors import UserError
from gantk.nets.blocks import conv


class SelfAttention(nn.Module):
    """Adds to every place of a map what it finds at the places that are like it (Zhang et al., 2019, section 3).

    (N, channels, *size) to the same shape: x + gain * o(x), where o weighs the values of all places by the softmax of
    query times key (equation 1) and projects them back to `channels` (equation 2). Queries and keys have channels // 8
    filters, values channels // 2; the gain is learned and starts at 0, so that a new block changes nothing
    (equation 3). Time grows with the square of the number of places: a block stands where the map is small.
    """

    def __init__(self, dims: int, channels: int):
        super().__init__()
        narrow, half = max(1, channels // 8), max(1, channels // 2)
        self.query = conv(dims, channels, narrow, 1, bias=False)
        self.key = conv(dims, channels, narrow, 1, bias=False)
        self.value = conv(dims, channels, half, 1, bias=False)
        self.out = conv(dims, half, channels, 1, bias=False)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (layer(x).flatten(2).mT.unsqueeze(1) for layer in (self.query, self.key, self.value))
        found = F.scaled_dot_product_attention(query, key, value, scale=1.0)  # (N, 1, places, half); no scale there
        return x + self.gain * self.out(found.squeeze(1).mT.unflatten(2, x.shape[2:]))


def check_levels(attention: Collection[int], least: int, most: int, why: str = "") -> None:
    """UserError unless every level (number of halvings) of `attention` lies between `least` and `most`."""
    for level in attention:
        if not least <= level <= most:
            what = f"self-attention cannot stand where the size is halved {level} times"
            raise UserError(what, where="attention", allowed=f"{least} to {most}{why}")
