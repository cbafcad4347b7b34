"""Intensity mappings: native values to the networks' range and back, linear and per contrast. Needs numpy alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from gantk.data.resample import Resize
from gantk.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    Pixels = np.ndarray | Tensor

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


PER = ("set", "volume", "image")


class Mapping:
    """One domain's native intensities to `range` and back, strictly rising and never clipped, so `inverse` is exact.

    `per` says whose intensities decide: those of the training "set"; of each "volume", that is, of the whole scan that
    a slice belongs to; or of each "image" alone. `of` gives the mapping of one scan, with its own exact inverse. What
    is fitted in the last two cases is the mean over the training scans of what each has itself: by that line results
    come out, on the scale of a typical scan, and scans without contrast take it.

    Arrays are computed in float64 and come back in their own precision, whole numbers as float32; tensors of torch
    stay tensors.

    A kind says what to `measure` and how to `settle`, and has `_forward` and `_inverse`, `_take` for what was measured
    of one scan, `_learnt` and `_restore` for what was fitted, as JSON.
    """

    name: ClassVar[str]
    kinds: ClassVar[dict[str, type[Mapping]]] = {}

    def __init_subclass__(cls, name: str = "", **keywords: Any):
        super().__init_subclass__(**keywords)
        if name:
            cls.name = name
            Mapping.kinds[name] = cls

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
        if not len(images):
            raise UserError("there are no images to learn the intensities from", where="data.intensity")
        self.settle([self.measure(np.asarray(image)) for image in images])

    def measure(self, pixels: np.ndarray) -> list[float]:
        """What of one scan decides about its own mapping; `own` and `settle` take it."""
        raise NotImplementedError

    def settle(self, measured: Sequence[list[float]]) -> None:
        """Resize to the mean of what was measured of each training scan."""
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
        """All that `from_state` needs, as JSON."""
        return {"name": self.name, **self.options, "fitted": self._learnt()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Mapping:
        """The mapping that `state` described."""
        options = {key: value for key, value in state.items() if key not in ("name", "fitted")}
        mapping = cls.kinds[state["name"]](**options)
        if state["fitted"] is not None:
            mapping._restore(state["fitted"])
        return mapping


def from_state(state: dict[str, Any]) -> Mapping:
    """The mapping of whatever kind `state` describes; UserError where nobody here knows that kind."""
    from gantk.data import nyul  # noqa: F401  it makes its kind known

    if state["name"] not in Mapping.kinds:
        what = f"the intensity mapping '{state['name']}' is not known here"
        raise UserError(what, allowed=sorted(Mapping.kinds), remedy="install the plugin that offers it")
    return Mapping.from_state(state)


def is_tensor(image: Any) -> bool:
    """Whether this is a tensor of torch, which is not imported to find out."""
    return hasattr(image, "detach")


def like(exact: np.ndarray, image: np.ndarray) -> np.ndarray:
    """A result of float64 in the precision of the image that it was made of: float32 unless that is float64."""
    kept = np.float64 if getattr(image, "dtype", None) == np.float64 else np.float32
    return exact.astype(kept, copy=False)[()]


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


class PerChannel:
    """One intensity mapping for each contrast of a domain; images are (C, *spatial) or (N, C, *spatial).

    Where neighbouring slices come along as channels the contrasts repeat: channel i belongs to contrast i modulo their
    number. A contrast that a patient lacks is NaN; `fit` and `of` pass over it.
    """

    def __init__(self, lines: Sequence[Any], names: Sequence[str], dims: int):
        self.lines, self.names, self.dims = list(lines), tuple(names), dims

    @property
    def range(self) -> tuple[float, float]:
        """What the networks see."""
        return self.lines[0].range

    @property
    def per(self) -> str:
        """Whose intensities decide: those of the "set", of each "volume" or of each "image"."""
        return getattr(self.lines[0], "per", "set")

    def fit(self, images: Sequence[np.ndarray]) -> None:
        """Learn each contrast's mapping from the images that have it; UserError where none has."""
        for number, line in enumerate(self.lines):
            channels = [np.asarray(image)[number :: len(self.lines)] for image in images]
            line.fit(self._present([channel for channel in channels if not np.isnan(channel).any()], number, images))

    def measure(self, pixels: np.ndarray) -> list[list[float] | None]:
        """What of one scan (C, *spatial) decides about each contrast's mapping; None for one that the patient lacks."""
        channels = [np.asarray(pixels)[number :: len(self.lines)] for number in range(len(self.lines))]
        return [
            None if np.isnan(channel).any() else line.measure(channel)
            for line, channel in zip(self.lines, channels, strict=True)
        ]

    def settle(self, measured: Sequence[list[list[float] | None]]) -> None:
        """Resize each contrast to the mean of the scans that have it; UserError where none has."""
        for number, line in enumerate(self.lines):
            line.settle(
                self._present([scan[number] for scan in measured if scan[number] is not None], number, measured)
            )

    def of(self, pixels: np.ndarray) -> PerChannel:
        """The mappings of one scan (C, *spatial), where each has its own (per = "volume"); else these."""
        return self.own(self.measure(pixels)) if self.per == "volume" else self

    def own(self, measured: Sequence[list[float] | None]) -> PerChannel:
        """The mappings of the scan that was measured."""
        lines = [line if one is None else line.own(one) for line, one in zip(self.lines, measured, strict=True)]
        return PerChannel(lines, self.names, self.dims)

    def forward(self, image: Pixels) -> Pixels:
        """Native values to the network's."""
        return self._each(image, [line.forward for line in self.lines])

    def inverse(self, image: Pixels) -> Pixels:
        """The network's values to native ones."""
        return self._each(image, [line.inverse for line in self.lines])

    def state(self) -> dict[str, Any]:
        """All that `from_state` needs, as JSON."""
        return {"contrasts": list(self.names), "dims": self.dims, "lines": [line.state() for line in self.lines]}

    @classmethod
    def from_state(cls, state: dict[str, Any], line: Callable[[dict[str, Any]], Any]) -> PerChannel:
        """The mapping that `state` described; `line` makes that of one channel."""
        return cls([line(each) for each in state["lines"]], state["contrasts"], state["dims"])

    def _present(self, found: list, number: int, images: Sequence) -> list:
        if not found:
            what = f"none of {len(images)} training images has the contrast '{self.names[number]}'"
            raise UserError(what, where="data.source")
        return found

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


def absent_channels(pixels: np.ndarray) -> np.ndarray:
    """Which channels (C,) of an image a patient lacks: they are NaN."""
    return np.isnan(pixels).any(axis=tuple(range(1, pixels.ndim)))


def backgrounds(pixels: np.ndarray) -> np.ndarray:
    """Each channel's own minimum, (C, 1, ...): the air of one contrast is not that of another."""
    return pixels.min(axis=tuple(range(1, pixels.ndim)), keepdims=True)


def to_size(pixels: np.ndarray, fit: Resize) -> np.ndarray:
    """Native pixels (C, *native) at the size that the networks see, (C, *size), in native intensities, float32.

    A channel that is NaN (a patient lacks it) stays so.
    """
    absent = absent_channels(pixels)
    if not absent.any():
        return np.asarray(fit.forward(pixels), dtype=np.float32)
    known = np.where(absent.reshape(-1, *[1] * (pixels.ndim - 1)), np.float32(0), pixels)
    done = np.asarray(fit.forward(known), dtype=np.float32)
    done[absent] = np.nan
    return done


def to_intensities(fitted: np.ndarray, intensity: Any) -> np.ndarray:
    """What `to_size` gave, in network intensities; of several contrasts, one that is NaN becomes black."""
    absent = absent_channels(fitted) if isinstance(intensity, PerChannel) else None
    if absent is None or not absent.any():
        return np.ascontiguousarray(intensity.forward(fitted), dtype=np.float32)
    known = np.where(absent.reshape(-1, *[1] * (fitted.ndim - 1)), np.float32(0), fitted)
    done = np.ascontiguousarray(intensity.forward(known), dtype=np.float32)
    done[absent] = intensity.range[0]
    return done


def to_network(pixels: np.ndarray, intensity: Any, fit: Resize) -> np.ndarray:
    """Native pixels (C, *native) as a network sees them: brought to `fit.size`, then to network intensities, float32.

    Of several contrasts, one that is NaN (a patient lacks it) becomes black.
    """
    return to_intensities(to_size(pixels, fit), intensity)
