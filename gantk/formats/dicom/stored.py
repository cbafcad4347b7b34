"""Values to the 16-bit integers and the rescale that DICOM stores them as (PS3.3, C.11.1): value = slope x number + b.

Nothing is clipped. Values that lie on the source's own integers are stored as these very integers, other whole numbers
as themselves. What is left is rounded, an error of half a step at most: with values of one sign 65,535 steps lead from
0 to the largest, with both 32,767 to the largest of either, and 0 stays exactly 0; values far from 0 have all 65,535
steps between the smallest and the largest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.valuerep import format_number_as_ds

WHOLE = 1e-3  # how far a number may be from a whole one and still be meant as it
LIMITS = {False: (0, 65535), True: (-32768, 32767)}  # by whether signed


@dataclass(frozen=True)
class Scale:
    """How one slice is stored."""

    slope: float = 1.0
    intercept: float = 0.0
    signed: bool = False

    def numbers(self, values: np.ndarray) -> np.ndarray:
        """Little-endian 16-bit integers; the values have to lie within the scale."""
        rounded = np.rint(self.exact(values))
        low, high = LIMITS[self.signed]
        if rounded.min() < low or rounded.max() > high:
            raise ValueError(f"values from {values.min():g} to {values.max():g} are beyond {self}")
        return rounded.astype("<i2" if self.signed else "<u2")

    def exact(self, values: np.ndarray) -> np.ndarray:
        """The numbers before they are rounded, float64."""
        return (values.astype(np.float64) - self.intercept) / self.slope


def scales_for(volume: np.ndarray, rescales: Sequence[tuple[float, float]], signed: bool) -> list[Scale]:
    """A scale for each of (slices, rows, columns): the source's (slope, intercept), whole numbers, or 65,535 steps.

    `signed` is how the source stored its integers, kept where they fit. All slices share the last two kinds.
    """
    low, high = float(volume.min()), float(volume.max())
    for candidates in (list(rescales), [(1.0, 0.0)] * len(volume), [(1.0, np.floor(low))] * len(volume)):
        for sign in (signed, not signed):
            scales = [Scale(slope, intercept, sign) for slope, intercept in candidates]
            if all(map(_holds, scales, volume)):
                return scales
    return [_steps(low, high)] * len(volume)


def _steps(low: float, high: float) -> Scale:
    """Steps from 0, signed where there are negative values; from the lowest value where 0 is far from all of them."""
    step = max(high / 32767, -low / 32768) if low < 0 else high / 65535
    if step > 2.01 * (high - low) / 65535:
        return Scale(_written((high - low) / 65535, up=True) or 1.0, _written(low), False)
    return Scale(_written(step, up=True), 0.0, low < 0)


def _holds(scale: Scale, values: np.ndarray) -> bool:
    """Whether the values are whole numbers of a scale, as exactly as float32 can tell, and within its bits."""
    low, high = LIMITS[scale.signed]
    exact = scale.exact(values)
    if exact.min() < low - WHOLE or exact.max() > high + WHOLE:
        return False
    blur = np.abs(values).max() * np.finfo(np.float32).eps / abs(scale.slope)
    return bool(blur < 0.25 and np.abs(exact - np.rint(exact)).max() <= max(WHOLE, blur))


def _written(number: float, up: bool = False) -> float:
    """A number as it reads back from the 16 characters that DICOM gives it, a shade larger where that was asked for."""
    return float(format_number_as_ds(float(number) * (1 + 1e-8 * up)))
