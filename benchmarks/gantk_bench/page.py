"""Writes bench.html: all rows of a bench folder (table, curves, pictures, conditions) in one file
for offline use.
"""

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gantk.errors import UserError
from gantk.files import write_file
from gantk.report.build import render
from gantk.report.charts import Chart, chart
from gantk.report.pictures import embedded, evenly
from gantk.report.run_record import Direction, Points, RunRecord, Samples
from gantk.report.words import baseline_name, digits, metric_name
from gantk.terminal import duration
from gantk_bench.comparison import BETTER, NO_CHANGE, REGRESSION, Change, change_lines
from gantk_bench.plan import settings_of
from gantk_bench.statistics import statistics
from gantk_bench.systems import FIRST, Line, Row, System, mapping, systems, value_of
from gantk_bench.tables import OPTIONAL, Column, columns, figure_name, named_scores, spread

HERE = Path(__file__).parent
TONES = {REGRESSION: "bad", BETTER: "good"}
MOST_CURVES = 16  # curves in one plot; of more, the best are shown
MINUTES = 600.0  # seconds; the axis of a longer plot is in minutes
BUDGET = 5_000_000  # bytes of pictures in the page
# (samples per direction, pixels); the first pair within BUDGET is used
SIZES = ((3, 160), (3, 96), (1, 96), (1, 64))
WALL = 3  # images generated from noise, for each sample that a translation would show


def write_page(rows: Iterable[Row], folder: Path, changes: Sequence[Change] | None = None) -> Path:
    """Write the folder's bench.html atomically; returns its path.

    `rows` may have any status and any metrics; their sample pictures are read from the folder.
    `changes` is the result of `gantk_bench.comparison.compare`; None if nothing was compared.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return write_file(
        folder / "bench.html", page(list(rows), folder, changes).encode("utf-8", "replace")
    )


def page(rows: list[Row], folder: Path, changes: Sequence[Change] | None = None) -> str:
    """The page's HTML."""
    groups = systems(rows)
    lines = [line for system in groups for line in system.lines]
    shown = [
        c
        for c in columns(lines)
        if c.title not in OPTIONAL or any(c.cell(line).sort for line in lines)
    ]
    suites = dict.fromkeys(str(row["suite"]) for row in rows if row.get("suite"))
    title = f"Benchmark: {', '.join(suites)}" if suites else "Benchmark"

    plots = over_time(lines)
    strips, left_out = gallery(groups, folder)
    context = {
        "title": title,
        "folder": folder.name,
        "facts": facts(rows, groups),
        "failures": [
            (
                row.get("label") or row.get("recipe") or "unnamed",
                row.get("status"),
                row.get("error"),
            )
            for row in rows
            if row.get("status") != "ok"
        ],
        "changes": (
            changes
            and [
                (TONES.get(each.verdict), each.cells)
                for each in changes
                if each.verdict != NO_CHANGE
            ]
        ),
        "changed": [*change_lines(changes or [])][-1],
        "columns": shown,
        "groups": [_group(line, shown) for line in lines],
        "statistics": statistics(groups),
        "plots": plots,
        "strips": strips,
        "left_out": left_out,
        "details": [detail(system) for system in groups],
        "conditions": conditions(rows),
        "data": {"charts": [plot.data for plot, _ in plots]},
    }
    return render(
        "bench.html.j2",
        context,
        folders=[HERE],
        styles=("page.css", "bench.css"),
        scripts=("charts.js", "zoom.js", "bench.js"),
    )


def facts(rows: list[Row], groups: list[System]) -> list[tuple[str, str]]:
    """(name, value) pairs of the strip under the title; empty values are left out."""
    good = sum(row.get("status") == "ok" for row in rows)
    judged = [line.judgement for system in groups for line in system.lines if line.judgement.tone]
    walls = [value for row in rows if (value := value_of(row.get("wall_s"))) is not None]
    started = sorted(str(row["started"]) for row in rows if row.get("started"))
    better = (
        f"{sum(judgement.tone == 'good' for judgement in judged)} of {len(judged)}"
        if judged
        else ""
    )
    pairs = [
        ("Rows", f"{good} of {len(rows)} finished"),
        ("Systems", str(len(groups))),
        ("Better than the best baseline", better),
        ("Time of all runs", duration(sum(walls)) if walls else ""),
        ("Started", started[0][:16].replace("T", " ") if started else ""),
    ]
    return [(name, value) for name, value in pairs if value]


def _group(line: Line, shown: list[Column]) -> dict[str, Any]:
    """Cells of a line of the table and, if it has several seeds, of a line for each seed."""
    seeds = []
    for system in line.system.by_seed if len(line.system.rows) > 1 else ():
        alone = Line(system, line.direction if system.scored else "")
        seeds.append([column.cell(alone) for column in shown])
    return {"cells": [column.cell(line) for column in shown], "seeds": seeds}


def conditions(rows: list[Row]) -> dict[str, list[tuple[str, list[tuple[str, int]]]]]:
    """Heading -> (name, [(value, number of rows with it)]), most frequent values first."""
    groups: dict[str, dict[str, Counter[str]]] = {"Machine": {}, "Versions": {}, "Source": {}}
    for row in rows:
        git = mapping(row.get("git"))
        changed = {True: "yes", False: "no"}.get(git.get("dirty"))
        source = {
            "commit": git.get("commit"),
            "uncommitted changes": changed,
            "runs at once": row.get("jobs"),
        }
        for heading, values in (
            ("Machine", row.get("machine")),
            ("Versions", row.get("versions")),
            ("Source", source),
        ):
            for name, value in mapping(values).items():
                if value not in (None, "", [], {}):
                    groups[heading].setdefault(str(name), Counter())[str(value)] += 1
    groups = {heading: values for heading, values in groups.items() if values}
    return {
        heading: [(name, each.most_common()) for name, each in groups[heading].items()]
        for heading in groups
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
            higher.setdefault(
                metric, bool(line.entry(metric).get("higher_is_better", metric in FIRST))
            )
    plots = []
    for (metric, label), series in sorted(
        all_series.items(), key=lambda each: each[0][0] not in FIRST
    ):
        best = sorted(
            series, key=lambda name: series[name][max(series[name])], reverse=higher[metric]
        )[:MOST_CURVES]
        note = f"the best {MOST_CURVES} of {len(series)}" if len(series) > MOST_CURVES else ""
        title = ", ".join(part for part in (metric_name(metric), label) if part)
        longest = max(max(series[name]) for name in best)
        unit, size = ("min", 60.0) if longest > MINUTES else ("s", 1.0)
        scaled = {
            name: {round(at / size, 3): value for at, value in series[name].items()}
            for name in best
        }
        drawn = chart(title, scaled, x=f"{{}} {unit} of training", tick=f"{{}} {unit}", joined=True)
        plots += [(drawn, note)] if drawn else []
    return plots


def detail(system: System) -> dict[str, Any]:
    """The page's section on one system: scores beside every baseline, alarms, the command, hashes."""
    selection = mapping(system.first("selection"))
    alarms = [mapping(alarm) for row in system.rows for alarm in row.get("alarms") or ()]
    return {
        "name": system.name,
        "tone": next(
            (
                t
                for t in ("bad", "near", "good")
                if t in [line.judgement.tone for line in system.lines]
            ),
            "",
        ),
        "status": system.status,
        "errors": list(
            dict.fromkeys(str(row["error"]) for row in system.failed if row.get("error"))
        ),
        "summary": str(system.first("summary") or ""),
        "system": str(system.first("system") or ""),
        "command": command(system.rows[0]),
        "tables": [_table(line) for line in system.lines if line.direction],
        "chosen": (
            f"step {selection['step']} chosen: {selection.get('rule') or ''}"
            if selection.get("step")
            else ""
        ),
        "alarms": list(
            dict.fromkeys(f"{a.get('alarm')}: {a.get('message') or ''}" for a in alarms)
        ),
        "hashes": [
            (name, str(system.first(key)))
            for name, key in (("recipe", "recipe_hash"), ("data", "data_hash"))
            if system.first(key)
        ],
    }


def _table(line: Line) -> dict[str, Any]:
    """The table of one direction: a column for each metric, the model in the first row, then each
    baseline.
    """
    metrics = line.metrics
    rows = [("gantk", True, [(line.text(m, line.scores(m)), spread(line, m)) for m in metrics])]
    for name in line.baselines:
        rows.append(
            (
                baseline_name(name),
                False,
                [(line.text(m, line.baseline(name, m)), "") for m in metrics],
            )
        )
    figures = line.published
    if any(m in figures for m in metrics):
        cells = [(digits(figures[m], 2) if m in figures else "–", "") for m in metrics]
        rows.append(("published, other data", False, cells))
    others = {
        figure_name(name): value for name, value in line.published.items() if name not in metrics
    }
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
    settings = [*map(str, row.get("settings") or ()), *settings_of(mapping(row.get("grid")))]
    # the last setting of each key
    last = {setting.partition("=")[0]: setting for setting in settings}
    words += [word for setting in last.values() for word in ("--set", setting)]
    words += ["--seed", str(row["seed"])] if row.get("seed") is not None else []
    return shlex.join(words)


# ---- its pictures


@dataclass(frozen=True)
class Strip:
    """One run's pictures in one direction: rows of input, output and truth, or images generated
    from noise.
    """

    name: str
    direction: str
    scores: str  # its main scores as text
    heads: tuple[str, ...]
    samples: tuple[tuple[str, ...], ...]  # data URIs; "" where a file is missing

    @property
    def size(self) -> int:
        return sum(len(uri) for sample in self.samples for uri in sample)


def gallery(
    systems: Sequence[System], folder: Path, *, budget: int = BUDGET
) -> tuple[dict[str, list[Strip]], int]:
    """(direction label -> strips, one per run, the first seeds of all systems first; number of
    strips left out).
    """
    sources = [
        source[1:] for source in sorted(_sources(systems, folder), key=lambda source: source[0])
    ]
    for count, side in SIZES:
        strips = [_strip(*source, count, side) for source in sources]
        if sum(strip.size for strip in strips) <= budget:
            break
    by_direction: dict[str, list[Strip]] = {}
    size = left_out = 0
    for strip in strips:
        size += strip.size
        left_out += size > budget
        if strip.samples and size <= budget:
            by_direction.setdefault(strip.direction, []).append(strip)
    return by_direction, left_out


def _sources(
    systems: Sequence[System], folder: Path
) -> Iterator[tuple[int, str, str, Samples, Direction]]:
    """(seed's position in its system, name, scores, the run's samples, one of their directions)."""
    for system in systems:
        for place, row in enumerate(system.rows):
            samples = _samples(folder, row.get("run"))
            name = f"{system.name}, seed {row.get('seed')}" if len(system.rows) > 1 else system.name
            for direction in samples.directions if samples else ():
                line = Line(System(system.name, (row,)), direction.key)
                yield place, name, named_scores(line), samples, direction


def _samples(folder: Path, run: object) -> Samples | None:
    """The samples of a row's run folder; None if it has none or does not lie inside the bench
    folder.
    """
    if not isinstance(run, str) or not run:
        return None
    try:
        path = (folder / run).resolve()
        return RunRecord(path).samples if path.is_relative_to(folder.resolve()) else None
    except (UserError, OSError, ValueError):
        return None


def _strip(
    name: str, scores: str, samples: Samples, direction: Direction, count: int, side: int
) -> Strip:
    step = samples.steps[-1]
    if direction.source is None:
        wall = (
            embedded(samples.picture(step, direction, i), side)
            for i in range(min(direction.count, WALL * count))
        )
        return Strip(name, direction.label, scores, (), tuple((uri,) for uri in wall if uri))
    rows = []
    for i in evenly(range(direction.count), count)[:count]:
        files = [samples.picture("input", direction, i), samples.picture(step, direction, i)]
        files += [samples.picture("truth", direction, i)] if samples.has_truth else []
        rows.append(tuple(embedded(file, side) for file in files))
    heads = ("input", "output", *(("truth",) if samples.has_truth else ()))
    return Strip(name, direction.label, scores, heads, tuple(row for row in rows if any(row)))
