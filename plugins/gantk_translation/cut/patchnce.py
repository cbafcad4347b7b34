"""CUT's contrastive loss: each place of a translation should match the same place of its source,
not other places.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gantk.nets.blocks import init_weights


class PatchNCE(nn.Module):
    """The multilayer, patchwise contrastive loss (Park et al., 2020, equations 3 and 4), with its
    heads H_l.

    `nce(queries, keys)` takes the feature maps of outputs and of their sources, each (N, C_l,
    *size_l), 2-D or 3-D, and returns a float32 scalar: the mean over maps, images and places. Each
    map has a head of two linear layers; places are drawn from torch's global generator, the same in
    every image of a batch; negatives are other places of the same image. A map with a single place
    has no negatives and adds 0.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        width: int = 256,
        patches: int = 256,
        temperature: float = 0.07,
    ):
        super().__init__()
        self.patches = patches
        self.temperature = temperature
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(count, width), nn.ReLU(), nn.Linear(width, width))
            for count in channels
        )
        init_weights(self)

    def forward(self, queries: Sequence[Tensor], keys: Sequence[Tensor]) -> Tensor:
        losses = []
        for head, query, key in zip(self.heads, queries, keys, strict=True):
            places = torch.randperm(prod(query.shape[2:]), device=query.device)[: self.patches]
            # before no_grad: autocast caches cast weights, with or without grad
            found = embed(head, query, places)
            with torch.no_grad():  # no gradient through the sources
                wanted = embed(head, key, places)
            losses.append(info_nce(found, wanted, self.temperature))

        return torch.stack(losses).mean()


def embed(head: nn.Module, features: Tensor, places: Tensor) -> Tensor:
    """Apply a head to features (N, C, *size) at S flat pixel indices; returns unit vectors (N, S,
    width), float32.
    """
    flat = features.movedim(1, -1).flatten(1, -2)
    return F.normalize(head(flat[:, places]).float(), dim=-1, eps=1e-7)


def info_nce(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Mean cross-entropy of identifying key s among all S keys of its image by query s; both (N, S,
    D) unit vectors.

    -log(exp(q_s k_s / T) / sum_t exp(q_s k_t / T)): equation 3, in float32 whatever the autocast.
    """
    with torch.autocast(queries.device.type, enabled=False):
        similarity = queries.float() @ keys.float().transpose(1, 2) / temperature
        right = torch.arange(similarity.shape[1], device=similarity.device).expand(
            len(similarity), -1
        )
        return F.cross_entropy(similarity.flatten(0, 1), right.flatten())
