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
from gantk.metrics.references import spread as spread_evenly
from gantk.metrics.verdict import baseline_words
from gantk.report.build import render
from gantk.report.charts import Chart, chart
from gantk.report.pictures import data_uri
from gantk.report.run_record import Direction, Points, RunRecord, Samples
from gantk.report.words import digits, figure_name, metric_name
from gantk.terminal import duration
from gantk_bench.comparison import BETTER, NO_CHANGE, REGRESSION, Change, change_lines
from gantk_bench.plan import settings_of
from gantk_bench.rows import Row
from gantk_bench.statistics import statistics
from gantk_bench.systems import FIRST, Line, System, numbers, systems
from gantk_bench.tables import OPTIONAL, Column, columns, named_scores, spread

HERE = Path(__file__).parent
TONES = {REGRESSION: "bad", BETTER: "good"}
MAX_CURVES = 16  # in one plot; of more, the best are shown
MAX_SECONDS_AXIS = 600.0  # the axis of a longer plot is in minutes
MAX_PICTURE_BYTES = 5_000_000  # bytes of pictures in the page
# (samples per direction, pixels); the first pair within MAX_PICTURE_BYTES is used
SIZES = ((3, 160), (3, 96), (1, 96), (1, 64))
IMAGES_PER_SAMPLE = 3  # images generated from noise, for each sample that a translation would show


def write_page(rows: Iterable[Row], folder: Path, changes: Sequence[Change] | None = None) -> Path:
    """Write the folder's bench.html atomically; returns its path.

    `rows` may have any status and any metrics; their sample pictures are read from the folder.
    `changes` is the result of `gantk_bench.comparison.compare`; None if nothing was compared.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    html = page(list(rows), folder, changes)
    return write_file(folder / "bench.html", html.encode("utf-8", "replace"))


def page(rows: list[Row], folder: Path, changes: Sequence[Change] | None = None) -> str:
    """The page's HTML."""
    groups = systems(rows)
    lines = [line for system in groups for line in system.lines]
    shown = [column for column in columns(lines) if _is_needed(column, lines)]
    suites = dict.fromkeys(row.suite for row in rows if row.suite)
    title = f"Benchmark: {', '.join(suites)}" if suites else "Benchmark"

    plots = over_time(lines)
    strips, left_out = gallery(groups, folder)
    return render(
        "bench.html.j2",
        folders=[HERE],
        styles=("page.css", "bench.css"),
        scripts=("charts.js", "zoom.js", "bench.js"),
        title=title,
        folder=folder.name,
        facts=facts(rows, groups),
        failures=_failures(rows),
        changes=changes and _changes(changes),
        changed=[*change_lines(changes or [])][-1],
        columns=shown,
        groups=[_group(line, shown) for line in lines],
        statistics=statistics(groups),
        plots=plots,
        strips=strips,
        left_out=left_out,
        details=[detail(system) for system in groups],
        conditions=conditions(rows),
        data={"charts": [plot.data for plot, _ in plots]},
    )


def _is_needed(column: Column, lines: Sequence[Line]) -> bool:
    return column.title not in OPTIONAL or any(column.cell(line).sort for line in lines)


def _failures(rows: list[Row]) -> list[tuple[str, str, str]]:
    """(label, status, error) of every row that is not "ok"."""
    return [(row.label, row.status, row.error) for row in rows if row.status != "ok"]


def _changes(changes: Sequence[Change]) -> list[tuple[str | None, tuple[str, ...]]]:
    """(tone, cells) of everything that has changed."""
    changed = [change for change in changes if change.verdict != NO_CHANGE]
    return [(TONES.get(change.verdict), change.cells) for change in changed]


def facts(rows: list[Row], groups: list[System]) -> list[tuple[str, str]]:
    """(name, value) pairs of the strip under the title."""
    statuses = [row.status for row in rows]
    pairs = [
        ("Rows", f"{statuses.count('ok')} of {len(rows)} finished"),
        ("Systems", str(len(groups))),
    ]
    tones = [line.judgement.tone for system in groups for line in system.lines]
    judged = list(filter(None, tones))
    if judged:
        pairs.append(("Better than the best baseline", f"{judged.count('good')} of {len(judged)}"))
    seconds = numbers(row.wall_s for row in rows)
    if seconds:
        pairs.append(("Time of all runs", duration(sum(seconds))))
    starts = [row.started for row in rows if row.started]
    if starts:
        pairs.append(("Started", min(starts)[:16].replace("T", " ")))
    return pairs


def _group(line: Line, shown: list[Column]) -> dict[str, Any]:
    """Cells of a line of the table and, if it has several seeds, of a line for each seed."""
    seeds = []
    if len(line.system.rows) > 1:
        for system in line.system.by_seed:
            alone = Line(system, line.direction if system.scored else "")
            seeds.append([column.cell(alone) for column in shown])
    return {"cells": [column.cell(line) for column in shown], "seeds": seeds}


def conditions(rows: list[Row]) -> dict[str, list[tuple[str, list[tuple[str, int]]]]]:
    """Heading -> (name, [(value, number of rows with it)]), most frequent values first."""
    groups: dict[str, dict[str, Counter[str]]] = {"Machine": {}, "Versions": {}, "Source": {}}
    for row in rows:
        source = {
            "commit": row.git.get("commit"),
            "uncommitted changes": {True: "yes", False: "no"}.get(row.git.get("dirty")),
            "runs at once": row.jobs,
        }
        parts = {"Machine": row.machine, "Versions": row.versions, "Source": source}
        for heading, values in parts.items():
            for name, value in values.items():
                if value not in (None, "", [], {}):
                    groups[heading].setdefault(name, Counter())[str(value)] += 1
    return {
        heading: [(name, counter.most_common()) for name, counter in counters.items()]
        for heading, counters in groups.items()
        if counters
    }


def over_time(lines: Sequence[Line]) -> list[tuple[Chart, str]]:
    """(plot of score by training time, note on curves left out) of each metric and direction."""
    all_series: dict[tuple[str, str], dict[str, Points]] = {}
    higher_is_better: dict[str, bool] = {}
    for line in lines:
        for metric, points in line.curves.items():
            series = all_series.setdefault((metric, line.label), {})
            name = line.system.name
            if name in series:
                name = f"{name} ({len(series) + 1})"
            series[name] = points
            higher_is_better.setdefault(metric, bool(line.score(metric).higher_is_better))
    plots = []
    for metric, label in sorted(all_series, key=lambda key: key[0] not in FIRST):
        series = all_series[metric, label]
        title = ", ".join(filter(None, (metric_name(metric), label)))
        plot = _plot(title, _best_curves(series, higher_is_better[metric]))
        note = ""
        if len(series) > MAX_CURVES:
            note = f"the best {MAX_CURVES} of {len(series)}"
        if plot:
            plots.append((plot, note))
    return plots


def _best_curves(series: dict[str, Points], higher_is_better: bool) -> dict[str, Points]:
    """The MAX_CURVES curves with the best last score, the best first."""

    def last_score(curve: tuple[str, Points]) -> float:
        _, points = curve
        return points[max(points)]

    ranked = sorted(series.items(), key=last_score, reverse=higher_is_better)
    return dict(ranked[:MAX_CURVES])


def _plot(title: str, series: dict[str, Points]) -> Chart | None:
    """Scores against seconds of training, or against minutes of a longer one."""
    unit = "s"
    seconds_per_unit = 1.0
    if max(map(max, series.values())) > MAX_SECONDS_AXIS:
        unit = "min"
        seconds_per_unit = 60.0
    rounded = {
        name: {round(at / seconds_per_unit, 3): value for at, value in points.items()}
        for name, points in series.items()
    }
    return chart(title, rounded, x=f"{{}} {unit} of training", tick=f"{{}} {unit}", joined=True)


def detail(system: System) -> dict[str, Any]:
    """The section on one system: scores beside every baseline, alarms, the command, hashes."""
    selections = [row.selection for row in system.rows if row.selection.step]
    alarms = [f"{each.alarm}: {each.message}" for row in system.rows for each in row.alarms]
    tones = [line.judgement.tone for line in system.lines]
    chosen = ""
    if selections:
        chosen = f"step {selections[0].step} chosen: {selections[0].rule}"
    hashes = {"recipe": system.first("recipe_hash"), "data": system.first("data_hash")}
    return {
        "name": system.name,
        "tone": next((tone for tone in ("bad", "near", "good") if tone in tones), ""),
        "status": system.status,
        "errors": system.errors,
        "summary": system.first("summary"),
        "system": system.first("system"),
        "command": command(system.rows[0]),
        "tables": [_table(line) for line in system.lines if line.direction],
        "chosen": chosen,
        "alarms": list(dict.fromkeys(alarms)),
        "hashes": [(name, value) for name, value in hashes.items() if value],
    }


def _table(line: Line) -> dict[str, Any]:
    """The table of one direction: a column for each metric, the model in the first row, then each
    baseline.
    """
    metrics = line.metrics
    own = [(line.text(metric, line.scores(metric)), spread(line, metric)) for metric in metrics]
    rows = [("gantk", True, own)]
    for name in line.baselines:
        texts = [line.text(metric, line.baseline(name, metric)) for metric in metrics]
        rows.append((baseline_words(name), False, [(text, "") for text in texts]))
    figures = line.published
    if not figures.keys().isdisjoint(metrics):
        texts = [digits(figures.get(metric), 2) for metric in metrics]
        rows.append(("published, other data", False, [(text, "") for text in texts]))
    definitions = [line.score(metric).definition for metric in metrics]
    return {
        "label": line.label,
        "metrics": list(zip(map(metric_name, metrics), definitions, strict=True)),
        "rows": rows,
        "others": {figure_name(m): value for m, value in figures.items() if m not in metrics},
    }


def command(row: Row) -> str:
    """The command that trains this row again."""
    words = ["gantk", "run", row.recipe]
    if row.profile:
        words += ["--profile", row.profile]
    settings = [*row.settings, *settings_of(row.grid)]
    last_of_each_key = {setting.partition("=")[0]: setting for setting in settings}
    for setting in last_of_each_key.values():
        words += ["--set", setting]
    if row.seed is not None:
        words += ["--seed", str(row.seed)]
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
    systems: Sequence[System], folder: Path, *, budget: int = MAX_PICTURE_BYTES
) -> tuple[dict[str, list[Strip]], int]:
    """(direction label -> strips, one per run, the first seeds of all systems first; number of
    strips left out).
    """
    by_seed = sorted(_sources(systems, folder), key=lambda source: source[0])
    sources = [source[1:] for source in by_seed]
    for count, side in SIZES:
        strips = [_strip(*source, count, side) for source in sources]
        if sum(strip.size for strip in strips) <= budget:
            break
    by_direction: dict[str, list[Strip]] = {}
    size = 0
    left_out = 0
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
            samples = _samples(folder, row.run)
            name = f"{system.name}, seed {row.seed}" if len(system.rows) > 1 else system.name
            for direction in samples.directions if samples else ():
                line = Line(System(system.name, (row,)), direction.key)
                yield place, name, named_scores(line), samples, direction


def _samples(folder: Path, run: str) -> Samples | None:
    """The samples of a row's run folder; None if it has none or does not lie inside the bench
    folder.
    """
    if not run:
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
    kinds = {"input": "input", "output": step}
    if samples.has_truth:
        kinds["truth"] = "truth"
    heads = tuple(kinds)
    numbers_of_images = spread_evenly(range(direction.count), count)
    if direction.source is None:
        kinds = {"output": step}
        heads = ()
        numbers_of_images = range(min(direction.count, IMAGES_PER_SAMPLE * count))

    rows = []
    for i in numbers_of_images:
        files = [samples.picture(kind, direction, i) for kind in kinds.values()]
        row = tuple(data_uri(file, side) for file in files)
        if any(row):
            rows.append(row)
    return Strip(name, direction.label, scores, heads, tuple(rows))
