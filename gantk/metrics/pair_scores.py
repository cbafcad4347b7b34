"""Scores of outputs against references: by metric and region, before and after a linear correction.
And the baselines that a model must beat: identity, histogram matching, and the best intensity map;
plugins register others.

A baseline takes images (N, C, *size) and returns images, so that every metric scores it as it
scores a model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gantk.errors import UserError
from gantk.metrics.intervals import estimate, mean_score, metric_score
from gantk.metrics.names import FOREGROUND, LESION, SUFFIXES
from gantk.metrics.pairs import LesionContrast, MapMetric, PairMetric
from gantk.runs.results import Score

NOTHING = Score(value=None, ci95=None, n=0)
QUANTILES = 4096  # of a domain's pooled intensities
BINS = 256  # of the intensity map
PIXELS = 2**16  # at most of each training image, for the intensity map
TISSUE = "foreground-above-{}-of-range-in-truth-or-source"


@dataclass(frozen=True)
class References:
    """The true images (N, C, *size) for outputs, their patients, and, if known, masks and units."""

    images: Tensor
    patients: list[str]
    masks: Tensor | None = None  # of lesions (N, 1, *size)
    foreground: Tensor | None = None  # not air (N, 1, *size)
    units: Any = None  # the intensities of the files, see gantk.metrics.references.Units
    above: str = ""  # the share(s) of the range above which pixels are `foreground`


@dataclass(frozen=True)
class ImageScores:
    """The scores of a model or baseline, one number per image: (kind, row) -> (N,).

    Kinds: "raw", and "corrected" by the best linear map.
    """

    values: dict[tuple[str, str], np.ndarray]
    patients: list[str]
    finite: np.ndarray  # (N,) whether all values of an output are finite
    above: str = ""  # of the references

    @property
    def raw(self) -> dict[str, np.ndarray]:
        """One score per image, by name."""
        return {name: values for (kind, name), values in self.values.items() if kind == "raw"}

    def trouble(self, row: str) -> str | None:
        """The reason why a row has no value although its images could be scored; None if it has a
        value.
        """
        count = len(self.finite)
        broken = int((~self.finite).sum())
        infinite = int(np.isinf(self.values["raw", row]).sum())
        if broken:
            return f"{broken} of {count} outputs contain NaN or infinite values"
        return f"{infinite} of {count} images have an infinite score" if infinite else None


def concatenate_scores(parts: Sequence[ImageScores]) -> ImageScores:
    """Concatenate the scores of several calls."""
    values = {}
    for key in parts[0].values:
        values[key] = np.concatenate([part.values[key] for part in parts])

    return ImageScores(
        values,
        patients=list(chain.from_iterable(part.patients for part in parts)),
        finite=np.concatenate([part.finite for part in parts]),
    )


def too_small_for(
    metrics: Sequence[PairMetric], sizes: Collection[tuple[int, ...]]
) -> dict[str, Score]:
    """Scores without a value, by metric, for those that cannot score images of all sizes: SSIM needs
    11 pixels on each side. Their definitions state the reason.
    """
    rows = {}
    for metric in metrics:
        try:
            for size in sorted(sizes):
                metric.expect_size(size)
        except UserError as error:
            reason = f"{error.what}, which needs {metric.smallest} pixels on each side"
            definition = f"{metric.definition}/not-computed: {reason}"
            rows[metric.name] = metric_score(metric, NOTHING, 0, definition)

    return rows


class PairScorer:
    """Scores outputs against their references by every pair metric, in every region that is known
    and selected.

    Computes on `device` and returns numbers on the CPU. UserError if a metric has no region to be
    scored in.
    """

    def __init__(
        self,
        metrics: Sequence[PairMetric],
        low: float,
        data_range: float,
        dims: int,
        batch: int,
        device: Any,
        regions: Sequence[str] = tuple(SUFFIXES),
    ):
        self.metrics = list(metrics)
        self.low = low
        self.dims = dims
        self.batch = batch
        self.device = device
        self.suffixes = [suffix for region, suffix in SUFFIXES.items() if region in regions]
        whole_only = [metric.name for metric in self.metrics if not metric.in_mask]
        if not self.suffixes or (whole_only and "" not in self.suffixes):
            if whole_only:
                what = f"the metric '{whole_only[0]}' cannot be limited to a region"
            else:
                what = "evaluate.regions names no region"
            raise UserError(
                what, where="evaluate.regions", allowed=list(SUFFIXES), remedy='add "whole"'
            )

        self.rows_of: dict[str, tuple[PairMetric, str]] = {}  # row -> its metric and region
        for suffix in self.suffixes:
            for metric in self.metrics:
                if not suffix or metric.name not in whole_only:
                    self.rows_of[metric.name + suffix] = (metric, suffix)

        self.contrast = LesionContrast(data_range, dims)
        if LESION in self.suffixes and len(whole_only) < len(self.metrics):
            self.rows_of[self.contrast.name] = (self.contrast, LESION)

        self.senses = {name: metric.higher_is_better for name, (metric, _) in self.rows_of.items()}

    def __call__(self, output: Tensor, references: References) -> ImageScores:
        """Compute all scores of outputs (N, C, *size) in network intensities."""
        found: dict[tuple[str, str], list[Tensor]] = defaultdict(list)
        finite = []
        for first in range(0, len(output), self.batch):
            part = slice(first, first + self.batch)
            made = output[part].to(self.device)
            finite.append(made.isfinite().flatten(1).all(1))
            for key, scores in self._scores_of_batch(made, references, part):
                found[key].append(scores)

        values = {key: torch.cat(parts).cpu().double().numpy() for key, parts in found.items()}
        all_finite = torch.cat(finite).cpu().numpy()
        return ImageScores(values, references.patients, all_finite, references.above)

    def _scores_of_batch(
        self, made: Tensor, references: References, part: slice
    ) -> Iterator[tuple[tuple[str, str], Tensor]]:
        """Yield the scores (n,) of some images by their kind and row."""
        real = references.images[part].to(self.device)
        masks: dict[str, Tensor | None] = {}
        known = {"": None, FOREGROUND: references.foreground, LESION: references.masks}
        for suffix in self.suffixes:
            mask = known[suffix]
            if mask is not None:
                masks[suffix] = mask[part].to(self.device)
            elif not suffix:
                masks[suffix] = None

        units = references.units
        if units is not None and any(metric.of_unit == units.name for metric in self.metrics):
            native_made = units.native(made, part.start)
            native_real = units.native(real, part.start)
            yield from self._scores("raw", native_made, native_real, masks, units.name)

        # Metrics count from black: SSIM's luminance term means nothing where intensities change
        # sign.
        made = made - self.low
        real = real - self.low
        yield from self._scores("raw", made, real, masks)
        if self.contrast.name in self.rows_of and LESION in masks:
            yield ("raw", self.contrast.name), self.contrast(made, real, masks[LESION])

        # a line that also had to fit the head would lift the air, of which SSIM then sees nothing
        # but the offset
        inside = references.foreground
        if inside is None:
            corrected = linearly_corrected(made, real)
        else:
            inside = inside[part].to(self.device)
            corrected = torch.where(inside, linearly_corrected(made, real, inside), made)
        for suffix, mask in masks.items():
            if suffix != LESION:
                yield from self._scores("corrected", corrected, real, {suffix: mask})

    def _scores(
        self,
        kind: str,
        made: Tensor,
        real: Tensor,
        masks: dict[str, Tensor | None],
        unit: str = "",
    ) -> Iterator[tuple[tuple[str, str], Tensor]]:
        """Yield the scores by every metric of this unit and in every region."""
        for metric in self.metrics:
            if metric.of_unit != unit:
                continue

            regions = {
                suffix: mask for suffix, mask in masks.items() if not suffix or metric.in_mask
            }
            if isinstance(metric, MapMetric):  # one map serves all regions
                means = metric.means(made, real, [*regions.values()])
                for suffix, mean in zip(regions, means, strict=True):
                    yield (kind, metric.name + suffix), metric.of_mean(mean)
            else:
                for suffix, mask in regions.items():
                    yield (kind, metric.name + suffix), _one_per_image(metric, made, real, mask)

    def scores(self, scores: ImageScores) -> dict[str, Score]:
        """The scores over all images, by name."""
        return {
            name: self._score(name, scores)
            for name in self.rows_of
            if ("raw", name) in scores.values
        }

    def _score(self, name: str, scores: ImageScores) -> Score:
        metric, suffix = self.rows_of[name]
        patients = scores.patients
        definition = (metric.in_mask if suffix else "") or metric.definition
        if suffix == FOREGROUND:
            definition = f"{definition.removesuffix('/mask')}/{TISSUE.format(scores.above)}"

        trouble = scores.trouble(name)
        if trouble:
            return metric_score(metric, NOTHING, 0, f"{definition}/not-computed: {trouble}")

        raw = scores.values["raw", name]
        count = int((~np.isnan(raw)).sum())
        gap = None
        if ("corrected", name) in scores.values:
            gap = mean_score(scores.values["corrected", name], patients)

        return metric_score(metric, estimate(raw, patients), count, definition, gap)


def _one_per_image(metric: PairMetric, made: Tensor, real: Tensor, mask: Tensor | None) -> Tensor:
    """The scores (n,) of images by a metric; UserError where it returns something else."""
    scores = metric(made, real) if mask is None else metric(made, real, mask)
    if scores.shape != (len(made),):
        raise UserError(
            f"the metric '{metric.name}' returns {tuple(scores.shape)} for {len(made)} images",
            where="evaluate.metrics",
            allowed="one number per image: (N,)",
        )
    return scores


def foreground(*images: tuple[Tensor, Sequence[float]]) -> Tensor:
    """Mask (N, 1, *size) of pixels where any of the images (N, C, *size) is above air: each may
    show some tissue black.

    Each image comes with its `tissue` level, the intensity above which it is not air: one for all
    channels or one each.
    """
    inside = []
    for image, tissue in images:
        levels = torch.tensor(tissue, dtype=image.dtype, device=image.device)
        levels = levels.reshape(-1, *[1] * (image.ndim - 2))
        inside.append((image > levels).any(1, keepdim=True))

    return torch.stack(inside).any(0)


def identity(source: Tensor, channels: int | None = None) -> Tensor:
    """The source itself, unchanged; if the channel counts differ, its channel mean, repeated."""
    if channels in (None, source.shape[1]):
        return source
    return source.mean(1, keepdim=True).expand(-1, channels, *source.shape[2:])


class HistogramMatching:
    """Maps each image to the intensity distribution of the target domain's training images. It
    needs no pairs.

    Pixels keep their order by brightness: the pixel at quantile q gets the target domain's pooled
    quantile q. Pixels of equal value, such as air, get the quantile at the middle of their ranks,
    so that they stay equal.
    """

    def __init__(self, target: Iterable[Tensor]):
        """`target`: the target domain's training images, (C, *size) each, one or more."""
        self.levels = np.linspace(0, 1, QUANTILES)
        # The same number of quantiles from each image, whatever its size: each image has the same
        # weight.
        ordered = (np.sort(flat(image), axis=1) for image in target)
        pools = [
            each[:, np.linspace(0, each.shape[1] - 1, QUANTILES).round().astype(int)]
            for each in ordered
        ]
        # (QUANTILES, C)
        self.quantiles = np.quantile(np.concatenate(pools, axis=1), self.levels, axis=1)

    def __call__(self, source: Tensor) -> Tensor:
        images = identity(source, self.quantiles.shape[1]).detach().float().cpu().numpy()
        matched = np.empty_like(images)
        for n, c in np.ndindex(*images.shape[:2]):
            _, inverse, counts = np.unique(images[n, c], return_inverse=True, return_counts=True)
            middle = (np.cumsum(counts) - counts / 2) / images[n, c].size
            matched[n, c] = np.interp(middle, self.levels, self.quantiles[:, c])[inverse].reshape(
                images.shape[2:]
            )

        return torch.from_numpy(matched).to(source.device)


class IntensityMap:
    """The best look-up table: the mean target intensity of every source intensity, fitted on
    training pairs.

    It has 256 bins of the source intensity (channel mean), is linear between their mean intensities
    and constant beyond the ends. The map need not be monotonic, so it can invert contrast. A model
    that does not beat it has learned only brightness and no anatomy.
    """

    def __init__(self, pairs: Iterable[tuple[Tensor, Tensor]]):
        """`pairs`: registered (source, target) training images, (C, *size) each; 65536 random
        pixels of larger ones.
        """
        images = [_some_pixels(flat(source).mean(0), flat(target)) for source, target in pairs]
        source, target = (np.concatenate(parts, -1) for parts in zip(*images, strict=True))
        step = max((source.max() - source.min()) / BINS, np.finfo(np.float32).tiny)
        bins = np.clip(((source - source.min()) / step).astype(int), 0, BINS - 1)
        sums = np.stack([np.bincount(bins, values, BINS) for values in (source, *target)])
        counts = np.bincount(bins, minlength=BINS)
        self.places, *self.means = sums[:, counts > 0] / counts[counts > 0]

    def __call__(self, source: Tensor) -> Tensor:
        values = source.detach().float().cpu().numpy().mean(1)
        mapped = np.stack([np.interp(values, self.places, means) for means in self.means], 1)
        return torch.from_numpy(mapped.astype(np.float32)).to(source.device)


def linearly_corrected(output: Tensor, reference: Tensor, mask: Tensor | None = None) -> Tensor:
    """a * output + b with the a and b, per image and channel, that minimise the mean square error
    to the reference.

    It uses the reference, so its score is no result: the gap to the uncorrected score is the share
    of the error that is only brightness and contrast (`a` may be negative). A constant output
    becomes the reference's mean.
    """
    axes = tuple(range(2, output.ndim))
    exact = torch.float32 if output.device.type == "mps" else torch.float64  # MPS has no float64
    x = output.detach().to(exact)
    y = reference.detach().to(exact)
    weight = torch.ones_like(x) if mask is None else (mask > 0).expand_as(x).to(exact)
    total = weight.sum(axes, keepdim=True).clamp_min(1)
    mean_x, mean_y = ((weight * v).sum(axes, keepdim=True) / total for v in (x, y))
    spread = (weight * (x - mean_x).square()).sum(axes, keepdim=True)
    joint = (weight * (x - mean_x) * (y - mean_y)).sum(axes, keepdim=True)
    slope = torch.where(spread > 1e-12 * total, joint / spread.clamp_min(1e-30), 0.0)
    return (mean_y + slope * (x - mean_x)).float()


def flat(image: Tensor) -> np.ndarray:
    """(C, *size) as a float64 array (C, positions)."""
    return image.detach().cpu().double().flatten(1).numpy()


def _some_pixels(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same PIXELS random positions (seeded) of both, so that a data set of volumes fits into
    memory.
    """
    if source.size <= PIXELS:
        return source, target
    chosen = np.random.default_rng(0).choice(source.size, PIXELS, replace=False)
    return source[chosen], target[:, chosen]
