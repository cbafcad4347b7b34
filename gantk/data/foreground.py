"""Which values of a scan count when its intensities are learnt: those of the body, not of the air around it."""

from __future__ import annotations

from typing import Literal

import numpy as np

Foreground = Literal[False, True, "otsu"]
BINS = 256  # of the histogram that Otsu's threshold is read off
LOOKED_AT = 2**24  # values of one scan that are looked at; of a larger one so many are drawn
COUNTED = 2**20  # values that the histogram counts


def split_values(pixels: np.ndarray, how: Foreground) -> tuple[np.ndarray, np.ndarray]:
    """The values of an image that are foreground, and the others, each in one row.

    False: all values are foreground. True: those above the mean. "otsu": those above Otsu's threshold, which neither
    the zeros of a stripped skull nor the share of the picture that is air can move far. An image of one value is all
    foreground.
    """
    values = _some(np.ravel(pixels), LOOKED_AT)
    if not how or not values.max() > values.min():
        return values, values[:0]
    above = values > (otsu(values) if how == "otsu" else values.mean())
    return values[above], values[~above]


def otsu(values: np.ndarray) -> float:
    """The threshold that parts values into two classes as far from each other as can be (Otsu, 1979, IEEE Trans. Syst.
    Man Cybern. 9(1)), from a histogram that ends at the 99.9th percentile: a few bright voxels do not stretch it.

    Where every threshold in a gap is as good, the middle of the gap.
    """
    values = _some(values, COUNTED)
    low, top = values.min(), np.percentile(values, 99.9, method="lower")
    top = top if top > low else values.max()
    counts, edges = np.histogram(np.minimum(values, top), BINS, (float(low), float(top)))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1].astype(np.float64)
    total, weighted = float(values.size), np.cumsum(counts * centres)
    above = total - below
    apart = weighted[:-1] / below - (weighted[-1] - weighted[:-1]) / above  # the lowest and the highest bin are filled
    between = below * above * apart**2
    best = np.flatnonzero(between >= between.max() * (1 - 1e-9))
    return float((edges[best[0] + 1] + edges[best[-1] + 1]) / 2)


def _some(values: np.ndarray, count: int) -> np.ndarray:
    return values if values.size <= count else values[np.random.default_rng(0).integers(values.size, size=count)]
