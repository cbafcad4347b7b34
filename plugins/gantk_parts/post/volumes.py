"""Applies a function to translated images and their inputs volume by volume, for post-steps that
need all slices.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

import torch
from torch import Tensor

from gantk import Record
from gantk.errors import UserError
from gantk.runs.trained import Examples

AIR_SHARE = 0.05  # share of the range up to which a voxel is air
MIN_TISSUE_VOXELS = 500  # volumes with fewer voxels of tissue are left alone


def each_volume(
    images: Tensor,
    examples: Examples,
    dims: int,
    name: str,
    changed: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """`changed(output, input)`, each (C, D, H, W), of every volume of `images` (N, C, *size), in
    the images' order.

    Pictures without a position are volumes of one slice. UserError, by the post-step's `name`,
    where there is no input.
    """
    if not isinstance(examples.made_from, Tensor):
        what = f"the post-step '{name}' compares with the input, but images from noise have none"
        raise UserError(what, where="post", remedy="leave this post-step out")

    inputs = examples.made_from.to(images)
    if dims == 3:
        return torch.stack([changed(*pair) for pair in zip(images, inputs, strict=True)])

    spots = list(map(spot, examples.records)) or [("", number) for number in range(len(images))]
    done = images.clone()
    order = sorted(range(len(images)), key=spots.__getitem__)
    for _, group in groupby(order, key=lambda number: spots[number][0]):
        places = list(group)
        volume = images[places].transpose(0, 1)
        given = inputs[places].transpose(0, 1)
        done[places] = changed(volume, given).transpose(0, 1)

    return done


def spot(record: Record) -> tuple[str, float]:
    """Volume and slice position of a record; a record without a position counts as a volume."""
    if record.position is None:
        return record.key, 0.0
    return f"{record.subject}/{record.scan_key or record.key.rpartition('/')[0]}", record.position
