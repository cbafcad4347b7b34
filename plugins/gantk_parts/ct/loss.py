"""A loss for MR to CT, whose tissues differ in order of brightness: any function of the source's
intensity is free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gantk.losses.structure import comparable, dilate
from gantk.plugin.spec import Positive, Weight

MIN_FLUID_SIDE = 64  # pixels of a side at which `fluid` applies: not in the half-size steps
TISSUE = (0.1, 0.85)  # soft tissue in the source: between these shares of the range
RIM = 2  # pixels around a pixel that are soft tissue too
FLOOR = 0.003  # deviations below this share of the range count as zero
BINS = 16  # bins of the source's intensity; the function is linear between their centres


@dataclass(kw_only=True, eq=False)
class CorrelationRatio:
    """1 - correlation ratio (Roche et al., 1998): the share of the output's variance that is not a
    function of the source.

    0 is best. Only pixels whose window in the source is soft tissue count, because bone and air are
    equally dark in MR. Local NCC assumes a linear function; here any function is allowed. (White
    matter is the brightest tissue in T1, but lies between fluid and gray matter in CT.)

    `fluid` adds a penalty: 0.5 minus the correlation of the output with the squared distance below
    the source's mean, which fluid dominates. Without it, networks that make dark bone bright also
    make fluid bright. The penalty does not apply in the half-size steps of `low_res_warmup`: before
    the skull is learnt, it would invert the skull.
    """

    takes = "source"

    weight: Weight = 0.5  # weight of the loss
    # brightness that the source's darkest tissue has in the output
    fluid: Literal["any", "dark", "bright"] = "dark"
    data_range: Positive = 2.0  # width of the intensity range, 2 for [-1, 1]
    black: float = -1.0  # intensity of air

    def __call__(self, output: Tensor, source: Tensor) -> Tensor:
        output, source = comparable(output, source)
        least = (FLOOR * self.data_range) ** 2
        low, high = TISSUE
        place = ((source - self.black) / self.data_range - low) / (high - low)
        outside = ((place < 0) | (place > 1)).float()
        inside = (dilate(outside, RIM) == 0).float().flatten(1)
        place = place.flatten(1)
        values = output.flatten(1)
        count = inside.sum(1, keepdim=True).clamp_min(1)

        def mean(x: Tensor) -> Tensor:  # over the tissue, (N, 1)
            return (inside * x).sum(1, keepdim=True) / count

        levels = torch.arange(BINS, device=source.device)
        near = (1 - (place[..., None] * (BINS - 1) - levels).abs()).clamp_min(0) * inside[..., None]
        means = torch.einsum("npk,np->nk", near, values) / near.sum(1).clamp_min(1e-6)
        function = torch.einsum("npk,nk->np", near, means)
        apart = values - mean(values)
        whole = mean(apart.square()) + least
        loss = (mean((values - function).square()) + least) / whole
        if self.fluid != "any" and min(source.shape[2:]) >= MIN_FLUID_SIDE:
            below = (mean(place) - place).clamp_min(0).square()
            below = below - mean(below)
            correlation = mean(below * apart) / (mean(below.square()) * whole + 1e-12).sqrt()
            if self.fluid == "bright":
                correlation = -correlation
            loss = loss + (0.5 + correlation).clamp_min(0)

        return self.weight * loss.mean()
