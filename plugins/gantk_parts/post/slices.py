"""Makes the slices of a translated volume consistent: a guided filter across slices, its strength
set by the input.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gantk.plugin.spec import Few, Positive, Share
from gantk.runs.trained import Examples
from gantk_parts.post.volumes import AIR_SHARE, each_volume

HALVINGS = 10  # bisection steps of the search for the strength


class AgreeingSlices:
    """Makes the slices of a translated volume consistent. A 2-D model translates them one by one,
    with independent errors.

    A guided filter (He et al. 2013, equations 5, 6 and 8) runs in windows across slices, guided by
    the input. In each window the result is a linear function of the input, fitted by least squares:
    edges of the input stay, and differences between slices are averaged out. `strength` mixes the
    result with the unfiltered volume. "auto" finds for each volume the smallest strength at which
    it jumps between slices no more than the input. The jump is the mean absolute second difference
    of tissue along the axis, in network intensities.

    `post(images, examples)` takes and returns (N, C, *size) in network intensities. Pictures, and
    volumes of fewer than three slices, are unchanged.
    """

    whole = True  # needs all slices of a volume at once

    def __init__(
        self,
        dims: int,
        range: tuple[float, float],
        *,
        strength: Share | Literal["auto"] = "auto",  # 0: unfiltered, 1: fully filtered
        # number of times each slice is first averaged with its neighbours (weights 1, 2, 1)
        smooth: Few = 0,
        # windows whose input varies by less than this share of the range become their mean
        floor: Positive = 0.01,
    ):
        self.dims = dims
        self.strength = strength
        self.smooth = smooth
        span = range[1] - range[0]
        self.least = (floor * span) ** 2
        self.level = range[0] + AIR_SHARE * span

    def __call__(self, images: Tensor, examples: Examples) -> Tensor:
        """Filter the images volume by volume; UserError where there is no input as the guide."""
        return each_volume(images, examples, self.dims, "slices", self._volume)

    def _volume(self, made: Tensor, given: Tensor) -> Tensor:
        """Filter one volume (C, D, H, W), guided by its input."""
        if made.shape[1] < 3 or self.strength == 0:
            return made

        given = given if len(given) == len(made) else given.mean(0, keepdim=True).expand_as(made)
        filtered = guided_filter(neighbour_mean(made, self.smooth), given, self.least)
        strength = self.strength
        if strength == "auto":
            strength = least_strength(made, filtered, jump(given, self.level), self.level)
        return torch.lerp(made, filtered, strength)


def least_strength(made: Tensor, filtered: Tensor, wanted: float, level: float) -> float:
    """The least share of `filtered` in a mixture with `made` at which the jump is at most `wanted`;
    1 if none is.
    """
    if not jump(made, level) > wanted:
        return 0.0

    low = 0.0
    high = 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if jump(torch.lerp(made, filtered, middle), level) > wanted:
            low = middle
        else:
            high = middle

    return high


def guided_filter(made: Tensor, given: Tensor, least: float) -> Tensor:
    """Guided filter: `made` (C, D, H, W) as a linear function of `given` in windows of 3 a side."""
    guide = window_mean(given)
    output = window_mean(made)
    variance = window_mean(given.square()) - guide.square()
    slope = (window_mean(given * made) - guide * output) / (variance.clamp_min(0) + least)
    return window_mean(slope) * given + window_mean(output - slope * guide)


def neighbour_mean(volume: Tensor, times: int) -> Tensor:
    """Average (C, D, H, W) along D with weights 1/4, 1/2, 1/4, `times` times; the end slices are
    repeated.
    """
    for _ in range(times):
        padded = torch.cat([volume[:, :1], volume, volume[:, -1:]], 1)
        volume = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
    return volume


def window_mean(volume: Tensor) -> Tensor:
    """The mean of (C, D, H, W) in windows of 3 a side; edges are repeated."""
    return F.avg_pool3d(F.pad(volume[None], [1] * 6, mode="replicate"), 3, 1)[0]


def jump(volume: Tensor, level: float) -> float:
    """Mean absolute second difference of (C, D, H, W) along D where the middle value is above
    `level`; else nan.
    """
    return float(volume.diff(2, dim=1).abs()[volume[:, 1:-1] > level].mean())
