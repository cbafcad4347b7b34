"""The columns of the bench page: each turns a Line into a cell with its text, its small print and its sort key."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from gantk.report.words import baseline_name, digits, interval, joules, metric_name, number, short_time
from gantk.terminal import duration
from gantk_bench.systems import FIRST, Judgement, Line

LARGEST = 1e308  # replaces infinity: JavaScript does not parse Python's "inf"


@dataclass(frozen=True)
class Cell:
    """Contents of one table cell; `sort` is the sort key: a number as text, words in a column of words, or ""."""

    text: str = "–"
    small: str = ""
    sort: str = ""
    tone: str = ""
    title: str = ""


@dataclass(frozen=True)
class Column:
    """A column of the table, with the function that makes its cell from a Line."""

    title: str
    cell: Callable[[Line], Cell]
    words: bool = False  # sorted as words, else as numbers
    shown: bool = True  # else hidden until the reader chooses it
    left: bool = False  # text aligned left, else right as for numbers
    falling: bool = False  # whether the first click sorts in descending order
    note: str = ""


def columns(lines: Sequence[Line]) -> list[Column]:
    """The columns for these lines; some columns only if at least one line has a figure for them."""
    scored = list(dict.fromkeys([m for line in lines for m in line.metrics]))
    metrics = [m for m in FIRST if m in scored] + [m for m in scored if m not in FIRST]
    main_metrics = {metric for line in lines for metric in line.main}
    candidates = [
        Column("Recipe", _recipe, words=True),
        Column("Direction", _direction, words=True),
        Column("Verdict", _verdict, falling=True, left=True, note="against the best baseline, with its probability"),
        *(_metric_column(metric, metric in main_metrics, lines) for metric in metrics),
        Column("Best baseline", best_cell, note="in the main metrics"),
        Column("Published, other data", published_cell, left=True, note="of the system that the recipe reproduces"),
        Column("Step time", _step_time, note="median over the run, fastest to slowest log interval"),
        _speed_column("First step", "first_step_s", short_time, "from the start of the process"),
        _speed_column("Images/s", "images_per_s", lambda value: number(value, 3), "", falling=True),
        _speed_column("Memory", "peak_memory_gib", lambda value: f"{number(value, 3)} GiB", "peak"),
        _speed_column("Energy", "energy_j", joules, "of the device while training, where it tells"),
        _speed_column("Training", "seconds", duration, ""),
        Column("Status", _status, words=True),
    ]
    optional = {"Published, other data", "First step", "Memory", "Energy", "Step time"}
    return [c for c in candidates if c.title not in optional or any(c.cell(line).sort for line in lines)]


def sortable(value: float | None) -> str:
    """A number as text that JavaScript parses; "" for None and NaN."""
    if value is None or math.isnan(value):
        return ""
    return repr(max(-LARGEST, min(LARGEST, value)))


def _recipe(line: Line) -> Cell:
    method = str(line.system.first("method") or "")
    system = str(line.system.first("system") or "")
    seeds = len(line.system.rows)
    small = ", ".join(part for part in (method, f"{seeds} seeds" if seeds > 1 else "", system) if part)
    return Cell(line.system.name, small, line.system.name, title=system)


def _direction(line: Line) -> Cell:
    plain, _, after = line.label.partition(", ")
    return Cell(plain or "–", after, line.label)


def _verdict(line: Line) -> Cell:
    if not line.system.scored:
        tone = "" if line.system.status == "skipped" else "bad"
        return Cell(line.system.status, line.system.error, "-1", tone, title=line.system.error)
    judged, unpaired = line.judgement, line.without_pairs
    short = f"not in {', '.join(judged.short_in)}" if judged.short_in else ""
    fair = f"without pairs: {_judgement_text(unpaired)}" if unpaired else ""
    small = "; ".join(part for part in (short, fair) if part)
    return Cell(_judgement_text(judged) or "not judged", small, sortable(judged.rank), judged.tone)


def _judgement_text(judged: Judgement) -> str:
    return judged.words + (f" (p\u00a0{judged.probability:.2f})" if judged.probability is not None else "")


def _metric_column(metric: str, shown: bool, lines: Sequence[Line]) -> Column:
    entry = next((line.entry(metric) for line in lines if line.entry(metric)), {})
    unit, falling = str(entry.get("unit") or ""), bool(entry.get("higher_is_better", True))
    title = metric_name(metric) + (f" ({unit})" if unit else "")
    return Column(title, lambda line: _score(line, metric), shown=shown, falling=falling, note=_metric_note(entry))


def _metric_note(entry: dict) -> str:
    higher = entry.get("higher_is_better")
    sense = "" if higher is None else "higher is better" if higher else "lower is better"
    return "; ".join(part for part in (sense, str(entry.get("definition") or "")) if part)


def _score(line: Line, metric: str) -> Cell:
    figure = line.figure(metric)
    if figure is None:
        return Cell()
    places = line.places(metric)
    small = spread(line, metric)
    baseline = line.best(metric)
    baseline_figure = line.baseline(baseline, metric) if baseline else None
    title = f"{baseline_name(baseline)} {digits(baseline_figure.mean, places)}" if baseline_figure else ""
    return Cell(digits(figure.mean, places), small, sortable(figure.mean), title=title)


def spread(line: Line, metric: str) -> str:
    """Small print of a score: lowest and highest value of several seeds, or the interval of one."""
    figure, places = line.figure(metric), line.places(metric)
    if figure and len(figure.values) > 1:
        return f"{digits(figure.low, places)} to {digits(figure.high, places)}"
    return interval(line.entry(metric), places)


def best_cell(line: Line) -> Cell:
    """Cell with the best baseline in each main metric: scores, with names beneath; sorted by the first metric."""
    return baselines_cell(line, [line.best(metric) for metric in line.main])


def baselines_cell(line: Line, names: Sequence[str | None]) -> Cell:
    """Cell with one baseline's score for each main metric; metrics other than PSNR and SSIM are named."""
    scores = []
    for metric, name in zip(line.main, names, strict=True):
        if name and (figure := line.baseline(name, metric)):
            label = "" if metric in FIRST else f"{metric_name(metric)} "
            scores.append((f"{label}{digits(figure.mean, line.places(metric))}", figure.mean))
    if not scores:
        return Cell("")
    small = ", ".join(baseline_name(name) for name in dict.fromkeys(names) if name)
    return Cell(" / ".join(text for text, _ in scores), small, sortable(scores[0][1]))


def published_cell(line: Line) -> Cell:
    """Cell with the published figures of the system that a recipe reproduces."""
    figures = list(line.published.items())
    if not figures:
        return Cell()
    first = line.published.get("psnr", figures[0][1])
    if all(metric in FIRST for metric, _ in figures):
        values = (digits(line.published[m], 2) if m in line.published else "–" for m in FIRST)
        return Cell(" / ".join(values), "", sortable(first))
    texts = [f"{figure_name(metric)} {number(value, 3)}" for metric, value in figures]
    return Cell(texts[0], ", ".join(texts[1:]), sortable(first))


def figure_name(metric: str) -> str:
    """Name of a published figure; marks an accuracy as undefined, as no report says what is classified."""
    return metric_name(metric) + ", undefined in the report:" * metric.startswith("accuracy")


def _step_time(line: Line) -> Cell:
    steps = line.step_seconds
    if steps is None:
        return Cell()
    middle = median(steps.values)
    spread = f"{short_time(steps.low)} to {short_time(steps.high)}" if len(steps.values) > 1 else ""
    return Cell(short_time(middle), spread, sortable(middle))


def _speed_column(title: str, key: str, text_of: Callable[[float], str], note: str, *, falling: bool = False) -> Column:
    def cell(line: Line) -> Cell:
        figure = line.speed(key)
        return Cell(text_of(figure.mean), "", sortable(figure.mean)) if figure else Cell()

    return Column(title, cell, falling=falling, note=note)


def _status(line: Line) -> Cell:
    failed, total = len(line.system.failed), len(line.system.rows)
    if not failed:
        return Cell("ok", "", "ok", "good")
    words = line.system.status + (f", {failed} of {total} seeds" if total > 1 else "")
    return Cell(words, "", words, "" if line.system.status == "skipped" else "bad", title=line.system.error)
