"""MS-SSIM, a metric of pairs, with which the diversity of a set is measured too."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gantk.metrics.pairs import RADIUS, PairMetric, region_mean, similarity_terms

# weights of MS-SSIM's scales, fine to coarse (Wang et al., 2003)
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


class MSSSIM(PairMetric):
    """Multi-scale structural similarity (Wang et al., 2003, eq. 7): contrast and structure at up to
    five scales.

    Each scale halves the image of the previous one. Scales at which a side has fewer than 11 pixels
    are left out, and the weights of the others are scaled to sum to 1. All five scales need sides
    of 176 pixels. A negative mean counts as 0. There is no score of a region, because a window of
    the coarsest scale is 176 pixels wide.
    """

    name = "ms_ssim"
    unit = ""
    higher_is_better = True
    in_mask = None
    smallest = 2 * RADIUS + 1

    def _method(self) -> str:
        return f"{super()._method()}/gaussian-11-1.5/up-to-{len(SCALES)}-scales"

    def _score(self, output: Tensor, reference: Tensor, mask: Tensor | None) -> Tensor:
        shortest = min(output.shape[2:])
        fitting = sum(shortest // 2**scale >= self.smallest for scale in range(len(SCALES)))
        weights = SCALES[: max(1, fitting)]
        total_weight = sum(weights)
        shrink = F.avg_pool2d if self.dims == 2 else F.avg_pool3d
        score = torch.ones(len(output), device=output.device)
        for scale, weight in enumerate(weights):
            luminance, structure = similarity_terms(output, reference, self.data_range)
            similarity = structure[0] / structure[1]
            if scale == len(weights) - 1:
                similarity = similarity * luminance[0] / luminance[1]

            mean = region_mean(similarity, None).clamp_min(0)
            score = score * mean ** (weight / total_weight)
            output = shrink(output, 2)
            reference = shrink(reference, 2)

        return score
