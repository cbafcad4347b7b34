"""Results of a network at a smaller size, brought to the full grid with the input's own detail."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

WINDOW = 3  # pixels a side, at the smaller size
FLAT = 1e-10  # of the squared range: windows with less variance than this have no slope


def with_detail(
    output: np.ndarray, seen: np.ndarray, native: np.ndarray, enlarge: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """What a network made at `fit.size`, on the native grid, as sharp as the input is there.

    What the network changed is split into a line of the input, slope x input, with the slope by least squares in every
    small window, and a remainder. Slope and remainder are enlarged instead of the output, and the slope is applied to
    the input at full resolution: the fast guided filter (He & Sun 2015) without regularisation and keeping what no
    line explains, so that an output equal to its input stays so, and an output at its own size is not changed at all.

    Args:
        output: (D, *size).
        seen: (C, *size), what it was made of: a channel each where C = D, else the mean of them all counts.
        native: (C, *native), the same at full resolution, in the intensities of `seen`.
        enlarge: (n, *size) -> (n, *native).

    Returns (D, *native).
    """
    from scipy.ndimage import uniform_filter  # images of the networks' own size need none of it

    if len(seen) != len(output):
        seen, native = (np.repeat(each.mean(axis=0, keepdims=True), len(output), axis=0) for each in (seen, native))
    x, y = seen.astype(np.float64), output.astype(np.float64)

    def mean(values: np.ndarray) -> np.ndarray:
        return uniform_filter(values, size=(1, *[WINDOW] * (values.ndim - 1)), mode="nearest")

    mean_x = mean(x)
    variance = mean(mean(x * x) - mean_x * mean_x)
    covariance = mean(mean(x * y) - mean_x * mean(y))
    slope = np.divide(covariance, variance, out=np.zeros_like(x), where=variance > FLAT * np.ptp(x) ** 2)
    return enlarge((y - slope * x).astype(np.float32)) + enlarge(slope.astype(np.float32)) * native
