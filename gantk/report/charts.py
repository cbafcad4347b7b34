"""Draws curves as inline SVG paths with axes and ticks, without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from gantk.report.run_record import Points
from gantk.report.words import number

# side of the SVG viewBox; the page stretches it, so text and dots are HTML placed by percentage
VIEW_BOX_SIDE = 1000
MAX_POINTS = 500  # longer curves are averaged in bins; the page states the bin size


class Axis(NamedTuple):
    """A vertical axis: `ticks` are (percent from the top, label)."""

    low: float
    high: float
    ticks: list[tuple[float, str]]


class Curve(NamedTuple):
    """A curve of a chart."""

    name: str
    points: list[float | None]
    latest: str  # the last value; "" where it is not shown
    path: str  # in SVG
    colour: int


class Chart:
    """Named curves over training steps, or over the quantity that `x` names.

    `steps` are the horizontal positions, `bin` the number of log entries averaged into a point.
    """

    def __init__(
        self,
        title: str,
        series: dict[str, Points],
        *,
        from_zero: bool = False,  # whether the axis begins at 0
        x: str = "step {}",  # label of a position on the horizontal axis
        tick: str = "{}",  # label of a tick of that axis
        names: Sequence[str] = (),  # curves with the same colour in every chart, in order
        latest: bool = True,  # whether to show the last value of each curve
    ):
        places, table, self.bin = _average_in_bins(series)
        finite = table[np.isfinite(table)]
        self.title = title
        self.x = x
        self.rest = "latest" if latest else ""  # which values the legend shows at first
        self.axis = _axis(float(finite.min()), float(finite.max()), from_zero=from_zero)
        self.steps = [int(step) if step.is_integer() else step for step in places.tolist()]
        ticks = nice_ticks(self.steps[0], self.steps[-1])
        self.x_ticks = [
            (self.x_percent(at), tick.replace("{}", _position_text(at))) for at in ticks
        ]
        order = list(dict.fromkeys([*names, *series]))
        self.curves = []
        for name, row in zip(series, table, strict=True):
            values = [
                float(f"{value:.5g}") if math.isfinite(value) else None for value in row.tolist()
            ]
            known = [value for value in values if value is not None]
            last = number(known[-1]) if latest else ""
            self.curves.append(Curve(name, values, last, self._path(row), order.index(name)))

    def _path(self, row: np.ndarray) -> str:
        """The SVG path through the finite values."""
        heights = VIEW_BOX_SIDE * (self.axis.high - row) / (self.axis.high - self.axis.low)
        points = [
            f"{VIEW_BOX_SIDE * self.x_percent(step) / 100:.1f} {y:.1f}"
            for step, y in zip(self.steps, heights, strict=True)
            if math.isfinite(y)
        ]
        dot = "h0" if len(points) == 1 else ""
        return f"M{'L'.join(points)}{dot}"

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
            "names": [curve.name for curve in self.curves],
            "values": [curve.points for curve in self.curves],
            "axis": [self.axis.low, self.axis.high],
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
    table = pd.DataFrame(series, dtype=np.float64).sort_index().replace([np.inf, -np.inf], np.nan)
    width = math.ceil(len(table) / MAX_POINTS)
    bins = np.arange(len(table)) // width
    steps = pd.Series(table.index, dtype=np.float64).groupby(bins).last()
    return steps.to_numpy(), table.groupby(bins).mean().to_numpy().T, width


def _axis(low: float, high: float, *, from_zero: bool) -> Axis:
    """Build an axis with ticks and a margin at both ends; no margin at 0 where `from_zero` and no
    value is below.
    """
    at_zero = from_zero and low >= 0
    if at_zero:
        low = 0.0

    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    if not at_zero:
        low -= margin

    high += margin
    ticks = [
        (100 * (high - value) / (high - low), number(value)) for value in nice_ticks(low, high)
    ]
    return Axis(low, high, ticks)
