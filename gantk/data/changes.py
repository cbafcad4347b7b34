"""Random changes of whole batches, on their device: what belongs together changes together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from gantk.method import Batch


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
