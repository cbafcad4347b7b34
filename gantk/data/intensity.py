"""Native intensities to the range that the networks work in, and back: straight lines, never clipped. Numpy alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gantk.data.foreground import Foreground, split_values
from gantk.data.intensity_mapping import Mapping, from_state, is_tensor, like
from gantk.errors import UserError

if TYPE_CHECKING:
    from gantk.data.intensity_mapping import Pixels

__all__ = ["Linear", "Mapping", "MinMax", "Percentile", "Unit", "Window", "ZScore", "from_state"]

SAMPLES = 2_000_000  # values that a percentile is taken of; more are thinned out


class Linear(Mapping):
    """A straight line that takes the native values `low` and `high` to the two ends of `range`."""

    def __init__(self, options: dict[str, Any], range: Sequence[float], per: str = "set"):
        super().__init__(options, range, per)
        self.low: float | None = None
        self.high: float | None = None

    def fit(self, images: Sequence[np.ndarray]) -> None:
        """Learn `low` and `high` from training images (C, *spatial) of this domain; UserError where all is constant."""
        if not len(images) or self.per != "set":
            return super().fit(images)
        self._set(*self.ends_of([np.asarray(image) for image in images]), _all(images))

    def ends_of(self, images: list[np.ndarray]) -> tuple[float, float]:
        """The native values that go to the two ends of the range, by all images together."""
        raise NotImplementedError

    def measure(self, pixels: np.ndarray) -> list[float]:
        """The two ends of one scan."""
        return [float(end) for end in self.ends_of([np.asarray(pixels)])]

    def settle(self, measured: Sequence[list[float]]) -> None:
        """Take the mean of each scan's own ends."""
        ends = [pair for pair in measured if rises(*pair)] or [measured[0]]
        self._set(*np.mean(ends, axis=0), _all(measured))

    def _take(self, measured: list[float]) -> None:
        if rises(*measured):
            self.low, self.high = measured

    def _forward(self, image: Pixels) -> Pixels:
        low, high = self._fitted()
        start, end = self.range
        slope = (end - start) / (high - low)
        if is_tensor(image):
            return (image - low) * slope + start
        return like((np.asarray(image, np.float64) - low) * slope + start, image)

    def _inverse(self, image: Pixels) -> Pixels:
        low, high = self._fitted()
        start, end = self.range
        slope = (high - low) / (end - start)
        if is_tensor(image):
            return (image - start) * slope + low
        return like((np.asarray(image, np.float64) - start) * slope + low, image)

    def _learnt(self) -> list[float] | None:
        return None if self.low is None else [self.low, self.high]

    def _restore(self, learnt: list[float]) -> None:
        self.low, self.high = learnt

    def _set(self, low: float, high: float, what: str) -> None:
        if not rises(low, high):
            raise UserError(
                f"{what} have no contrast: their intensities run from {low:g} to {high:g}",
                where="data.intensity",
                remedy="look at the images, or choose other ends (low, high)",
            )
        self.low, self.high = float(low), float(high)

    def _fitted(self) -> tuple[float, float]:
        if self.low is None or self.high is None:
            raise ValueError(f"the intensity mapping '{self.name}' was not fitted")
        return self.low, self.high


class Percentile(Linear, name="percentile"):
    """Two percentiles of the training images go to the ends of the range: robust against a few bright voxels."""

    def __init__(
        self,
        *,
        low: float = 0.0,  # percentile that goes to the start of the range
        high: float = 99.5,  # percentile that goes to its end; brighter values go beyond it
        per: Literal["set", "volume", "image"] = "set",  # one line for the whole set, or each scan or image its own
        foreground: Foreground = False,  # true: of values above each image's mean only; "otsu": above its threshold
        range: tuple[float, float] = (-1.0, 1.0),  # what the networks see
    ):
        if not 0 <= low < high <= 100:
            where, allowed = "data.intensity", "0 <= low < high <= 100"
            raise UserError(f"percentiles {low:g} and {high:g} make no range", where=where, allowed=allowed)
        super().__init__(dict(low=low, high=high, per=per, foreground=foreground), range, per)
        self.percentiles, self.foreground = (low, high), foreground

    def ends_of(self, images: list[np.ndarray]) -> tuple[float, float]:
        """The two percentiles of all values together."""
        low, high = np.percentile(_values(images, self.foreground), self.percentiles)
        if not self.foreground:  # the extremes must not depend on which values the thinning kept
            low = min(image.min() for image in images) if self.percentiles[0] == 0 else low
            high = max(image.max() for image in images) if self.percentiles[1] == 100 else high
        return float(low), float(high)


class MinMax(Linear, name="minmax"):
    """The smallest and the largest value of the training images go to the ends of the range."""

    def __init__(
        self,
        *,
        per: Literal["set", "volume", "image"] = "set",  # one line for the whole set, or each scan or image its own
        foreground: Foreground = False,  # true: of values above each image's mean only; "otsu": above its threshold
        range: tuple[float, float] = (-1.0, 1.0),  # what the networks see
    ):
        super().__init__(dict(per=per, foreground=foreground), range, per)
        self.foreground = foreground

    def ends_of(self, images: list[np.ndarray]) -> tuple[float, float]:
        """The extremes of all values together."""
        if self.foreground:
            images = [split_values(image, self.foreground)[0] for image in images]
        return float(min(image.min() for image in images)), float(max(image.max() for image in images))


class ZScore(Linear, name="zscore"):
    """The mean goes to the middle of the range, `spread` standard deviations to either side of it to the ends."""

    def __init__(
        self,
        *,
        spread: float = 3.0,  # standard deviations between the middle and an end of the range
        per: Literal["set", "volume", "image"] = "set",  # one line for the whole set, or each scan or image its own
        foreground: Foreground = False,  # true: of values above each image's mean only; "otsu": above its threshold
        range: tuple[float, float] = (-1.0, 1.0),  # what the networks see
    ):
        if spread <= 0:
            raise UserError(f"spread = {spread:g} is too small", where="data.intensity.spread", allowed="above 0")
        super().__init__(dict(spread=spread, per=per, foreground=foreground), range, per)
        self.spread, self.foreground = spread, foreground

    def ends_of(self, images: list[np.ndarray]) -> tuple[float, float]:
        """Mean minus and plus `spread` standard deviations."""
        values = _values(images, self.foreground).astype(np.float64)
        return values.mean() - self.spread * values.std(), values.mean() + self.spread * values.std()


class Window(Linear, name="window"):
    """Two native values chosen by hand go to the ends of the range: Hounsfield units, or any calibrated scale."""

    def __init__(
        self,
        *,
        low: float = -1000.0,  # native value that goes to the start of the range; air in Hounsfield units
        high: float = 2000.0,  # native value that goes to its end; dense bone in Hounsfield units
        range: tuple[float, float] = (-1.0, 1.0),  # what the networks see
    ):
        super().__init__(dict(low=low, high=high), range)
        self._set(low, high, what="a window's values")

    def fit(self, images: Sequence[np.ndarray]) -> None:
        """Nothing to learn."""


class Unit(Linear, name="unit"):
    """The full scale of 8-bit or 16-bit pictures, 0 to 255 or 65535, goes to the range: nothing is learnt."""

    def __init__(
        self,
        *,
        bits: Literal[8, 16] = 8,  # bits of a pixel
        range: tuple[float, float] = (-1.0, 1.0),  # what the networks see
    ):
        super().__init__(dict(bits=bits), range)
        self._set(0.0, 2.0**bits - 1, what="pictures")

    def fit(self, images: Sequence[np.ndarray]) -> None:
        """Nothing to learn, but images that are no such pictures are a UserError."""
        low, high = min(image.min() for image in images), max(image.max() for image in images)
        if low < 0 or high > self.high:
            raise UserError(
                f"values from {low:g} to {high:g} are not those of {self.options['bits']}-bit pictures",
                where="data.intensity",
                allowed=f"0 to {self.high:g}",
                remedy="choose bits = 16, or the intensity 'percentile'",
            )


def rises(low: float, high: float) -> bool:
    return bool(np.isfinite(low) and np.isfinite(high) and high > low)


def _all(images: Sequence[Any]) -> str:
    return f"all {len(images)} training images of a domain"


def _values(images: list[np.ndarray], foreground: Foreground) -> np.ndarray:
    """The values of all images that count, in one row, thinned to SAMPLES."""
    share, rng = max(1, SAMPLES // len(images)), np.random.default_rng(0)
    rows = []
    for image in images:
        row = split_values(image, foreground)[0]
        rows.append(row if row.size <= share else rng.choice(row, share))
    return np.concatenate(rows)
