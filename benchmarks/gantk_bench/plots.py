"""Scores over the time of training: one plot for many systems, and the curves of a single one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gantk.report.charts import Chart, chart
from gantk.report.run_record import Points
from gantk.report.words import metric_name
from gantk_bench.systems import FIRST, Line, mapping, value_of

MOST_CURVES = 16  # in one plot; of more, the best
SINGLE = "what one system each does"
MINUTES = 600.0  # seconds; a plot that goes on for longer counts in minutes


def over_time(lines: Sequence[Line]) -> list[tuple[Chart, str]]:
    """Score against seconds of training: a plot for each metric and direction, and what it leaves out."""
    found: dict[tuple[str, str], dict[str, Points]] = {}
    higher: dict[str, bool | None] = {}
    for line in lines:
        for metric, points in curves_of(line).items():
            series = found.setdefault((metric, line.label), {})
            name = line.system.name
            series[name if name not in series else f"{name} ({len(series) + 1})"] = points
            higher.setdefault(metric, line.entry(metric).get("higher_is_better", metric in FIRST))
    for metric in dict.fromkeys(metric for metric, _ in found):
        _gather_single(found, metric)
    plots = []
    for metric, label in _order(found):
        series, falling = found[metric, label], bool(higher[metric])
        last = {name: points[max(points)] for name, points in series.items()}
        best = sorted(series, key=last.get, reverse=falling)[:MOST_CURVES]
        note = f"the best {MOST_CURVES} of {len(series)}" if len(series) > MOST_CURVES else ""
        title = ", ".join(part for part in (metric_name(metric), label) if part)
        drawn = timed(title, {name: series[name] for name in best})
        plots += [(drawn, note)] if drawn else []
    return plots


def _gather_single(found: dict[tuple[str, str], dict[str, Points]], metric: str) -> None:
    """Plots of one curve each go into one: what only one system does needs no plot of its own."""
    single = [key for key, series in found.items() if key[0] == metric and len(series) == 1]
    if len(single) > 1:
        gathered = {f"{name}, {key[1]}": points for key in single for name, points in found.pop(key).items()}
        others = any(key[0] == metric for key in found)
        found[metric, SINGLE if others else ""] = gathered


def _order(found: dict[tuple[str, str], Any]) -> list[tuple[str, str]]:
    """What a translation is known by first, and of one metric what most systems do."""
    rank = {metric: place for place, metric in enumerate(FIRST)}
    return sorted(found, key=lambda key: (rank.get(key[0], len(rank)), -len(found[key])))


def curves_of(line: Line) -> dict[str, Points]:
    """Metric -> seconds of training -> score, seeds averaged where they were measured at the same steps."""
    gathered: dict[str, dict[Any, list[tuple[float, float]]]] = {}
    for row in line.system.rows:
        entries = row.get("curve")
        for entry in entries if isinstance(entries, list) else ():
            seconds = value_of(mapping(entry).get("seconds"))
            scores = mapping(mapping(mapping(entry).get("scores")).get(line.direction))
            for metric, value in scores.items():
                score = value_of(value)
                if seconds is not None and score is not None and math.isfinite(score):
                    gathered.setdefault(metric, {}).setdefault(entry.get("step"), []).append((seconds, score))
    mean = lambda values: sum(values) / len(values)  # noqa: E731
    return {
        metric: {round(mean([s for s, _ in pairs]), 2): mean([v for _, v in pairs]) for pairs in by_step.values()}
        for metric, by_step in gathered.items()
    }


def timed(title: str, series: dict[str, Points]) -> Chart | None:
    """A plot over seconds, or over minutes where they are many."""
    longest = max((max(points) for points in series.values()), default=0.0)
    unit, size = ("min", 60.0) if longest > MINUTES else ("s", 1.0)
    scaled = {name: {round(t / size, 3): value for t, value in points.items()} for name, points in series.items()}
    return chart(title, scaled, x=f"{{}} {unit} of training", tick=f"{{}} {unit}", joined=True)
