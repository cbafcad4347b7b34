"""Applies a function to translated images and their inputs volume by volume, for post-steps that
need all slices.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

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
    """`changed(output, input)`, each (C, D, H, W), of every volume of `images` (N, C, *size), or of
    the one whose slices they are. UserError, by the post-step's `name`, where there is no input.
    """
    if not isinstance(examples.made_from, Tensor):
        raise UserError(
            f"the post-step '{name}' compares with the input, but images from noise have none",
            where="post",
            remedy="leave this post-step out",
        )

    inputs = examples.made_from.to(images)
    if dims == 2:
        return changed(images.transpose(0, 1), inputs.transpose(0, 1)).transpose(0, 1)
    return torch.stack([changed(*pair) for pair in zip(images, inputs, strict=True)])
