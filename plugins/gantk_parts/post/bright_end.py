"""Gives translated volumes the bright end of a scan's histogram: fluid, fat, enhancing tissue."""

from __future__ import annotations

import torch
from torch import Tensor

from gantk.errors import UserError
from gantk.plugin.spec import Few, Positive
from gantk.runs.trained import Examples
from gantk_parts.post.volumes import AIR_SHARE, MIN_TISSUE_VOXELS, each_volume

MIN_SLICES = 3  # fewer do not show what is bright in a head
MAX_TISSUE_VOXELS = 1_000_000  # of more an even part is taken
MAX_STRETCH = 4.0  # a volume without anything bright is not stretched to noise
# times the end of the range: the 99.99th percentile of ten scans is at most 2.6 times their 97th
MAX_BRIGHTNESS = 3.0


class BrightEnd:
    """Stretches the brightest tissue of each translated volume to the brightness of a scan.

    A `percentile` of its tissue then lies at the end of the range, where the intensity mapping puts
    that of a scan. A network that is trained with L1 or SSIM draws small bright structures (fluid
    in sulci, enhancing tissue) darker than they are, because it is not sure of their place. The
    histogram of its output ends too early, and whoever scales volumes by a percentile, as viewers
    and scores do, sees all tissue too bright. Values above the percentile `knee` are mapped
    linearly, as the last piece of Nyul's standard scale (Nyul & Udupa 1999), up to
    MAX_BRIGHTNESS times the range; darker ones stay.

    It needs an intensity mapping that takes the same percentile of each scan there, such as
    `{ name = "nyul", foreground = "tissue", percentiles = [97] }`. `post(images, examples)` takes
    and returns (N, C, *size) in network intensities. Pictures, and volumes of fewer than three
    slices or 500 voxels of tissue, are unchanged.
    """

    whole = True  # needs all slices of a volume at once

    def __init__(
        self,
        dims: int,
        range: tuple[float, float],
        *,
        percentile: Positive = 97.0,  # percentile of tissue that comes to the end of the range
        knee: Positive = 90.0,  # percentile of tissue up to which values stay
        channels: tuple[Few, ...] = (),  # numbers of the contrasts to stretch, from 0; (): all
    ):
        if not knee < percentile <= 100:
            raise UserError(
                f"the percentiles knee = {knee:g} and percentile = {percentile:g} are not valid",
                where="post",
                allowed="0 < knee < percentile <= 100",
            )

        self.dims = dims
        self.channels = channels
        self.low, self.high = range
        self.shares = torch.tensor([knee / 100, percentile / 100])

    def __call__(self, images: Tensor, examples: Examples) -> Tensor:
        """Stretch the images volume by volume; UserError where there is no input, or no such
        channel.
        """
        count = images.shape[1]
        beyond = [number for number in self.channels if number >= count]
        if beyond:
            raise UserError(
                f"bright_end names channel {beyond[0]}, but the images have {count}",
                where="post",
                allowed=f"0 to {count - 1}",
            )

        return each_volume(images, examples, self.dims, "bright_end", self._volume)

    def _volume(self, made: Tensor, given: Tensor) -> Tensor:
        """Stretch one volume (C, D, H, W), each channel by itself."""
        if made.shape[1] < MIN_SLICES:
            return made

        stretched = made.clone()
        for number in self.channels or range(len(made)):
            stretched[number] = self._channel(made[number])
        return stretched

    def _channel(self, made: Tensor) -> Tensor:
        """Stretch one contrast of a volume (D, H, W)."""
        air = self.low + AIR_SHARE * (self.high - self.low)
        tissue = made[made > air]
        if len(tissue) < MIN_TISSUE_VOXELS:
            return made

        step = -(-len(tissue) // MAX_TISSUE_VOXELS)
        knee, top = tissue[::step].quantile(self.shares.to(tissue)).tolist()
        if not knee < min(top, self.high):
            return made

        stretch = (self.high - knee) / (top - knee)
        stretch = min(max(stretch, 1 / MAX_STRETCH), MAX_STRETCH)
        limit = self.low + MAX_BRIGHTNESS * (self.high - self.low)
        bright = (knee + stretch * (made - knee)).clamp(max=limit)
        return torch.where(made > knee, bright, made)
