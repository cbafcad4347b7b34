"""Metrics of an output against its reference image: PSNR, SSIM, MAE, RMSE, NRMSE, lesion contrast.

Each returns one number per image, over the whole image or over a region. The data range is the
recipe's, the same for every image and run: a score divided by an image's own maximum can be raised
by an outlier.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gantk.errors import UserError, shape_or_type
from gantk.losses.structure import dilate
from gantk.runs.results import Score

CEILING = 100.0  # dB, the PSNR of equal images
# pixels of SSIM's Gaussian windows
RADIUS = 5
SIGMA = 1.5
RING = 1 / 32  # width of the surroundings of a lesion, as a share of the image's shorter side
# in standard deviations of the reference's tissue: lesions with less contrast there are not scored
MIN_LESION_CONTRAST = 0.5


class Metric:
    """What every metric says of itself: base of `PairMetric` and of `gantk.metrics.sets.SetMetric`."""

    name: str
    definition: str
    unit: str
    higher_is_better: bool | None
    of_sets = False  # whether it compares two sets of images

    def expect_data(self, scorer: Any) -> bool:
        """Whether the metric scores the data of this `gantk.metrics.evaluate.Scorer`, asked before a
        training; UserError where they lack what it needs. Sets have lesion masks if it sets
        `scorer.reals.masks`.
        """
        return True


class PairMetric(Metric):
    """A score of images (N, C, *size) against their references: (N,), float32, on the images'
    device.

    `mask` (N, 1, *size) or (N, C, *size), above 0 inside, limits the score to a region; an image
    whose mask is empty scores nan. Nothing is clipped. UserError if shapes differ.
    """

    smallest = 1  # least side of images in pixels
    in_intensities = False  # whether the score is in the unit of the images' intensities
    # unit of the intensities that it is called with, and of the domains that it scores
    of_unit = ""

    def __init__(self, data_range: float, dims: int):
        if data_range <= 0:
            raise UserError(
                f"a data range of {data_range:g} is not valid",
                where="data_range",
                allowed="above 0",
            )
        self.data_range = float(data_range)
        self.dims = dims
        if self.in_intensities and not self.of_unit:
            self.unit = f"of range {self.data_range:g}"

    @property
    def definition(self) -> str:  # type: ignore[override]
        """How the number is computed, as results state it."""
        return f"{self._method()}/whole-image"

    @property
    def in_mask(self) -> str | None:
        """The definition of the score over a mask; None if it cannot be limited to one."""
        return f"{self._method()}/mask"

    def __call__(self, output: Tensor, reference: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None and self.in_mask is None:
            raise UserError(
                f"the metric '{self.name}' cannot be limited to a mask", where="evaluate.regions"
            )
        (score,) = self.in_regions(output, reference, [mask])
        return score

    def in_regions(
        self, output: Tensor, reference: Tensor, masks: Sequence[Tensor | None]
    ) -> list[Tensor]:
        """The score over each mask (None: the whole image): (N,) each; UserError where a metric
        returns something else.
        """
        if output.shape != reference.shape or output.ndim != self.dims + 2:
            shapes = f"{tuple(output.shape)} with {tuple(reference.shape)}"
            raise UserError(
                f"the metric {self.name} cannot compare {shapes}",
                allowed=f"two {self.dims}-D images (N, C, ...)",
            )
        self.expect_size(output.shape[2:])
        insides = [None if mask is None else (mask > 0).expand_as(output) for mask in masks]
        with torch.no_grad(), torch.autocast(output.device.type, enabled=False):
            found = self._scores(output.float(), reference.float(), insides)
        for scores in found:
            if not isinstance(scores, Tensor) or scores.shape != (len(output),):
                returned = shape_or_type(scores)
                raise UserError(
                    f"the metric '{self.name}' returns {returned} for {len(output)} images",
                    where="evaluate.metrics",
                    allowed="one number per image: (N,)",
                )
        return found

    def expect_size(self, size: Sequence[int]) -> None:
        """Raise a UserError if images of this size cannot be scored."""
        if min(size) < self.smallest:
            raise UserError(
                f"images of {' x '.join(map(str, size))} are too small for the metric {self.name}",
                where="data.size",
                allowed=f"sides of {self.smallest} or more, or other metrics",
            )

    def _method(self) -> str:
        return f"{self.name}/fixed-range-{self.data_range:g}"

    def _scores(
        self, output: Tensor, reference: Tensor, insides: Sequence[Tensor | None]
    ) -> list[Tensor]:
        return [self._score(output, reference, inside) for inside in insides]

    def _score(self, output: Tensor, reference: Tensor, mask: Tensor | None) -> Tensor:
        raise NotImplementedError


class MapMetric(PairMetric):
    """A score computed from the mean of a map: one map serves all regions."""

    def _scores(
        self, output: Tensor, reference: Tensor, insides: Sequence[Tensor | None]
    ) -> list[Tensor]:
        found = self._map(output, reference)
        return [self.of_mean(region_mean(found, self._on_map(inside))) for inside in insides]

    def of_mean(self, mean: Tensor) -> Tensor:
        """The score for a map's mean."""
        return mean

    def _map(self, output: Tensor, reference: Tensor) -> Tensor:
        """The map: squared errors, unless overridden."""
        return (output - reference).square()

    def _on_map(self, mask: Tensor | None) -> Tensor | None:
        """The mask at the positions of the map."""
        return mask


class PSNR(MapMetric):
    """Peak signal-to-noise ratio, 10 log10(range^2 / mean square error), in decibels. Equal images
    get 100 dB.

    The range is that of the recipe, never an image's own maximum.
    """

    name = "psnr"
    unit = "dB"
    higher_is_better = True

    def of_mean(self, mean: Tensor) -> Tensor:
        return (10 * torch.log10(self.data_range**2 / mean)).clamp_max(CEILING)

    def _method(self) -> str:
        return f"{super()._method()}/at-most-{CEILING:g}-dB"


class MAE(MapMetric):
    """Mean absolute error, in network intensities: `0.084 of range 2` is a share of -1 to 1."""

    name = "mae"
    unit = ""
    higher_is_better = False
    in_intensities = True

    def _map(self, output: Tensor, reference: Tensor) -> Tensor:
        return (output - reference).abs()


class RMSE(MapMetric):
    """Root mean square error, in network intensities."""

    name = "rmse"
    unit = ""
    higher_is_better = False
    in_intensities = True

    def of_mean(self, mean: Tensor) -> Tensor:
        return mean.sqrt()


class NRMSE(RMSE):
    """Root mean square error divided by the recipe's data range. 0 for equal images, 1 for a black
    and a white image.
    """

    name = "nrmse"
    in_intensities = False

    def of_mean(self, mean: Tensor) -> Tensor:
        return mean.sqrt() / self.data_range


class SSIM(MapMetric):
    """Structural similarity (Wang et al., 2004) in Gaussian windows of 11 pixels a side, sigma 1.5.
    1 for equal images.

    It is the mean over channels and over windows that are wholly inside the image (for a region:
    whose centre is inside the region). The constants are 0.01 and 0.03 of the range. Volumes have
    windows of 11 voxels along all three axes. It is equal to scikit-image's
    `structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)`.
    """

    name = "ssim"
    unit = ""
    higher_is_better = True
    smallest = 2 * RADIUS + 1

    def _method(self) -> str:
        return f"{super()._method()}/gaussian-11-1.5"

    def _map(self, output: Tensor, reference: Tensor) -> Tensor:
        return torch.cat(list(map(self._map_of_one, output.split(1), reference.split(1))))

    def _map_of_one(self, output: Tensor, reference: Tensor) -> Tensor:
        """The map of one image: its windows stay in the cache of a CPU."""
        luminance, structure = similarity_terms(output, reference, self.data_range)
        return luminance[0] * structure[0] / (luminance[1] * structure[1])

    def _on_map(self, mask: Tensor | None) -> Tensor | None:
        if mask is None:
            return None
        for axis in range(-self.dims, 0):
            mask = mask.narrow(axis, RADIUS, mask.shape[axis] - 2 * RADIUS)
        return mask


class LesionContrast(PairMetric):
    """Lesion contrast of the output as a share of the contrast in the reference: 1 = kept, 0 =
    gone, -1 = inverted.

    The contrast is the lesion's mean minus that of the tissue around it, in a ring as wide as a
    thirty-second of the image's shorter side. Holes of the mask, such as a necrotic core that it leaves
    out, are neither. `in_regions` takes the mask of the lesion and, so that no air counts, that of tissue. With several channels it is the least-squares factor from the
    reference's contrasts to the output's. An image without a lesion, or with a lesion that is hardly
    visible in the reference (contrast below half a standard deviation of the tissue), scores nan.
    """

    name = "lesion_contrast"
    unit = ""
    higher_is_better = None
    in_mask = f"{name}/ring-of-tissue-outside-the-filled-mask-of-{RING:g}-of-the-side/output-over-truth/seen-above-{MIN_LESION_CONTRAST:g}-deviations-of-tissue"

    def _scores(
        self, output: Tensor, reference: Tensor, masks: Sequence[Tensor | None]
    ) -> list[Tensor]:
        mask, *tissue = masks
        if mask is None:
            raise UserError(
                f"the metric '{self.name}' needs lesion masks", where="evaluate.metrics"
            )

        inside = mask[:, :1]
        width = max(1, round(RING * min(output.shape[-2:])))
        seen = torch.ones_like(inside)
        for each in tissue:
            if each is not None:
                seen = seen & each[:, :1]
        ring = (dilate(inside.float(), width) > 0) & ~_without_holes(inside) & seen

        made = _channel_means(output, inside) - _channel_means(output, ring)
        real = _channel_means(reference, inside) - _channel_means(reference, ring)
        factor = (made * real).sum(1) / real.square().sum(1)
        mean = _channel_means(reference, seen).reshape(*real.shape, *[1] * self.dims)
        deviation = _channel_means((reference - mean).square(), seen).sqrt()
        is_hidden = (real.abs() < MIN_LESION_CONTRAST * deviation).all(1)
        return [torch.where(is_hidden, torch.nan, factor)]

    @staticmethod
    def verdict(score: Score) -> str:
        """`inverted` or `too faint`, where a model loses contrast in all likelihood; else ""."""
        highest = score.ends[1] if score.ends else score.value
        if highest is None or highest >= 1:
            return ""
        return "inverted" if highest < 0 else "too faint"

    @classmethod
    def result(cls, score: Score, figures: str) -> str:
        """What a model with a verdict does to lesions, in words."""
        if cls.verdict(score) == "inverted":
            return f"inverts lesions: dark ones are bright, or the reverse ({figures} of their contrast, where 1 is all)"
        return f"shows lesions too faint: it keeps {figures} of their contrast, where 1 is all"


def _without_holes(masks: Tensor) -> Tensor:
    """Masks (N, 1, *size) with what each encloses."""
    from scipy.ndimage import binary_fill_holes, generate_binary_structure  # slow import

    faces = generate_binary_structure(masks.ndim - 2, 1)[None, None]  # of one mask
    return torch.from_numpy(binary_fill_holes(masks.cpu().numpy(), faces)).to(masks.device)


def _channel_means(images: Tensor, mask: Tensor) -> Tensor:
    """The mean of each channel of images inside a mask (N, 1, *size): (N, C)."""
    return torch.where(mask, images, 0).flatten(2).sum(2) / mask.flatten(2).sum(2).float()


Fraction = tuple[Tensor, Tensor]  # numerator, denominator


def similarity_terms(
    output: Tensor, reference: Tensor, data_range: float
) -> tuple[Fraction, Fraction]:
    """The two factors of every window's similarity: luminance; contrast and structure."""
    maps = torch.stack([output, reference, output.square(), reference.square(), output * reference])
    mean_o, mean_r, mean_oo, mean_rr, mean_or = _window_mean(maps)
    c1 = (0.01 * data_range) ** 2
    c2 = (0.03 * data_range) ** 2
    means = mean_o.square() + mean_r.square()
    products = mean_o * mean_r
    variances = mean_oo + mean_rr - means
    return (2 * products + c1, means + c1), (2 * (mean_or - products) + c2, variances + c2)


def _window_mean(x: Tensor) -> Tensor:
    """Gaussian-weighted mean of every window inside the images (K, N, C, *size), one axis after
    another.
    """
    gaussian = torch.exp(-(torch.arange(-RADIUS, RADIUS + 1) ** 2) / (2 * SIGMA**2))
    kernel = (gaussian / gaussian.sum()).tolist()
    for axis in range(3, x.ndim):
        count = x.shape[axis] - 2 * RADIUS
        total = kernel[0] * x.narrow(axis, 0, count)
        for shift, weight in enumerate(kernel[1:], 1):
            total.add_(x.narrow(axis, shift, count), alpha=weight)
        x = total

    return x


def region_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of each image over all its values, or over those inside the mask: (N,)."""
    if mask is None:
        return values.flatten(1).mean(1)
    return torch.where(mask, values, 0).flatten(1).sum(1) / mask.flatten(1).sum(1).float()
