"""Draws curves as inline SVG paths with axes and ticks, without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gantk.report.run_record import Points
from gantk.report.words import number

# side of the SVG viewBox; the page stretches it, so text and dots are HTML placed by percentage
VIEW_BOX_SIDE = 1000
MAX_POINTS = 500  # longer curves are averaged in bins; the page states the bin size


class Axis(NamedTuple):
    """A vertical axis: `ticks` are (percent from the top, label); `low`, `high` are powers of ten
    where `log`.
    """

    low: float
    high: float
    log: bool
    ticks: list[tuple[float, str]]

    def place(self, values: Any) -> Any:
        """The vertical positions of values, 0 at the top and 1 at the bottom."""
        return (self.high - (np.log10(values) if self.log else values)) / (self.high - self.low)


class Chart:
    """Named curves over training steps, or over the quantity that `x` names.

    `steps` are the horizontal positions, `bin` the number of log entries averaged into a point,
    `axes` the vertical axes by name, `shown` the axis shown first. Each of `curves` is a dict:
    name, points, latest value, colour number, and per axis an SVG path and, for 60 points or more,
    a path of their moving average.
    """

    def __init__(
        self,
        title: str,
        series: dict[str, Points],
        *,
        from_zero: bool = False,  # whether the linear axis begins at 0
        allow_log: bool = False,  # whether to offer a logarithmic axis for positive values
        x: str = "step {}",  # label of a position on the horizontal axis
        tick: str = "{}",  # label of a tick of that axis
        names: Sequence[str] = (),  # curves with the same colour in every chart, in order
        # whether to interpolate between the points of series measured at different positions
        joined: bool = False,
        latest: bool = True,  # whether to show the last value of each curve
    ):
        places, table, self.bin = _average_in_bins(series)
        finite = table[np.isfinite(table)]
        low = float(finite.min())
        high = float(finite.max())
        self.title = title
        self.x = x
        self.rest = "latest" if latest else ""  # which values the legend shows at first
        self.shown = "linear"
        self.axes = {"linear": _axis(low, high, from_zero=from_zero)}
        if allow_log and low > 0:
            self.axes["log"] = _axis(low, high, log=True)
            self.shown = "log" if high > 30 * np.median(finite) else "linear"

        self.steps = [int(step) if step.is_integer() else step for step in places.tolist()]
        ticks = nice_ticks(self.steps[0], self.steps[-1])
        self.x_ticks = [
            (self.x_percent(at), tick.replace("{}", _position_text(at))) for at in ticks
        ]
        self.curves = [
            self._curve(name, row, joined) for name, row in zip(series, table, strict=True)
        ]
        order = list(dict.fromkeys([*names, *series]))
        for curve in self.curves:
            curve["colour"] = order.index(curve["name"])
            if not latest:
                curve["latest"] = ""

    def _curve(self, name: str, row: np.ndarray, joined: bool) -> dict[str, Any]:
        finite = np.isfinite(row)
        steps = np.array(self.steps)
        if joined:
            drawn = np.interp(steps, steps[finite], row[finite], left=math.nan, right=math.nan)
        else:
            drawn = row

        values = [float(f"{value:.5g}") if math.isfinite(value) else None for value in drawn]
        latest = next((number(value) for value in reversed(values) if value is not None), "–")
        trends = self._paths(_trend(row)) if len(row) >= 60 and not joined else {}
        return {
            "name": name,
            "points": values,
            "latest": latest,
            "paths": self._paths(row),
            "trends": trends,
        }

    def _paths(self, row: np.ndarray) -> dict[str, str]:
        """Axis name -> SVG path through the finite values."""
        finite = np.isfinite(row)
        paths = {}
        across = [
            VIEW_BOX_SIDE * self.x_percent(step) / 100 for step in np.array(self.steps)[finite]
        ]
        for name, axis in self.axes.items():
            points = zip(across, VIEW_BOX_SIDE * axis.place(row[finite]), strict=True)
            paths[name] = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
            if len(across) == 1:
                paths[name] += "h0"  # a dot

        return paths

    def at(self, place: float) -> str:
        """The label of a position on the horizontal axis."""
        return self.x.replace("{}", _position_text(place))

    def x_percent(self, step: float) -> float:
        return 100 * (step - self.steps[0]) / ((self.steps[-1] - self.steps[0]) or 1)

    @property
    def data(self) -> dict[str, Any]:
        """The data by which the page's script shows values at the pointer."""
        return {
            "steps": self.steps,
            "names": [curve["name"] for curve in self.curves],
            "values": [curve["points"] for curve in self.curves],
            "axes": {name: axis[:3] for name, axis in self.axes.items()},
            "shown": self.shown,
            "x": self.x,
        }


def chart(title: str, series: dict[str, Points], **options: Any) -> Chart | None:
    """Draw the named series that have finite values, with the options of `Chart`; None where no
    series has any.
    """
    series = {
        name: points for name, points in series.items() if any(map(math.isfinite, points.values()))
    }
    return Chart(title, series, **options) if series else None


def nice_ticks(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten inside [low, high], around five of them."""
    if high <= low:
        return [low]

    raw = (high - low) / 5
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)
    return [
        i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ]


def _position_text(place: float) -> str:
    """Format a position: whole numbers as 12,000, others to four digits."""
    return f"{place:,.0f}" if float(place).is_integer() else f"{place:.4g}"


def _average_in_bins(series: dict[str, Points]) -> tuple[np.ndarray, np.ndarray, int]:
    """Average series in bins; returns steps (S,), values (series, S), NaN where absent, and log
    entries per bin.
    """
    steps = np.unique([step for points in series.values() for step in points]).astype(np.float64)
    width = math.ceil(len(steps) / MAX_POINTS)
    bins = math.ceil(len(steps) / width)
    means = np.full((len(series), bins), math.nan)
    for row, points in zip(means, series.values(), strict=True):
        values = np.array(list(points.values()), dtype=np.float64)
        finite = np.isfinite(values)
        places = np.searchsorted(steps, list(points))[finite] // width
        entries = np.bincount(places, minlength=bins)
        total = np.bincount(places, weights=values[finite], minlength=bins)
        row[entries > 0] = total[entries > 0] / entries[entries > 0]

    ends = np.minimum(np.arange(1, bins + 1) * width, len(steps)) - 1
    return steps[ends], means, width


def _trend(row: np.ndarray) -> np.ndarray:
    """The centred moving average over a thirtieth of the curve."""
    window = np.ones(2 * (len(row) // 60) + 1)
    finite = np.isfinite(row)
    total = np.convolve(np.where(finite, row, 0.0), window, mode="same")
    return np.where(finite, total / np.convolve(finite, window, mode="same").clip(1), math.nan)


def _axis(low: float, high: float, *, log: bool = False, from_zero: bool = False) -> Axis:
    """Build an axis with ticks and a margin at both ends; no margin at 0 where `from_zero` and no
    value is below.
    """
    if log:
        low = math.log10(low)
        high = math.log10(high)

    at_zero = from_zero and low >= 0
    if at_zero:
        low = 0.0

    margin = 0.06 * (high - low)
    if not margin:
        margin = 0.1 if log else 0.05 * abs(high) or 1.0
    if not at_zero:
        low -= margin

    high += margin
    axis = Axis(low, high, log, [])
    for value in _log_ticks(low, high) if log else nice_ticks(low, high):
        axis.ticks.append((100 * float(axis.place(value)), number(value)))

    return axis


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, and their multiples by 2 and 5 on a short axis, inside 10^[low, high]."""
    multiples = (1,) if high - low > 2.5 else (1, 2, 5)
    powers = range(math.floor(low), math.ceil(high) + 1)
    values = [multiple * 10.0**power for power in powers for multiple in multiples]
    return [value for value in values if low <= math.log10(value) <= high]
