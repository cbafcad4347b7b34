"""Intensity mappings: native values to the networks' range and back, linear, for each contrast. Needs numpy alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from gantk.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from gantk.data.resample import Resize

    Pixels = np.ndarray | Tensor

VERSION = 1  # raise it when the same scans give other mappings: fitted ones are kept in the cache under it
PER = ("set", "volume", "image")
Foreground = Literal[False, True, "otsu"]
BINS = 256  # of the histogram that Otsu's threshold is read off
HISTOGRAM = 2**20  # values that the histogram counts
SCAN_VALUES = 2**24  # values of one scan that are used; of a larger one so many are drawn
SAMPLES = 2_000_000  # values of all images that a percentile is taken of; more are thinned out


class Mapping:
    """One domain's native intensities to `range` and back, strictly rising and never clipped, so `inverse` is exact.

    `per` says whose intensities decide: those of the training "set"; of each "volume", that is, of the whole scan that
    a slice belongs to; or of each "image" alone. `of` gives the mapping of one scan, with its own exact inverse. What
    is fitted in the last two cases is the mean over the training scans of what each has itself: results come out by it,
    on the scale of a typical scan, and scans without contrast take it.

    Arrays are computed in float64 and come back in their own precision, whole numbers as float32; tensors of torch
    stay tensors. A subclass, `class Mine(Mapping, name="mine")`, has `measure`, `fit_from`, `_forward`, `_inverse`,
    `_take` for what was measured of one scan, and `_learnt` and `_restore` for what was fitted, as JSON.
    """

    name: ClassVar[str] = ""

    def __init_subclass__(cls, name: str = "", **keywords: Any):
        super().__init_subclass__(**keywords)
        cls.name = name or cls.name

    def __init__(self, options: dict[str, Any], range: Sequence[float], per: str = "set"):
        start, end = (float(value) for value in range)
        if not start < end:
            raise UserError(f"range {list(range)} is empty", where="data.intensity.range", allowed="[start, end]")
        if per not in PER:
            raise UserError(f"intensities cannot be learnt per '{per}'", where="data.intensity.per", allowed=PER)
        self.options = options | {"range": [start, end]}
        self.range, self.per = (start, end), per

    def fit(self, images: Sequence[np.ndarray]) -> None:
        """Learn from training images (C, *spatial) of this domain; UserError where all are constant."""
        self.fit_from([self.measure(np.asarray(image)) for image in images])

    def measure(self, pixels: np.ndarray) -> list[float]:
        """The figures of one scan that its own mapping depends on; `own` and `fit_from` take them."""
        raise NotImplementedError

    def fit_from(self, measured: Sequence[list[float]]) -> None:
        """Fit to the mean of the figures of the training scans."""
        raise NotImplementedError

    def of(self, pixels: np.ndarray) -> Mapping:
        """The mapping of one scan (C, *spatial), where each has its own (per = "volume"); else this one."""
        return self.own(self.measure(np.asarray(pixels))) if self.per == "volume" else self

    def own(self, measured: list[float]) -> Mapping:
        """The mapping of the scan that was measured; the fitted one where it has no contrast."""
        own = copy.copy(self)
        own.per, own.options = "set", self.options | ({"per": "set"} if "per" in self.options else {})
        own._take(measured)
        return own

    def forward(self, image: Pixels) -> Pixels:
        """Native values to the network's; with per = "volume" or "image" as `image` alone has them."""
        if self.per == "set":
            return self._forward(image)
        return self.own(self.measure(image.detach().cpu().numpy() if is_tensor(image) else image))._forward(image)

    def inverse(self, image: Pixels) -> Pixels:
        """The network's values to native ones, as the training set has them, or the scan that `of` was given."""
        return self._inverse(image)

    def state(self) -> dict[str, Any]:
        """All that `from_state` needs, as JSON; part of every checkpoint."""
        return {"name": self.name, **self.options, "fitted": self._learnt()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Mapping:
        """The mapping that `state` described; UserError where it is of a kind that nobody offers."""
        kind = cls
        if state["name"] != cls.name:
            from gantk.plugin.loader import registry

            kind = registry().get("intensity", state["name"]).load()
        mapping = kind(**{key: value for key, value in state.items() if key not in ("name", "fitted")})
        if state["fitted"] is not None:
            mapping._restore(state["fitted"])
        return mapping


class Linear(Mapping):
    """A straight line that takes the native values `low` and `high` to the two ends of `range`."""

    low: float | None = None
    high: float | None = None

    def fit(self, images: Sequence[np.ndarray]) -> None:
        if self.per != "set":
            return super().fit(images)
        self._set(self.ends_of([np.asarray(image) for image in images]), f"all {len(images)} training images")

    def ends_of(self, images: list[np.ndarray]) -> tuple[float, float]:
        """The native values that go to the two ends of the range, by all images together."""
        raise NotImplementedError

    def measure(self, pixels: np.ndarray) -> list[float]:
        return [float(end) for end in self.ends_of([np.asarray(pixels)])]

    def fit_from(self, measured: Sequence[list[float]]) -> None:
        ends = [pair for pair in measured if rises(*pair)] or [measured[0]]
        self._set(np.mean(ends, axis=0), f"all {len(measured)} training images")

    def _take(self, measured: list[float]) -> None:
        if rises(*measured):
            self.low, self.high = measured

    def _forward(self, image: Pixels) -> Pixels:
        return self._line(image, (self.low, self.high), self.range)

    def _inverse(self, image: Pixels) -> Pixels:
        return self._line(image, self.range, (self.low, self.high))

    def _line(self, image: Pixels, before: tuple[float, float], after: tuple[float, float]) -> Pixels:
        if self.low is None:
            raise ValueError(f"the intensity mapping '{self.name}' was not fitted")
        slope = (after[1] - after[0]) / (before[1] - before[0])
        if is_tensor(image):
            return (image - before[0]) * slope + after[0]
        return like((np.asarray(image, np.float64) - before[0]) * slope + after[0], image)

    def _learnt(self) -> list[float] | None:
        return None if self.low is None else [self.low, self.high]

    def _restore(self, learnt: list[float]) -> None:
        self.low, self.high = learnt

    def _set(self, ends: Sequence[float], whose: str) -> None:
        if not rises(*ends):
            what = f"{whose} of a domain have no contrast: their intensities run from {ends[0]:g} to {ends[1]:g}"
            remedy = "look at the images, or choose other ends (low, high)"
            raise UserError(what, where="data.intensity", remedy=remedy)
        self.low, self.high = map(float, ends)


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
            what, allowed = f"percentiles {low:g} and {high:g} make no range", "0 <= low < high <= 100"
            raise UserError(what, where="data.intensity", allowed=allowed)
        super().__init__(dict(low=low, high=high, per=per, foreground=foreground), range, per)
        self.percentiles, self.foreground = (low, high), foreground

    def ends_of(self, images: list[np.ndarray]) -> tuple[float, float]:
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
        values = _values(images, self.foreground).astype(np.float64)
        mean, reach = values.mean(), self.spread * values.std()
        return mean - reach, mean + reach


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
        self._set((low, high), "the windows")

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
        self.low, self.high = 0.0, 2.0**bits - 1

    def fit(self, images: Sequence[np.ndarray]) -> None:
        """Nothing to learn, but images that are no such pictures are a UserError."""
        low, high = min(image.min() for image in images), max(image.max() for image in images)
        if low < 0 or high > self.high:
            what = f"values from {low:g} to {high:g} are not those of {self.options['bits']}-bit pictures"
            remedy = "choose bits = 16, or the intensity 'percentile'"
            raise UserError(what, where="data.intensity", allowed=f"0 to {self.high:g}", remedy=remedy)


class PerChannel:
    """One intensity mapping for each contrast of a domain; images are (C, *spatial) or (N, C, *spatial).

    Where neighbouring slices come along as channels the contrasts repeat: channel i belongs to contrast i modulo their
    number. A contrast that a patient lacks is NaN; `fit` and `of` pass over it.
    """

    def __init__(self, lines: Sequence[Any], names: Sequence[str], dims: int):
        self.lines, self.names, self.dims = list(lines), tuple(names), dims
        self.range = self.lines[0].range  # what the networks see
        self.per = getattr(self.lines[0], "per", "set")  # whose intensities decide, see Mapping

    def fit(self, images: Sequence[np.ndarray]) -> None:
        """Fit each contrast to the images that have it; UserError where none has."""
        for line, found in self._present([self._contrasts(image) for image in images]):
            line.fit(found)

    def measure(self, pixels: np.ndarray) -> list[list[float] | None]:
        """The figures of each contrast of one scan (C, *spatial); None for one that the patient lacks."""
        present = zip(self.lines, self._contrasts(pixels), strict=True)
        return [None if channel is None else line.measure(channel) for line, channel in present]

    def fit_from(self, measured: Sequence[list[list[float] | None]]) -> None:
        """Fit each contrast to the mean of the scans that have it; UserError where none has."""
        for line, found in self._present(measured):
            line.fit_from(found)

    of = Mapping.of

    def own(self, measured: Sequence[list[float] | None]) -> PerChannel:
        lines = [line if one is None else line.own(one) for line, one in zip(self.lines, measured, strict=True)]
        return PerChannel(lines, self.names, self.dims)

    def forward(self, image: Pixels) -> Pixels:
        return self._each(image, [line.forward for line in self.lines])

    def inverse(self, image: Pixels) -> Pixels:
        return self._each(image, [line.inverse for line in self.lines])

    def state(self) -> dict[str, Any]:
        return {"contrasts": list(self.names), "dims": self.dims, "lines": [line.state() for line in self.lines]}

    @classmethod
    def from_state(cls, state: dict[str, Any], line: Callable[[dict[str, Any]], Any]) -> PerChannel:
        return cls([line(each) for each in state["lines"]], state["contrasts"], state["dims"])

    def _contrasts(self, pixels: np.ndarray) -> list[np.ndarray | None]:
        parts = [np.asarray(pixels)[number :: len(self.lines)] for number in range(len(self.lines))]
        return [None if np.isnan(part).any() else part for part in parts]

    def _present(self, scans: Sequence[Sequence[Any]]) -> list[tuple[Any, list[Any]]]:
        """Each contrast's mapping, with its part of the scans that have it."""
        present = [[part for part in parts if part is not None] for parts in zip(*scans, strict=True)]
        for name, found in zip(self.names, present, strict=True):
            if not found:
                raise UserError(f"none of {len(scans)} training images has the contrast '{name}'", where="data.source")
        return list(zip(self.lines, present, strict=True))

    def _each(self, image: Pixels, functions: list[Callable[[Pixels], Pixels]]) -> Pixels:
        axis, count = image.ndim - self.dims - 1, len(functions)
        if axis < 0 or image.shape[axis] % count:
            raise ValueError(f"{count} contrasts do not share out the channels of {tuple(image.shape)}")
        places = [(*(slice(None),) * axis, slice(k, None, count)) for k in range(count)]
        done = [function(image[place]) for function, place in zip(functions, places, strict=True)]
        # interleaved again: (slices, contrasts) along the channels
        whole = done[0].new_empty(image.shape) if is_tensor(image) else np.empty(image.shape, dtype=done[0].dtype)
        for place, part in zip(places, done, strict=True):
            whole[place] = part
        return whole


def to_network(pixels: np.ndarray, intensity: Any, resize: Resize) -> np.ndarray:
    """Native pixels (C, *native) as a network sees them: brought to `resize.size`, then to network intensities.

    float32. Of several contrasts, one that is NaN (a patient lacks it) becomes black.
    """
    return to_intensities(to_size(pixels, resize), intensity)


def to_size(pixels: np.ndarray, resize: Resize) -> np.ndarray:
    """Native pixels (C, *native) at the size that the networks see, in native intensities, float32; NaN stays NaN."""
    return _present_channels(pixels, resize.forward, np.nan)


def to_intensities(image: np.ndarray, intensity: Any) -> np.ndarray:
    """An image from `to_size` in network intensities; of several contrasts, one that is NaN becomes black."""
    if isinstance(intensity, PerChannel):
        return _present_channels(image, intensity.forward, intensity.range[0])
    return np.ascontiguousarray(intensity.forward(image), dtype=np.float32)


def _present_channels(image: np.ndarray, function: Callable[[np.ndarray], np.ndarray], otherwise: float) -> np.ndarray:
    """`function` of an image; channels that are NaN become `otherwise`."""
    absent = np.isnan(image).any(axis=tuple(range(1, image.ndim)))
    if absent.any():
        image = np.where(absent.reshape(-1, *[1] * (image.ndim - 1)), np.float32(0), image)
    done = np.ascontiguousarray(function(image), dtype=np.float32)
    if absent.any():
        done[absent] = otherwise
    return done


def split_values(pixels: np.ndarray, how: Foreground) -> tuple[np.ndarray, np.ndarray]:
    """The values of an image that are foreground, and the others, each in one row.

    False: all values are foreground. True: those above the mean. "otsu": those above Otsu's threshold, which neither
    the zeros of a stripped skull nor the share of the picture that is air can move far. An image of one value is all
    foreground.
    """
    values = _some(np.ravel(pixels), SCAN_VALUES)
    if not how or not values.max() > values.min():
        return values, values[:0]
    above = values > (otsu(values) if how == "otsu" else values.mean())
    return values[above], values[~above]


def otsu(values: np.ndarray) -> float:
    """The threshold that parts values into two classes as far from each other as can be (Otsu, 1979, IEEE Trans. Syst.
    Man Cybern. 9(1)), from a histogram that ends at the 99.9th percentile: a few bright voxels do not stretch it.

    Where every threshold in a gap is as good, the middle of the gap.
    """
    values = _some(values, HISTOGRAM)
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


def rises(low: float, high: float) -> bool:
    """Whether two ends make a line."""
    return bool(np.isfinite(low) and np.isfinite(high) and high > low)


def is_tensor(image: Any) -> bool:
    """Whether this is a tensor of torch, which is not imported to find out."""
    return hasattr(image, "detach")


def like(exact: np.ndarray, image: np.ndarray) -> np.ndarray:
    """A result of float64 in the precision of the image that it was made of: float32 unless that is float64."""
    kept = np.float64 if getattr(image, "dtype", None) == np.float64 else np.float32
    return exact.astype(kept, copy=False)[()]


def _values(images: list[np.ndarray], foreground: Foreground) -> np.ndarray:
    """The foreground values of all images in one row, thinned to SAMPLES."""
    share, rng = max(1, SAMPLES // len(images)), np.random.default_rng(0)
    rows = [split_values(image, foreground)[0] for image in images]
    return np.concatenate([row if row.size <= share else rng.choice(row, share) for row in rows])


def _some(values: np.ndarray, count: int) -> np.ndarray:
    return values if values.size <= count else values[np.random.default_rng(0).integers(values.size, size=count)]
