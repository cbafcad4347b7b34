"""Writes bench.html: all rows of a bench folder (table, curves, pictures, conditions) in one file for offline use."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from gantk.files import write_file
from gantk.report.build import render
from gantk.report.charts import Chart, chart
from gantk.report.run_record import Points
from gantk.report.words import baseline_name, digits, metric_name, number
from gantk.terminal import duration
from gantk_bench.columns import Column, columns, figure_name, spread
from gantk_bench.comparison import BETTER, NO_CHANGE, REGRESSION, Change, change_lines
from gantk_bench.gallery import gallery
from gantk_bench.statistics import statistics
from gantk_bench.systems import FIRST, Line, Row, System, mapping, systems, value_of

Numbered = Callable[[Chart | None], list[tuple[int, Chart]]]  # (index in the script's data, chart); [] for None

HERE = Path(__file__).parent
MOST_NAMED = 6  # recipes named in a command; for more it has --all
MOST_CURVES = 16  # curves in one plot; of more, the best are shown
MINUTES = 600.0  # seconds; the axis of a longer plot is in minutes


def write_page(rows: Iterable[Row], folder: Path, changes: Sequence[Change] | None = None) -> Path:
    """Write the folder's bench.html atomically; returns its path.

    `rows` may have any status and any metrics; their sample pictures are read from the folder. `changes` is the result
    of `gantk_bench.comparison.compare`; None if nothing was compared.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return write_file(folder / "bench.html", page(list(rows), folder, changes).encode("utf-8", "replace"))


def page(rows: list[Row], folder: Path, changes: Sequence[Change] | None = None) -> str:
    """The page's HTML."""
    groups = systems(rows)
    lines = [line for system in groups for line in system.lines]
    shown = columns(lines)
    places, charts = count(), []
    suites = dict.fromkeys(str(row["suite"]) for row in rows if row.get("suite"))
    title = f"Benchmark: {', '.join(suites)}" if suites else "Benchmark"

    def numbered(each: Chart | None) -> list[tuple[int, Chart]]:
        if each is None:
            return []
        charts.append(each)
        return [(next(places), each)]

    plots = [(i, c, note) for c, note in over_time(lines) for i, c in numbered(c)]
    details = [detail(system, numbered) for system in groups]
    strips, left_out = gallery(groups, folder)
    context = {
        "title": title,
        "folder": folder.name,
        "facts": facts(rows, groups),
        "failures": [(row.get("label") or row.get("recipe") or "unnamed", row.get("status"), row.get("error"))
                     for row in rows if row.get("status") != "ok"],
        "changes": _changes(changes),
        "columns": shown,
        "groups": [_group(line, shown) for line in lines],
        "statistics": statistics(groups),
        "plots": plots,
        "strips": strips,
        "left_out": left_out,
        "details": details,
        "conditions": conditions(rows),
        "commands": commands(rows, folder),
        "data": {"charts": [each.data for each in charts]},
    }  # fmt: skip
    return render(
        "bench.html.j2",
        context,
        folders=[HERE],
        styles=("page.css", "bench.css"),
        scripts=("charts.js", "zoom.js", "bench.js"),
    )


def _changes(changes: Sequence[Change] | None) -> dict[str, Any] | None:
    """Table rows of the differences, each with its tone, and a summary; None if nothing was compared."""
    if changes is None:
        return None
    *_, summary = change_lines(changes)
    tones = {REGRESSION: "bad", BETTER: "good"}
    value = lambda each, unit: "" if each is None else f"{number(each)} {unit}".strip()  # noqa: E731
    rows = [
        (tones.get(c.verdict, ""), c.verdict, c.label, c.what, value(c.before, c.unit), value(c.now, c.unit), c.reason)
        for c in changes
        if c.verdict != NO_CHANGE
    ]
    return {"summary": summary, "rows": rows}


def facts(rows: list[Row], groups: list[System]) -> list[tuple[str, str]]:
    """(name, value) pairs of the strip under the title; empty values are left out."""
    good = sum(row.get("status") == "ok" for row in rows)
    judged = [line.judgement for system in groups for line in system.lines if line.judgement.tone]
    walls = [value for row in rows if (value := value_of(row.get("wall_s"))) is not None]
    started = sorted(str(row["started"]) for row in rows if row.get("started"))
    pairs = [
        ("Rows", f"{good} of {len(rows)} finished"),
        ("Systems", str(len(groups))),
        (
            "Better than the best baseline",
            f"{sum(j.tone == 'good' for j in judged)} of {len(judged)}" if judged else "",
        ),
        ("Time of all runs", duration(sum(walls)) if walls else ""),
        ("Started", started[0][:16].replace("T", " ") if started else ""),
        ("Machine", _common_value(mapping(row.get("machine")).get("cpu") for row in rows)),
        ("Device", _common_value(mapping(row.get("machine")).get("device") for row in rows)),
        ("gantk", _common_value(mapping(row.get("versions")).get("gantk") for row in rows)),
        ("Commit", _common_value(_commit(row) for row in rows)),
    ]
    return [(name, value) for name, value in pairs if value]


def _common_value(values: Iterable[Any]) -> str:
    """The value that all rows share; "N different" if they differ, "" if none has one."""
    known = list(dict.fromkeys(str(value) for value in values if value not in (None, "")))
    return known[0] if len(known) == 1 else f"{len(known)} different" if known else ""


def _commit(row: Row) -> str:
    git = mapping(row.get("git"))
    return f"{str(git['commit'])[:10]}{' and changes' if git.get('dirty') else ''}" if git.get("commit") else ""


def _group(line: Line, shown: list[Column]) -> dict[str, Any]:
    """Cells of a line of the table and, if it has several seeds, of a line for each seed."""
    seeds = []
    for system in line.system.by_seed if len(line.system.rows) > 1 else ():
        alone = Line(system, line.direction if system.scored else "")
        seeds.append([column.cell(alone) for column in shown])
    return {"cells": [column.cell(line) for column in shown], "seeds": seeds}


def commands(rows: list[Row], folder: Path) -> list[tuple[str, str]]:
    """(title, command) pairs: the command that measures these rows again and compares with them."""
    recipes = list(dict.fromkeys(str(row["recipe"]) for row in rows if row.get("recipe") and not row.get("peer")))
    suite = next((str(row["suite"]) for row in rows if row.get("suite")), "quick")
    words = ["gantk", "bench", *(recipes if len(recipes) <= MOST_NAMED else ["--all"]), "--suite", suite]
    values: dict[str, list[str]] = {}
    for row in rows:
        for key, value in mapping(row.get("grid")).items():
            text = value if isinstance(value, str) else json.dumps(value)
            values.setdefault(str(key), []).append(text)
    for key, texts in values.items():
        words += ["--grid", f"{key}={','.join(dict.fromkeys(texts))}"]
    if folder.is_absolute() and folder.is_relative_to(Path.cwd()):
        folder = folder.relative_to(Path.cwd())
    return [("Measure again and compare", shlex.join([*words, "--against", str(folder / "rows.jsonl")]))]


def conditions(rows: list[Row]) -> dict[str, list[tuple[str, list[tuple[str, int]]]]]:
    """Heading -> (name, [(value, number of rows with it)]), most frequent values first."""
    groups: dict[str, dict[str, dict[str, int]]] = {"Machine": {}, "Versions": {}, "Source": {}}
    for row in rows:
        git = mapping(row.get("git"))
        source = {
            "commit": git.get("commit"),
            "uncommitted changes": {True: "yes", False: "no"}.get(git.get("dirty")),
            "runs at once": row.get("jobs"),
        }
        for heading, values in (("Machine", row.get("machine")), ("Versions", row.get("versions")), ("Source", source)):
            for name, value in mapping(values).items():
                if value not in (None, "", [], {}):
                    answers = groups[heading].setdefault(str(name), {})
                    answers[str(value)] = answers.get(str(value), 0) + 1
    return {
        heading: [(name, sorted(answers.items(), key=lambda each: -each[1])) for name, answers in values.items()]
        for heading, values in groups.items()
        if values
    }


def over_time(lines: Sequence[Line]) -> list[tuple[Chart, str]]:
    """(plot of score against training time, note on curves left out) for each metric and direction."""
    all_series: dict[tuple[str, str], dict[str, Points]] = {}
    higher: dict[str, bool] = {}
    for line in lines:
        for metric, points in line.curves.items():
            series = all_series.setdefault((metric, line.label), {})
            name = line.system.name
            series[name if name not in series else f"{name} ({len(series) + 1})"] = points
            higher.setdefault(metric, bool(line.entry(metric).get("higher_is_better", metric in FIRST)))
    plots = []
    for (metric, label), series in sorted(all_series.items(), key=lambda each: each[0][0] not in FIRST):
        best = sorted(series, key=lambda name: series[name][max(series[name])], reverse=higher[metric])[:MOST_CURVES]
        note = f"the best {MOST_CURVES} of {len(series)}" if len(series) > MOST_CURVES else ""
        title = ", ".join(part for part in (metric_name(metric), label) if part)
        drawn = timed(title, {name: series[name] for name in best})
        plots += [(drawn, note)] if drawn else []
    return plots


def timed(title: str, series: dict[str, Points]) -> Chart | None:
    """A plot over seconds, or over minutes if longer than MINUTES."""
    longest = max((max(points) for points in series.values()), default=0.0)
    unit, size = ("min", 60.0) if longest > MINUTES else ("s", 1.0)
    scaled = {name: {round(t / size, 3): value for t, value in points.items()} for name, points in series.items()}
    return chart(title, scaled, x=f"{{}} {unit} of training", tick=f"{{}} {unit}", joined=True)


def detail(system: System, numbered: Numbered) -> dict[str, Any]:
    """The page's section on one system: scores beside every baseline, curves, alarms, the command, hashes."""
    curves: dict[str, dict[str, dict[float, float]]] = {}
    for line in system.lines:
        for metric, points in line.curves.items():
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
    """The table of one direction: a column for each metric, the model in the first row, then each baseline."""
    metrics = line.metrics

    def text(figure: Any, metric: str) -> str:
        return digits(figure.mean, line.places(metric)) if figure else "–"

    rows = [("gantk", True, [(text(line.figure(m), m), spread(line, m)) for m in metrics])]
    for name in line.baselines:
        rows.append((baseline_name(name), False, [(text(line.baseline(name, m), m), "") for m in metrics]))
    figures = line.published
    if any(m in figures for m in metrics):
        cells = [(digits(figures[m], 2) if m in figures else "–", "") for m in metrics]
        rows.append(("published, other data", False, cells))
    others = {figure_name(name): value for name, value in line.published.items() if name not in metrics}
    return {
        "label": line.label,
        "metrics": [(metric_name(m), str(line.entry(m).get("definition") or "")) for m in metrics],
        "rows": rows,
        "others": others,
    }


def command(row: Row) -> str:
    """The command that trains this row again."""
    words = ["gantk", "run", str(row.get("recipe") or "RECIPE")]
    words += ["--profile", str(row["profile"])] if row.get("profile") else []
    settings = {str(setting).partition("=")[0]: str(setting) for setting in row.get("settings") or ()}
    for setting in settings.values():  # the last setting of each key
        words += ["--set", setting]
    words += ["--seed", str(row["seed"])] if row.get("seed") is not None else []
    return shlex.join(words)
