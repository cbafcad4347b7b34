"""Scores of an output against the truth it should be, one number an image, each with its definition.

The data range is the recipe's, the same for every image and every run: a score that divides by an image's own maximum
can be raised by an outlier, and cannot be compared between papers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gantk.errors import UserError

CEILING = 100.0  # dB
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # weights of the scales, from fine to coarse (Wang et al., 2003)


class PairMetric:
    """A score of images (N, C, *size) against their truth: (N,), float32, on the images' device.

    `mask` (N, 1, *size) or (N, C, *size), above 0 inside, limits the score to a region; an image whose mask is empty
    scores nan. Nothing is clipped. UserError where shapes differ.
    """

    name: str
    unit: str
    higher_is_better: bool

    def __init__(self, data_range: float, dims: int):
        if data_range <= 0:
            raise UserError(f"a data range of {data_range:g} cannot be", where="data_range", allowed="above 0")
        self.data_range, self.dims = float(data_range), dims

    @property
    def definition(self) -> str:
        """How the number was made, as it stands beside it; `in_mask` is the same over a mask."""
        return f"{self._method()}/whole-image"

    @property
    def in_mask(self) -> str:
        return f"{self._method()}/mask"

    def __call__(self, output: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
        if output.shape != truth.shape or output.ndim != self.dims + 2:
            shapes = f"{tuple(output.shape)} with {tuple(truth.shape)}"
            raise UserError(f"{self.name} cannot compare {shapes}", allowed=f"two {self.dims}-D (N, C, ...)")
        if mask is not None:
            mask = (mask > 0).expand_as(output)
        with torch.no_grad(), torch.autocast(output.device.type, enabled=False):
            return self._score(output.float(), truth.float(), mask)

    def _method(self) -> str:
        return f"{self.name}/fixed-range-{self.data_range:g}"

    def _score(self, output: Tensor, truth: Tensor, mask: Tensor | None) -> Tensor:
        raise NotImplementedError


class PSNR(PairMetric):
    """Peak signal-to-noise ratio, 10 log10(range^2 / mean square error); never above 100 dB, which equal images get."""

    name, unit, higher_is_better = "psnr", "dB", True

    def _method(self) -> str:
        return f"{super()._method()}/at-most-{CEILING:g}-dB"

    def _score(self, output: Tensor, truth: Tensor, mask: Tensor | None) -> Tensor:
        error = region_mean((output - truth).square(), mask)
        return (10 * torch.log10(self.data_range**2 / error)).clamp_max(CEILING)


class MAE(PairMetric):
    """Mean absolute error, in the intensity units that the images are given in."""

    name, unit, higher_is_better = "mae", "", False

    def _score(self, output: Tensor, truth: Tensor, mask: Tensor | None) -> Tensor:
        return region_mean((output - truth).abs(), mask)


class NRMSE(PairMetric):
    """Root mean square error divided by the data range: 0 for equal images, 1 for black against white."""

    name, unit, higher_is_better = "nrmse", "", False

    def _score(self, output: Tensor, truth: Tensor, mask: Tensor | None) -> Tensor:
        return region_mean((output - truth).square(), mask).sqrt() / self.data_range


class SSIM(PairMetric):
    """Structural similarity (Wang et al., 2004) in Gaussian windows of 11 pixels a side, sigma 1.5; 1 for equal images.

    Mean over the windows that lie wholly inside the image, and over channels; constants 0.01 and 0.03 of the range. As
    scikit-image's `structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)`.
    """

    name, unit, higher_is_better = "ssim", "", True
    radius, sigma = 5, 1.5

    def _method(self) -> str:
        return f"{super()._method()}/gaussian-11-1.5"

    def _score(self, output: Tensor, truth: Tensor, mask: Tensor | None) -> Tensor:
        luminance, structure = self.terms(output, truth)
        similarity = luminance[0] * structure[0] / (luminance[1] * structure[1])
        if mask is not None:
            for axis in range(-self.dims, 0):
                mask = mask.narrow(axis, self.radius, mask.shape[axis] - 2 * self.radius)
        return region_mean(similarity, mask)

    def terms(self, output: Tensor, truth: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """The two factors of every window, each as (numerator, denominator): luminance; contrast and structure."""
        if min(output.shape[2:]) <= 2 * self.radius:
            size = " x ".join(map(str, output.shape[2:]))
            raise UserError(f"ssim cannot judge images of {size}", where="data.size", allowed="11 or more a side")
        maps = torch.stack([output, truth, output.square(), truth.square(), output * truth])
        mean_o, mean_t, mean_oo, mean_tt, mean_ot = self._window_mean(maps)
        c1, c2 = (0.01 * self.data_range) ** 2, (0.03 * self.data_range) ** 2
        means, products = mean_o.square() + mean_t.square(), mean_o * mean_t
        variances = mean_oo + mean_tt - means
        return (2 * products + c1, means + c1), (2 * (mean_ot - products) + c2, variances + c2)

    def _window_mean(self, x: Tensor) -> Tensor:
        """Gaussian-weighted mean of every window inside the image, one axis after another."""
        place = torch.arange(-self.radius, self.radius + 1)
        kernel = torch.exp(-(place**2) / (2 * self.sigma**2))
        kernel = (kernel / kernel.sum()).tolist()
        for axis in range(-self.dims, 0):
            count = x.shape[axis] - 2 * self.radius
            total = kernel[0] * x.narrow(axis, 0, count)
            for shift, weight in enumerate(kernel[1:], 1):
                total.add_(x.narrow(axis, shift, count), alpha=weight)
            x = total
        return x


class MSSSIM(SSIM):
    """Multi-scale structural similarity (Wang et al., 2003, eq. 7): contrast and structure at up to five scales.

    Each scale halves the one before; those at which an image has fewer than 11 pixels a side are left out, and the
    weights of the others scaled to sum to 1. A negative mean counts as 0.
    """

    name = "ms_ssim"

    def _score(self, output: Tensor, truth: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None:
            raise UserError("ms_ssim cannot be limited to a mask: its coarse windows are larger than a lesion")
        halves = [min(output.shape[2:]) // 2**scale for scale in range(len(SCALES))]
        count = max(1, sum(side > 2 * self.radius for side in halves))
        shrink = torch.nn.functional.avg_pool2d if self.dims == 2 else torch.nn.functional.avg_pool3d
        score = torch.ones(len(output), device=output.device)
        for scale, weight in enumerate(SCALES[:count]):
            luminance, structure = self.terms(output, truth)
            found = structure[0] / structure[1]
            if scale == count - 1:
                found = found * luminance[0] / luminance[1]
            score = score * region_mean(found, None).clamp_min(0) ** (weight / sum(SCALES[:count]))
            output, truth = shrink(output, 2), shrink(truth, 2)
        return score


def region_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of each image over all its channels and positions, or those inside the mask: (N,)."""
    if mask is None:
        return values.flatten(1).mean(1)
    return (values * mask).flatten(1).sum(1) / mask.flatten(1).sum(1)
