"""What the bench page says of one system: its scores beside every baseline, its curves, what trains it again."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

from gantk.report.charts import Chart
from gantk.report.words import baseline_name, digits, interval, metric_name
from gantk_bench.plots import curves_of, timed
from gantk_bench.systems import Line, Row, System, mapping

Numbered = Callable[[Chart | None], list[tuple[int, Chart]]]  # a chart with its place in what the script reads


def detail(system: System, numbered: Numbered) -> dict[str, Any]:
    """All that is to be said of one system: scores beside every baseline, curves, the command."""
    curves: dict[str, dict[str, dict[float, float]]] = {}
    for line in system.lines:
        for metric, points in curves_of(line).items():
            curves.setdefault(metric, {})[line.label] = points
    selection = mapping(system.first("selection"))
    alarms = [mapping(alarm) for row in system.rows for alarm in row.get("alarms") or ()]
    return {
        "name": system.name,
        "tone": next((t for t in ("bad", "near", "good") if t in [line.judgement.tone for line in system.lines]), ""),
        "status": system.status,
        "errors": list(dict.fromkeys(str(row["error"]) for row in system.failed if row.get("error"))),
        "summary": str(system.first("summary") or ""),
        "system": str(system.first("system") or ""),
        "command": command(system.rows[0]),
        "tables": [_table(line) for line in system.lines if line.direction],
        "charts": [pair for m, series in curves.items() for pair in numbered(timed(metric_name(m), series))],
        "chosen": f"step {selection['step']} chosen: {selection.get('rule') or ''}" if selection.get("step") else "",
        "alarms": list(dict.fromkeys(f"{a.get('alarm')}: {a.get('message') or ''}" for a in alarms)),
        "hashes": [(name, str(system.first(key))) for name, key in (("recipe", "recipe_hash"), ("data", "data_hash"))
                   if system.first(key)],
    }  # fmt: skip


def _table(line: Line) -> dict[str, Any]:
    """One direction: a column a metric, the model above every baseline."""
    metrics = line.metrics

    def told(figure: Any, metric: str) -> str:
        return digits(figure.mean, line.places(metric)) if figure else "–"

    rows = [("gantk", True, [(told(line.figure(m), m), _beneath(line, m)) for m in metrics])]
    for name in line.baselines:
        rows.append((baseline_name(name), False, [(told(line.rival(name, m), m), "") for m in metrics]))
    figures = line.published
    if any(m in figures for m in metrics):
        rows.append(("published", False, [(digits(figures[m], 2) if m in figures else "–", "") for m in metrics]))
    others = {metric_name(name): value for name, value in line.published.items() if name not in metrics}
    return {
        "label": line.label,
        "metrics": [(metric_name(m), str(line.entry(m).get("definition") or "")) for m in metrics],
        "rows": rows,
        "others": others,
    }


def _beneath(line: Line, metric: str) -> str:
    figure, entry = line.figure(metric), line.entry(metric)
    places = line.places(metric)
    if figure and len(figure.values) > 1:
        return f"{digits(figure.low, places)} to {digits(figure.high, places)}"
    return interval(entry, places)


def command(row: Row) -> str:
    """What trains this row again."""
    words = ["gantk", "run", str(row.get("recipe") or "RECIPE")]
    words += ["--profile", str(row["profile"])] if row.get("profile") else []
    settings = {str(setting).partition("=")[0]: str(setting) for setting in row.get("settings") or ()}
    for setting in settings.values():  # of a key that was set twice, the last
        words += ["--set", setting]
    words += ["--seed", str(row["seed"])] if row.get("seed") is not None else []
    return shlex.join(words)
