"""Structural similarity, of windows at one scale and at several."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from gantk.errors import UserError
from gantk.metrics.pair_metric import MapMetric, PairMetric, region_mean

SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # weights of the scales, from fine to coarse (Wang et al., 2003)
RADIUS, SIGMA = 5, 1.5  # pixels of a window


class SSIM(MapMetric):
    """Structural similarity (Wang et al., 2004) in Gaussian windows of 11 pixels a side, sigma 1.5; 1 for equal images.

    Mean over the windows that lie wholly inside the image, in a region over those whose middle is inside it, and over
    channels; constants 0.01 and 0.03 of the range. Volumes have windows of 11 voxels along all three axes. As
    scikit-image's `structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)`.
    """

    name, unit, higher_is_better = "ssim", "", True

    def expect_size(self, size: Sequence[int]) -> None:
        """UserError for images smaller than a window."""
        _expect_window(self.name, size)

    def _method(self) -> str:
        return f"{super()._method()}/gaussian-11-1.5"

    def _map(self, output: Tensor, truth: Tensor) -> Tensor:
        luminance, structure = similarity_terms(output, truth, self.data_range)
        return luminance[0] * structure[0] / (luminance[1] * structure[1])

    def _seen(self, mask: Tensor | None) -> Tensor | None:
        if mask is not None:
            for axis in range(2, mask.ndim):
                mask = mask.narrow(axis, RADIUS, mask.shape[axis] - 2 * RADIUS)
        return mask


class MSSSIM(PairMetric):
    """Multi-scale structural similarity (Wang et al., 2003, eq. 7): contrast and structure at up to five scales.

    Each scale halves the one before; those at which an image has fewer than 11 pixels a side are left out, and the
    weights of the others scaled to sum to 1. All five need 176 pixels a side. A negative mean counts as 0. It cannot be
    limited to a region: a window of the coarsest scale is 176 pixels wide.
    """

    name, unit, higher_is_better = "ms_ssim", "", True
    in_mask = None

    def expect_size(self, size: Sequence[int]) -> None:
        """UserError for images smaller than a window."""
        _expect_window(self.name, size)

    def _method(self) -> str:
        return f"{super()._method()}/gaussian-11-1.5/up-to-{len(SCALES)}-scales"

    def _score(self, output: Tensor, truth: Tensor, mask: Tensor | None) -> Tensor:
        halves = [min(output.shape[2:]) // 2**scale for scale in range(len(SCALES))]
        count = max(1, sum(side > 2 * RADIUS for side in halves))
        shrink = F.avg_pool2d if self.dims == 2 else F.avg_pool3d
        score = torch.ones(len(output), device=output.device)
        for scale, weight in enumerate(SCALES[:count]):
            luminance, structure = similarity_terms(output, truth, self.data_range)
            found = structure[0] / structure[1]
            if scale == count - 1:
                found = found * luminance[0] / luminance[1]
            score = score * region_mean(found, None).clamp_min(0) ** (weight / sum(SCALES[:count]))
            output, truth = shrink(output, 2), shrink(truth, 2)
        return score


Fraction = tuple[Tensor, Tensor]  # numerator, denominator


def similarity_terms(output: Tensor, truth: Tensor, data_range: float) -> tuple[Fraction, Fraction]:
    """The two factors of every window's similarity: luminance; contrast and structure."""
    maps = torch.stack([output, truth, output.square(), truth.square(), output * truth])
    mean_o, mean_t, mean_oo, mean_tt, mean_ot = window_mean(maps)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    means, products = mean_o.square() + mean_t.square(), mean_o * mean_t
    variances = mean_oo + mean_tt - means
    return (2 * products + c1, means + c1), (2 * (mean_ot - products) + c2, variances + c2)


def _expect_window(name: str, size: Sequence[int]) -> None:
    if min(size) <= 2 * RADIUS:
        sides = " x ".join(map(str, size))
        raise UserError(f"{name} cannot judge images of {sides}", where="data.size", allowed="11 or more a side")


def window_mean(x: Tensor) -> Tensor:
    """Gaussian-weighted mean of every window inside the images (K, N, C, *size), one axis after another."""
    place = torch.arange(-RADIUS, RADIUS + 1)
    kernel = torch.exp(-(place**2) / (2 * SIGMA**2))
    kernel = (kernel / kernel.sum()).tolist()
    for axis in range(3, x.ndim):
        count = x.shape[axis] - 2 * RADIUS
        total = kernel[0] * x.narrow(axis, 0, count)
        for shift, weight in enumerate(kernel[1:], 1):
            total.add_(x.narrow(axis, shift, count), alpha=weight)
        x = total
    return x
