"""Native intensities to the range that the networks work in, and back: straight lines, never clipped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor

from gantk.errors import UserError

Pixels = np.ndarray | Tensor
SAMPLES = 2_000_000  # values that a percentile is taken of; more are thinned out


class Linear:
    """A straight line that takes the native values `low` and `high` to the two ends of `range`.

    One instance belongs to one domain. `fit` learns from training images; `state` and `from_state` carry it in a
    checkpoint. Values beyond `low` and `high` go beyond the range: nothing is clipped, so `inverse` is exact.
    """

    name: ClassVar[str]
    kinds: ClassVar[dict[str, type[Linear]]] = {}

    def __init_subclass__(cls, name: str, **keywords: Any):
        super().__init_subclass__(**keywords)
        cls.name = name
        Linear.kinds[name] = cls

    def __init__(self, options: dict[str, Any], range: Sequence[float], per: str = "set"):
        start, end = (float(value) for value in range)
        if not start < end:
            raise UserError(f"range {list(range)} is empty", where="data.intensity.range", allowed="[start, end]")
        self.options = options | {"range": [start, end]}
        self.range, self.per = (start, end), per
        self.low: float | None = None
        self.high: float | None = None

    def fit(self, images: Sequence[np.ndarray]) -> None:
        """Learn `low` and `high` from training images (C, *spatial) of this domain; UserError where all is constant."""
        if not len(images):
            raise UserError("there are no images to learn the intensities from", where="data.intensity")
        ends = self.ends_of([np.asarray(image) for image in images])
        self._set(*ends, what=f"all {len(images)} training images of a domain")

    def ends_of(self, images: list[np.ndarray]) -> tuple[float, float]:
        """The native values that go to the two ends of the range."""
        raise NotImplementedError

    def forward(self, image: Pixels) -> Pixels:
        """Native values to the network's; with per = "image" by the image's own line, unless it is constant."""
        low, high = self._fitted()
        if self.per == "image":
            own = self.ends_of([image.detach().cpu().numpy() if isinstance(image, Tensor) else image])
            low, high = own if own[1] > own[0] else (low, high)
        start, end = self.range
        return (image - low) * ((end - start) / (high - low)) + start

    def inverse(self, image: Pixels) -> Pixels:
        """The network's values to native ones, by the line of the training set."""
        low, high = self._fitted()
        start, end = self.range
        return (image - start) * ((high - low) / (end - start)) + low

    def state(self) -> dict[str, Any]:
        """All that `from_state` needs, as JSON."""
        return {"name": self.name, **self.options, "fitted": None if self.low is None else [self.low, self.high]}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Linear:
        """The mapping that `state` described."""
        options = {key: value for key, value in state.items() if key not in ("name", "fitted")}
        mapping = cls.kinds[state["name"]](**options)
        if state["fitted"] is not None:
            mapping.low, mapping.high = state["fitted"]
        return mapping

    def _set(self, low: float, high: float, what: str) -> None:
        if not (np.isfinite(low) and np.isfinite(high) and high > low):
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


def from_state(state: dict[str, Any]) -> Linear:
    """The mapping of whatever kind `state` describes."""
    return Linear.from_state(state)


class Percentile(Linear, name="percentile"):
    """Two percentiles of the training images go to the ends of the range: robust against a few bright voxels."""

    def __init__(
        self,
        *,
        low: float = 0.0,  # percentile that goes to the start of the range
        high: float = 99.5,  # percentile that goes to its end; brighter values go beyond it
        per: Literal["set", "image"] = "set",  # one line for the whole set, or each image its own (no scale is shared)
        foreground: bool = False,  # take percentiles of the values above each image's mean only: air left out
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
        per: Literal["set", "image"] = "set",  # one line for the whole set, or each image its own
        range: tuple[float, float] = (-1.0, 1.0),  # what the networks see
    ):
        super().__init__(dict(per=per), range, per)

    def ends_of(self, images: list[np.ndarray]) -> tuple[float, float]:
        """The extremes of all values together."""
        return float(min(image.min() for image in images)), float(max(image.max() for image in images))


class ZScore(Linear, name="zscore"):
    """The mean goes to the middle of the range, `spread` standard deviations to either side of it to the ends."""

    def __init__(
        self,
        *,
        spread: float = 3.0,  # standard deviations between the middle and an end of the range
        per: Literal["set", "image"] = "set",  # one line for the whole set, or each image its own
        foreground: bool = False,  # mean and deviation of the values above each image's mean only: air left out
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


def _values(images: list[np.ndarray], foreground: bool) -> np.ndarray:
    """The values of all images in one row, thinned to SAMPLES; with `foreground`, those above each image's mean."""
    share, rng = max(1, SAMPLES // len(images)), np.random.default_rng(0)
    rows = []
    for image in images:
        row = image[image > image.mean()] if foreground and image.min() < image.max() else image.ravel()
        rows.append(row if row.size <= share else rng.choice(row, share))
    return np.concatenate(rows)
