"""The distribution of the values of a domain's images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

QUANTILE_BINS = 32  # equal shares of an image's values
QUANTILE_COUNT = QUANTILE_BINS + 2  # their middles, and the quantiles 1 % and 99 %
MAX_SAMPLED_IMAGES = 64  # images from which a domain's distribution is computed
AIR_SHARE = 0.1  # of an image's range: what is darker is air


def values_of(images: Sequence[np.ndarray]) -> dict[str, Any]:
    """Statistics of a domain's training images (C, *spatial), as JSON: `low`, `high`, whether all
    values are `whole` numbers, mean `quantiles` without air, and `near`, the distance to these that
    95 % of single images keep within.
    """
    images = [image[np.isfinite(image)] for image in images]
    tissue = [tissue_quantiles(image) for image in images[:: -(-len(images) // MAX_SAMPLED_IMAGES)]]
    middle = np.mean(tissue, axis=0)
    return {
        "low": float(min(image.min() for image in images)),
        "high": float(max(image.max() for image in images)),
        "whole": all(np.array_equal(image, np.rint(image)) for image in images),
        "quantiles": [float(f"{value:.5g}") for value in middle],
        "near": float(np.percentile([distance(each, middle) for each in tissue], 95)),
    }


def tissue_quantiles(values: np.ndarray) -> np.ndarray:
    """Quantiles of the values that are not air: 1 %, the middles of QUANTILE_BINS equal shares, and
    99 %.
    """
    values = values[:: max(1, values.size // 200_000)]
    low, high = np.percentile(values, [1, 99.5])
    return np.quantile(
        values[values >= low + AIR_SHARE * (high - low)],
        [0.01, *(np.arange(QUANTILE_BINS) + 0.5) / QUANTILE_BINS, 0.99],
    )


def distance(quantiles: np.ndarray, middle: np.ndarray) -> float:
    """Mean distance of two distributions' quantiles, as a share of the second's width: of the
    values, or of the values scaled to 0 to 1 (the shape), whichever is larger.
    """
    width = max(float(middle[-1] - middle[0]), 1e-9)
    of_values = float(np.abs(quantiles - middle)[1:-1].mean()) / width
    shapes = [
        (each - each[0]) / max(float(each[-1] - each[0]), 1e-9) for each in (quantiles, middle)
    ]
    return max(of_values, float(np.abs(shapes[0] - shapes[1])[1:-1].mean()))
