"""Native intensities as the brightness of pictures, whose files have no units."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gantk.data.intensity import IntensityMapping, Linear

MAX_OF_BYTE = 255  # the largest whole number of 8 bits


def picture_scale(
    mapping: IntensityMapping, values: dict[str, Any] | None, white: float
) -> Callable[[np.ndarray], np.ndarray]:
    """The function from native intensities to a picture, in which 0 is their black and `white` their
    brightest tissue.

    `mapping`: of the training images; `values`: their statistics (`contrasts.values_of`), None for
    models of earlier versions.
    """
    first = getattr(mapping, "lines", [mapping])[0]
    black = float(first.inverse(np.array(first.range[0])))
    brightest = float(first.inverse(brightest_tissue(mapping, values)))
    line = Linear(range=(0.0, white))
    line.fitted = [black, brightest]
    return line.forward


def brightest_tissue(mapping: IntensityMapping, values: dict[str, Any] | None) -> np.ndarray:
    """The network intensity of 99 % of the tissue of the training images; white where this is not
    known.
    """
    first = getattr(mapping, "lines", [mapping])[0]
    if not values:
        return np.array(first.range[1])
    return np.asarray(first.forward(np.array(values["quantiles"][-1])))
