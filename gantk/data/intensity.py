"""Intensity mappings: from the units of the files to the networks' range and back, one for each
contrast. Needs only numpy.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from math import prod
from typing import TYPE_CHECKING, Any, Literal, TypeVar, dataclass_transform

import numpy as np

from gantk.errors import UserError, reading_file
from gantk.plugin.spec import Positive

if TYPE_CHECKING:
    from torch import Tensor

    Numbers = Sequence[float] | np.ndarray

OTSU_BINS = 256  # of the histogram for Otsu's threshold
MAX_HISTOGRAM_VALUES = 2**20  # values in this histogram, at most
MAX_SCAN_VALUES = 2**24  # values of one scan that are used; a larger one is sampled
MAX_PERCENTILE_VALUES = 2_000_000  # values of all images for a percentile; more are sampled
# share of air to top by which the range starts below air, since a tanh reaches its end slowly
MARGIN = 0.025
# share of the range, from its start, that counts as air, unless air itself is brighter
AIR_SHARE = 0.05
# Padding is compressed if the lowest value is below the start by more than the second share of the
# range; compression begins below the start by the first.
COMPRESSION_SHARE = 0.02
MIN_PADDING_SHARE = 0.25
MAX_VALUES_AT_ONCE = 2**18  # values that are mapped at a time
# relative difference below which two values count as equal
MIN_RELATIVE_CONTRAST = float(OTSU_BINS * np.finfo(np.float32).eps)
# least difference of two values that counts: squares of smaller ones vanish in float32
MIN_CONTRAST = 1e-15
AIR_BINS = 128  # bins of the histogram for finding air
# An image on another scale has a range so many times the median; this many of them at most.
SCALE_RATIO = 8.0
MAX_SHARE_OF_OTHER_SCALES = 1 / 3
T = TypeVar("T")
Pixels = TypeVar("Pixels", np.ndarray, "Tensor")  # what comes in also comes out


@dataclass_transform(kw_only_default=True, eq_default=False)
def option_fields(kind: type[T]) -> type[T]:
    """Make a class a dataclass whose fields are options in recipes."""
    return dataclass(kw_only=True, eq=False)(kind)


class IntensityMapping:
    """What a mapping of one contrast, `Mapping`, and of several, `PerChannel`, have in common.

    Its attributes are options of recipes only where a subclass makes them so.
    """

    name = ""
    per = "set"  # what the mapping is fitted to, see `Mapping`
    nearest = False  # whether the images are label maps, which are resized by the nearest pixel
    fitted: Any = None  # JSON
    range: tuple[float, float]  # what the networks see

    @property
    def lines(self) -> list[Any]:
        """The mapping of each contrast."""
        return [self]

    @property
    def tissue(self) -> list[float]:
        """The network intensity of each contrast above which an image shows tissue, not air."""
        return [level for line in self.lines for level in line.tissue]

    def state(self) -> dict[str, Any]:
        """All that `mapping_from` needs, as JSON; part of every checkpoint."""
        raise NotImplementedError

    def measure(self, pixels: np.ndarray, /) -> Any:
        """The figures of a scan (C, *spatial) that its mapping depends on, as JSON."""
        raise NotImplementedError

    def for_scan(self, measured: Any) -> Any:
        """The mapping of a scan by its figures; the fitted mapping where it has no contrast."""
        raise NotImplementedError

    def as_batch(self, values: Tensor) -> Tensor:
        """A view of values as (N, C, pixels), where channel i belongs to contrast i modulo their
        number.
        """
        return values.reshape(1, 1, -1)

    def of(self, pixels: np.ndarray) -> Any:
        """The mapping of one scan (C, *spatial): its own with per = "volume", else this one."""
        return self.for_scan(self.measure(pixels)) if self.per == "volume" else self

    def forward(self, image: Pixels) -> Pixels:
        """Map native values to network values, of the training set or of the scan that `of` was
        called with.
        """
        return self._map(image, "forward")

    def inverse(self, image: Pixels) -> Pixels:
        """Map network values to native values, as `forward` does."""
        return self._map(image, "inverse")

    def _map(self, image: Any, way: str) -> Any:
        import torch

        from gantk.prepare.module import Scale

        values = image
        if not hasattr(image, "detach"):
            array = np.asarray(image)
            kind = torch.float64 if array.dtype == np.float64 else torch.float32
            values = torch.tensor(array, dtype=kind)

        batch = self.as_batch(values)
        function = getattr(Scale(self).to(values.device), way)
        parts = [function(part) for part in batch.split(MAX_VALUES_AT_ONCE, dim=2)]
        mapped = torch.cat(parts, dim=2).reshape(values.shape)
        return mapped if values is image else mapped.numpy()[()]


@option_fields
class Mapping(IntensityMapping):
    """Maps a contrast's native intensities to `range` and back: rising, piecewise linear, never
    clipped.

    `per` is what the mapping is fitted to: the training "set", or each "volume", the whole scan that
    a slice belongs to. Then results are mapped back by the mean of the training scans on the usual
    scale, and scans without contrast are mapped by it. `inverse` is exact.

    Arrays are computed in float64 and returned in their own precision, integers as float32; torch
    tensors stay tensors. A subclass, `class Mine(Mapping, name="mine")`, defines `measure(pixels)`,
    the figures of a scan (C, *spatial) that its mapping depends on; `fit_from([figures, ...])`,
    which sets `fitted` (JSON) from all training scans; `take(figures)`, which maps by one scan that
    has contrast; and `corners()`, native and network values.
    """

    range: tuple[float, float] = (-1.0, 1.0)  # intensities that the networks see

    def __init_subclass__(cls, name: str = "", **keywords: Any):
        super().__init_subclass__(**keywords)
        cls.name = name or cls.name

    def __post_init__(self):
        start, end = self.range
        self.range = float(start), float(end)
        if not start < end:
            raise UserError(
                f"range = {list(self.range)} is empty",
                where="data.intensity.range",
                allowed="[start, end] with start below end",
            )
        if self.per == "image":  # of an earlier version
            raise UserError(
                'per = "image", one mapping for each image, is not possible any more',
                where="data.intensity.per",
                allowed=("set", "volume"),
            )

    def fit_from(self, measured: Sequence[list[float]]) -> None:
        """Set `fitted` from the figures of all training scans."""
        raise NotImplementedError

    def take(self, measured: list[float]) -> None:
        """Map by the figures of one scan from now on, if it has contrast."""
        raise NotImplementedError

    def corners(self) -> tuple[Numbers, Numbers]:
        """Native values and the network values that they are mapped to."""
        raise NotImplementedError

    def fit(self, images: Sequence[np.ndarray]) -> None:
        """Fit to training images (C, *spatial) of this domain; UserError where all are constant."""
        self.fit_from([self.measure(image) for image in images])

    def for_scan(self, measured: list[float] | None) -> Mapping:
        own = copy.copy(self)
        own.per = "set"
        if measured is not None:  # else a contrast that the patient lacks
            own.take(measured)
        return own

    def state(self) -> dict[str, Any]:
        return {"name": self.name, **asdict(self), "fitted": self.fitted}

    @property
    def tissue(self) -> list[float]:
        start, end = self.range
        share = AIR_SHARE
        if isinstance(self.fitted, list) and len(self.fitted) > 2:
            share = self.fitted[2]

        return [start + share * (end - start)]

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Mapping:
        """The mapping of this kind that `state` describes."""
        options = {field.name: state[field.name] for field in fields(cls) if field.name in state}
        # options of earlier versions, which had these values where they changed nothing
        for name in state.keys() - options.keys() - {"name", "fitted"}:
            if state[name] != getattr(cls, name, False):
                raise UserError(
                    f"a mapping with {name} = {state[name]!r} cannot be used any more",
                    remedy="use the version of gantk that trained the model, or train it again",
                )
        mapping = cls(**options)
        mapping.fitted = state["fitted"]
        return mapping


class Linear(Mapping):
    """A straight line that takes two native values, the first of `fitted`, to the two ends of
    `range`.

    `fitted` may also hold the share of the range where tissue begins, and the lowest native value.
    If this is far below the start, as padding is in CT (-3024 HU), values darker than air by more
    than 2 % of the range are compressed: corners far below black would show a discriminator which
    images are real.
    """

    def fit(self, images: Sequence[np.ndarray]) -> None:
        """Do nothing: only subclasses are fitted."""

    def fit_from(self, measured: Sequence[list[float]]) -> None:
        """Set `fitted` to the mean figures of the scans on the usual scale; UserError where none has
        contrast.
        """
        scans = np.array([figures for figures in measured if rises(*figures[:2])])
        if not len(scans):
            raise no_contrast(*measured[0][:2])
        usual = of_usual_scale(scans[:, 1] - scans[:, 0])
        self.take(scans[usual].mean(axis=0).tolist())

    def take(self, measured: list[float]) -> None:
        if rises(*measured[:2]):
            self.fitted = measured

    def corners(self) -> tuple[Numbers, Numbers]:
        low, high = self.fitted[:2]
        start, end = self.range
        lowest = self.fitted[3] if len(self.fitted) > 3 else low
        if lowest >= low - MIN_PADDING_SHARE * (high - low):
            return self.fitted[:2], self.range

        knee = low - COMPRESSION_SHARE * (high - low)
        step = COMPRESSION_SHARE * (end - start)
        return np.array([lowest, knee, high]), np.array([start - 2 * step, start - step, end])


@option_fields
class Window(Linear, name="window"):
    """Maps two given values of the files to the ends of the range. For Hounsfield units and other
    calibrated scales.
    """

    low: float = -1000.0  # value mapped to the start of the range; default: air in Hounsfield units
    high: float = 2000.0  # value mapped to the end of the range; default: dense bone

    def __post_init__(self):
        super().__post_init__()
        if not self.low < self.high:
            raise UserError(
                f"the window from {self.low:g} to {self.high:g} is empty",
                where="data.intensity",
                allowed="low < high",
            )
        self.fitted = [float(self.low), float(self.high)]


@option_fields
class Learnt(Linear):
    """A line fitted to images: a subclass's `ends_of(images)` returns the native values of the two
    ends.
    """

    # fit one mapping to the whole training set, or one to each volume; each picture is one too
    per: Literal["set", "volume"] = "set"

    def fit(self, images: Sequence[np.ndarray]) -> None:
        if self.per == "set":
            self.fit_from([self.measure(*images)])
        else:
            Mapping.fit(self, images)

    def ends_of(self, images: Sequence[np.ndarray]) -> tuple[float, float]:
        """The native values of the two ends of the range."""
        raise NotImplementedError

    def measure(self, *images: np.ndarray) -> list[float]:
        """The native values of the two ends, the share of the range where tissue begins, and the
        lowest value.
        """
        low, high = map(float, self.ends_of(images))
        if not rises(low, high):
            return [low, high]

        lowest = low
        # only `percentile` with low = 0 starts at air
        if getattr(self, "low", 1) == 0:
            lowest = min(low, float(min(image.min() for image in images)))

        tissue = AIR_SHARE
        air = air_of(_values(images), high)
        if air is not None:
            start, usual, end = air
            black = start if lowest < low else low
            if usual <= black + 0.8 * AIR_SHARE * (high - black):
                tissue = AIR_SHARE + (1 - AIR_SHARE) * (black - low) / (high - low)
            else:  # noisy air reaches beyond 5 % of the range
                begin = max(end, usual + AIR_SHARE * (high - usual))
                tissue = min(0.9, (begin - low) / (high - low))

        return [low, high, tissue, lowest]


@option_fields
class Percentile(Learnt, name="percentile"):
    """Maps two percentiles of the training images to the ends of the range: robust against a few
    bright voxels.
    """

    # percentile mapped to the start of the range; 0 = the darkest value, at most 2.5 % below air
    low: float = 0.0
    high: float = 99.5  # percentile mapped to the end of the range; brighter values exceed it

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.low < self.high <= 100:
            raise UserError(
                f"the percentiles low = {self.low:g} and high = {self.high:g} are not valid",
                where="data.intensity",
                allowed="0 <= low < high <= 100",
            )

    def ends_of(self, images: Sequence[np.ndarray]) -> tuple[float, float]:
        values = _values(images)
        low, high = np.percentile(values, (self.low, self.high))
        # the extremes must not depend on the sampling
        if self.high == 100:
            high = max(image.max() for image in images)

        if self.low == 0:
            low = min(image.min() for image in images)
            air = air_of(values, high)
            if air is not None:
                low = max(low, air[0] - MARGIN * (high - air[0]))

        return low, high


def usual_scale(are_whole: bool) -> dict[str, Any]:
    """The options of `percentile` for images without units: for whole scans, each on its own scale, as
    scanners share none, or for pictures of one scale.
    """
    return {"high": 99.9} | ({"low": 5.0, "per": "volume"} if are_whole else {})


@option_fields
class MinMax(Learnt, name="minmax"):
    """Maps the smallest and the largest value of the training images to the ends of the range."""

    def ends_of(self, images: Sequence[np.ndarray]) -> tuple[float, float]:
        return min(image.min() for image in images), max(image.max() for image in images)


@option_fields
class ZScore(Learnt, name="zscore"):
    """Maps the mean to the middle of the range, and `spread` standard deviations on either side to
    its ends.
    """

    spread: Positive = 3.0  # standard deviations between the middle and each end of the range

    def ends_of(self, images: Sequence[np.ndarray]) -> tuple[float, float]:
        values = _values(images).astype(np.float64)
        mean = values.mean()
        reach = self.spread * values.std()
        return mean - reach, mean + reach


class PerChannel(IntensityMapping):
    """One intensity mapping for each contrast of a domain; images are (C, *spatial) or (N, C,
    *spatial).

    Channel i belongs to contrast i modulo their number: neighbouring slices repeat them. A contrast
    that a patient lacks is NaN; `fit` and `of` skip it.
    """

    def __init__(self, lines: Sequence[Any], names: Sequence[str], dims: int):
        self._lines = list(lines)
        self.names = tuple(names)
        self.dims = dims
        self.range = self.lines[0].range
        self.per = self.lines[0].per

    @property
    def lines(self) -> list[Any]:
        return self._lines

    def fit(self, images: Sequence[np.ndarray]) -> None:
        scans = [self._contrasts(image) for image in images]
        for line, parts in self._by_contrast(scans):
            line.fit(parts)

    def fit_from(self, measured: Sequence[list[list[float] | None]]) -> None:
        for line, figures in self._by_contrast(measured):
            line.fit_from(figures)

    def measure(self, pixels: np.ndarray) -> list[list[float] | None]:
        """The figures of each contrast of one scan (C, *spatial); None for one that the patient
        lacks.
        """
        pairs = zip(self.lines, self._contrasts(pixels), strict=True)
        return [None if part is None else line.measure(part) for line, part in pairs]

    def for_scan(self, measured: Sequence[list[float] | None]) -> PerChannel:
        pairs = zip(self.lines, measured, strict=True)
        return PerChannel([line.for_scan(each) for line, each in pairs], self.names, self.dims)

    def as_batch(self, values: Tensor) -> Tensor:
        channels, *spatial = values.shape[-self.dims - 1 :]
        return values.reshape(-1, channels, prod(spatial))

    def state(self) -> dict[str, Any]:
        return {
            "contrasts": list(self.names),
            "dims": self.dims,
            "lines": [line.state() for line in self.lines],
        }

    def _contrasts(self, pixels: np.ndarray) -> list[np.ndarray | None]:
        """The channels of each contrast; None for one that the patient lacks."""
        count = len(self.lines)
        parts = [pixels[first::count] for first in range(count)]
        return [None if np.isnan(part).any() else part for part in parts]

    def _by_contrast(self, scans: Sequence[Sequence[Any]]) -> Iterator[tuple[Any, list[Any]]]:
        """Each contrast's mapping, and the images, or figures, of the scans that have it."""
        for number, line in enumerate(self.lines):
            present = [parts[number] for parts in scans if parts[number] is not None]
            if not present:
                raise UserError(
                    f"none of the {len(scans)} training images has the contrast '{self.names[number]}'",
                    where="data.source",
                )
            yield line, present


def network_range(mappings: Iterable[IntensityMapping]) -> tuple[float, float]:
    """The network intensities of black and white, the same for all domains."""
    return next(iter(mappings)).range


def mapping_from(state: dict[str, Any]) -> IntensityMapping:
    """The intensity mapping that `state` describes, of one contrast or of several; UserError if it
    is invalid.
    """
    if "contrasts" in state:
        lines = [mapping_from(each) for each in state["lines"]]
        return PerChannel(lines, state["contrasts"], state["dims"])

    from gantk.plugin.loader import registry

    remedy = "use another checkpoint of the run"
    with reading_file("intensity", "an intensity mapping", where="meta.json", remedy=remedy):
        # the options of a plugin's kind may be damaged, or its figures not its own
        mapping = registry().get("intensity", state["name"]).load().from_state(state)
        start, end = mapping.range
        native = mapping.inverse(np.linspace(start, end, 9))
        if not (np.isfinite(native).all() and (np.diff(native) > 0).all()):
            raise ValueError("it does not increase")

    return mapping


def otsu(values: np.ndarray) -> float:
    """The threshold of largest variance between the two classes of values; the middle of several
    equal ones.

    Otsu (1979), IEEE Trans. Syst. Man Cybern. 9(1), of a histogram that ends at the 99.9th
    percentile. Without contrast it is the lowest value. It depends little on the zeros of a stripped
    skull and on the share of air.
    """
    values = some_of(values, MAX_HISTOGRAM_VALUES)
    low = values.min()
    top = np.percentile(values, 99.9, method="lower")
    if not rises(low, top):
        top = values.max()
    if not rises(low, top):
        return float(low)

    counts, edges = np.histogram(np.minimum(values, top), OTSU_BINS, (float(low), float(top)))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1].astype(np.float64)
    weighted = np.cumsum(counts * centres)
    above = values.size - below
    # outermost bins are filled: never 0 / 0
    apart = weighted[:-1] / below - (weighted[-1] - weighted[:-1]) / above
    between = below * above * apart**2
    best = np.flatnonzero(between >= between.max() * (1 - 1e-9))
    return float((edges[best[0] + 1] + edges[best[-1] + 1]) / 2)


def air_of(values: np.ndarray, high: float) -> tuple[float, float, float] | None:
    """Start, usual value and end of air among intensities up to `high`; None without air.

    Air is the highest peak of the histogram below Otsu's threshold, as far as its counts fall from
    bin to bin and are above 1 % of the peak's; hardly any value may be darker.
    """
    values = _without_padding(values, high)
    low = values.min()
    if not rises(low, high):
        return None

    counts, edges = np.histogram(values, AIR_BINS, (low, high))
    bins_below = int(np.searchsorted(edges, otsu(values)))
    peak, first, last = _peak(counts, min(max(1, bins_below), AIR_BINS))
    in_peak = values[(values >= edges[peak]) & (values <= edges[peak + 1])]
    usual = float(np.median(in_peak))
    start = float(edges[first])
    end = float(edges[last + 1])
    # Zeros of a stripped skull are one value: start at it, not at the edge of its bin.
    if first == peak and (in_peak == usual).mean() > 0.5:
        start = usual

    if (values < start).mean() > 0.02 or (values <= end).mean() < 0.05:
        return None
    if end - start > 0.3 * (high - start):
        return None

    return start, usual, end


def _peak(counts: np.ndarray, bins: int) -> tuple[int, int, int]:
    """The highest of the first `bins` bins, and the first and last bin of its peak."""
    peak = int(np.argmax(counts[:bins]))
    before = counts[peak : bins - 1]
    after = counts[peak + 1 : bins]
    few = 0.01 * counts[peak]
    falls = (after >= few) & ((after <= before) | (2 * before > counts[peak]))
    first = int(max(np.flatnonzero(counts[:peak] < few), default=-1)) + 1
    last = peak + int(np.argmin([*falls, False]))
    return peak, first, last


def _without_padding(values: np.ndarray, high: float) -> np.ndarray:
    """The values without CT's padding far below air (-2000, -3024), and without the blurred rim of
    the padding.
    """
    while True:
        low = values.min()
        padding = values <= low + 1e-3 * (high - low)
        if padding.mean() <= 1e-4 or padding.all():
            return values

        others = values[~padding]
        first = np.percentile(others, 5)  # beyond the rim
        span = high - first
        rim = ~padding & (values < first - 0.05 * span)
        is_far_below = first <= -200 and first - low >= 0.2 * span
        # Many values are alike in air, but not in the dark end of a brain.
        begins_with_air = (others < first + 0.1 * span).mean() >= 0.1
        if not (is_far_below and begins_with_air) or rim.sum() > padding.sum():
            return values

        values = values[~padding & ~rim]


def no_contrast(low: float, high: float) -> UserError:
    """The error for a domain whose training images are all constant."""
    return UserError(
        "the training images of a domain have no contrast: their intensities are between"
        f" {low:g} and {high:g}",
        where="data.intensity",
        remedy="look at the images, or change low and high",
    )


def rises(low: float, high: float) -> bool:
    """Whether two ends differ by more than the rounding that resizing in float32 leaves of one
    value, and by enough to compute with.
    """
    if not np.isfinite([low, high]).all():
        return False
    rounding = MIN_RELATIVE_CONTRAST * max(abs(low), abs(high))
    return bool(high - low > max(rounding, MIN_CONTRAST))


def of_usual_scale(spans: np.ndarray) -> np.ndarray:
    """Which of these spans of scans' intensities are near the median, up to a factor SCALE_RATIO: a
    scan in other units must not decide for all.

    All are, where the others are too many to be the exception. A span of 0, of a scan without
    contrast, says nothing about the scale, and counts as usual.
    """
    contrasts = spans[spans > 0]
    usual = np.median(contrasts) if contrasts.size else 0.0
    near = (spans <= SCALE_RATIO * usual) & (SCALE_RATIO * spans >= usual) | (spans == 0)
    is_exception = (~near).mean() <= MAX_SHARE_OF_OTHER_SCALES
    return near if is_exception else np.ones_like(near)


def other_scales(images: Sequence[np.ndarray], groups: Sequence[str]) -> set[str]:
    """The groups of images (of one patient, or one scan) that are not of the usual scale
    (`of_usual_scale`), such as one of five patients in other units.
    """
    ranges: dict[str, float] = {}
    for image, group in zip(images, groups, strict=True):
        low, high = np.nanpercentile(some_of(image, MAX_HISTOGRAM_VALUES), [1, 99])
        ranges[group] = max(ranges.get(group, 0.0), float(high) - float(low))

    usual = of_usual_scale(np.array(list(ranges.values())))
    return {group for group, near in zip(ranges, usual, strict=True) if not near}


def _values(images: Sequence[np.ndarray]) -> np.ndarray:
    """The values of all images in one row, sampled to MAX_PERCENTILE_VALUES."""
    share = max(1, MAX_PERCENTILE_VALUES // len(images))
    rng = np.random.default_rng(0)
    rows = []
    for image in images:
        row = some_of(image)
        rows.append(row if row.size <= share else rng.choice(row, share))

    return np.concatenate(rows)


def some_of(values: np.ndarray, count: int = MAX_SCAN_VALUES) -> np.ndarray:
    """The values in one row; of more than `count` a random sample of that size, always the same."""
    values = np.ravel(values)
    if values.size <= count:
        return values
    rng = np.random.default_rng(0)
    some = np.empty(count, values.dtype)
    for first in range(0, count, MAX_VALUES_AT_ONCE):  # the places take twice the memory
        part = some[first : first + MAX_VALUES_AT_ONCE]
        part[:] = values[rng.integers(values.size, size=part.size)]
    return some
