"""Curves as inline SVG paths with axes and ticks, drawn without a plotting library."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from gantk.report.run_record import Points
from gantk.report.words import number

SIDE = 1000  # the viewBox of every curve; the page stretches it, so text and dots are HTML placed by percentage
MOST_POINTS = 500  # a curve with more is averaged in bins, which the page says


class Axis(NamedTuple):
    """A vertical axis: `ticks` are (percent from the top, label); `low`, `high` are powers of ten where `log`."""

    log: bool
    low: float
    high: float
    ticks: list[tuple[float, str]]

    def place(self, value: float) -> float | None:
        """The height of a value, 0 at the top and 1 at the bottom; None where the axis cannot show it."""
        if not math.isfinite(value) or (self.log and value <= 0):
            return None
        return (self.high - (math.log10(value) if self.log else value)) / (self.high - self.low)


class Curve(NamedTuple):
    """One line: per axis an SVG path of the values and, where there are many, one of their moving average."""

    name: str
    values: tuple[float | None, ...]
    latest: str
    paths: dict[str, str]
    trends: dict[str, str]


@dataclass(frozen=True)
class Chart:
    """Curves over training steps, or what `x` says; a logarithmic axis too where all that is drawn is positive."""

    title: str
    steps: tuple[float, ...]
    curves: tuple[Curve, ...]
    axes: dict[str, Axis]
    shown: str  # the axis the page opens with
    x_ticks: list[tuple[float, str]]
    bin: int  # log entries averaged into one point
    x: str  # a place on the horizontal axis in words, such as "step {}"

    def at(self, place: float) -> str:
        """A place on the horizontal axis in words."""
        return self.x.replace("{}", _counted(place))

    def x_percent(self, step: float) -> float:
        first, last = self.steps[0], self.steps[-1]
        return 100 * (step - first) / ((last - first) or 1)

    @property
    def data(self) -> dict[str, Any]:
        """What the page's script needs to read values off the curves."""
        return {
            "steps": self.steps,
            "names": [curve.name for curve in self.curves],
            "values": [curve.values for curve in self.curves],
            "axes": {name: [axis.low, axis.high, axis.log] for name, axis in self.axes.items()},
            "shown": self.shown,
            "x": self.x,
        }


def chart(
    title: str,
    series: dict[str, Points],
    *,
    from_zero: bool = False,  # whether the linear axis begins at 0
    allow_log: bool = False,  # whether a logarithmic axis is offered where all is positive
    x: str = "step {}",  # what a place on the horizontal axis is called
    tick: str = "{}",  # the same beneath the axis
    joined: bool = False,  # whether series that were measured at different places are read off between their points
) -> Chart | None:
    """Draws named series over steps; None where there is not one finite value."""
    series = {name: points for name, points in series.items() if any(map(math.isfinite, points.values()))}
    if not series:
        return None
    steps, table, width = _binned(series)
    finite = table[np.isfinite(table)]
    axes, shown = {"linear": _linear_axis(finite.min(), finite.max(), from_zero)}, "linear"
    if allow_log and finite.min() > 0:
        axes["log"] = _log_axis(finite.min(), finite.max())
        shown = "log" if finite.max() > 30 * np.median(finite) else "linear"
    first, last = float(steps[0]), float(steps[-1])
    span = last - first or 1.0
    fractions = (steps - first) / span

    def curve(name: str, row: np.ndarray) -> Curve:
        known = np.isfinite(row)
        read = np.interp(steps, steps[known], row[known], left=math.nan, right=math.nan) if joined else row
        values = [float(f"{value:.5g}") if math.isfinite(value) else None for value in read]
        paths = {key: _path(fractions, row, axis) for key, axis in axes.items()}
        trend = _trend(row) if len(row) >= 60 and not joined else None
        trends = {} if trend is None else {key: _path(fractions, trend, axis) for key, axis in axes.items()}
        latest = next((number(value) for value in reversed(values) if value is not None), "–")
        return Curve(name, tuple(values), latest, paths, trends)

    return Chart(
        title,
        tuple(int(step) if step.is_integer() else float(step) for step in steps),
        tuple(curve(name, row) for name, row in zip(series, table, strict=True)),
        axes,
        shown,
        [(100 * (at - first) / span, tick.replace("{}", _counted(at))) for at in nice_ticks(first, last, 5)],
        width,
        x,
    )


def nice_ticks(low: float, high: float, about: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten inside [low, high], around `about` of them."""
    if high <= low:
        return [low]
    raw = (high - low) / about
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _counted(place: float) -> str:
    """Whole numbers with their thousands apart, others to four digits."""
    return f"{place:,.0f}" if float(place).is_integer() else f"{place:.4g}"


def _binned(series: dict[str, Points]) -> tuple[np.ndarray, np.ndarray, int]:
    """Steps (S,), values (series, S) with NaN where absent, and how many log entries a point stands for."""
    steps = np.array(sorted(set().union(*series.values())), dtype=np.float64)
    table = np.array([[points.get(float(step), math.nan) for step in steps] for points in series.values()])
    width = math.ceil(len(steps) / MOST_POINTS)
    if width == 1:
        return steps, table, 1
    edges = np.arange(0, len(steps), width)
    known = np.isfinite(table)
    total = np.add.reduceat(np.where(known, table, 0.0), edges, axis=1)
    means = _divided(total, np.add.reduceat(known.astype(float), edges, axis=1))
    return np.maximum.reduceat(steps, edges), means, width


def _trend(row: np.ndarray) -> np.ndarray:
    """Centred moving average over a thirtieth of the curve."""
    window = np.ones(2 * (len(row) // 60) + 1)
    known = np.isfinite(row)
    total = np.convolve(np.where(known, row, 0.0), window, mode="same")
    return _divided(total, known * np.convolve(known.astype(float), window, mode="same"))


def _divided(total: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The quotient, NaN where the weight is 0."""
    return np.divide(total, weight, out=np.full(total.shape, math.nan), where=weight > 0)


def _path(fractions: np.ndarray, row: np.ndarray, axis: Axis) -> str:
    """An SVG path through the values, those left out that the axis cannot show."""
    heights = [axis.place(float(value)) for value in row]
    points = [f"{SIDE * x:.1f} {SIDE * y:.1f}" for x, y in zip(fractions, heights, strict=True) if y is not None]
    return "M" + "L".join(points) if points else ""


def _linear_axis(low: float, high: float, from_zero: bool) -> Axis:
    from_zero = from_zero and low >= 0
    low = 0.0 if from_zero else low
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    high, low = high + margin, low if from_zero else low - margin
    ticks = [(100 * (high - tick) / (high - low), number(tick)) for tick in nice_ticks(low, high, 5)]
    return Axis(False, float(low), float(high), ticks)


def _log_axis(low: float, high: float) -> Axis:
    bottom, top = math.log10(low), math.log10(high)
    margin = 0.06 * (top - bottom) or 0.1
    bottom, top = bottom - margin, top + margin
    multiples = (1,) if top - bottom > 2.5 else (1, 2, 5)
    values = [m * 10.0**p for p in range(math.floor(bottom), math.ceil(top) + 1) for m in multiples]
    inside = [value for value in values if bottom <= math.log10(value) <= top]
    return Axis(
        True, bottom, top, [(100 * (top - math.log10(value)) / (top - bottom), number(value)) for value in inside]
    )
