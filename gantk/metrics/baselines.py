"""The baselines that a model must beat: the unchanged input, histogram matching, and the best intensity
map. Plugins register others.

A baseline takes images (N, C, *size) and returns images, so that every metric scores it as it
scores a model.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

QUANTILES = 4096  # of a domain's pooled intensities
BINS = 256  # of the intensity map
MAX_BASELINE_IMAGES = 64  # training images for histograms and intensity maps
PIXELS = 2**16  # at most of each training image, for the intensity map


def identity(source: Tensor, channels: int) -> Tensor:
    """The source itself, unchanged; if the channel counts differ, its channel mean, repeated."""
    if channels == source.shape[1]:
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
        pools = [
            np.quantile(flat(image), self.levels, axis=1, method="nearest") for image in target
        ]
        # (QUANTILES, C)
        self.quantiles = np.quantile(np.concatenate(pools), self.levels, axis=0)

    def __call__(self, source: Tensor) -> Tensor:
        from scipy.stats import rankdata  # slow import

        images = identity(source, self.quantiles.shape[1]).detach().float().cpu().numpy()
        ranks = rankdata(
            images.reshape(*images.shape[:2], -1), axis=2
        )  # the mean one of equal pixels
        middles = (ranks - 0.5) / ranks.shape[2]
        channels = [
            np.interp(middles[:, c], self.levels, quantiles)
            for c, quantiles in enumerate(self.quantiles.T)
        ]
        matched = np.stack(channels, 1).reshape(images.shape)
        return torch.from_numpy(matched.astype(np.float32)).to(source.device)


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
