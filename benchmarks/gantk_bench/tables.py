"""The tables of a bench, in Markdown and on a terminal: columns, each of which turns a Line into a
Cell.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean, median
from textwrap import shorten

from gantk.metrics.names import baseline_words
from gantk.report.words import (
    digits,
    metric_name,
    number,
    short_time,
    typographic,
)
from gantk.terminal import TextTable, duration
from gantk_bench.rows import Row
from gantk_bench.statistics import sentences
from gantk_bench.systems import FIRST, Line, System, Values, systems

MEASURED = ("Memory", "Bare step", "Of peak", "Full length")  # of a suite of fixed minutes
# the verdict last, as in all tables of scores, so that it has its colour
ON_TERMINAL = ("Recipe", "Direction", "PSNR / SSIM", "Step time", "Training", "Verdict")
BASELINES = ("Best baseline", "L1 regression", "Identity", "Published, other data")
IN_MARKDOWN = (*ON_TERMINAL[:3], *BASELINES, "Verdict", "Training", "Images/s")
MAX_CELL_CHARACTERS = 120
TONES = {"good": "green", "bad": "red"}
LEGEND = (
    "Identity returns the input. The best baseline is that of identity, histogram matching,"
    " the best map of intensity alone and an L1 U-Net regression, the last two fitted on"
    " true training pairs, and pixel noise for images from noise.",
    "The verdict is the worst of all seeds and scores of the whole image, against the best"
    " baseline; without pairs: against the best of those that needed none.",
)


def figure_name(name: str) -> str:
    """A published figure's readable name; no report says what its accuracies and losses are of."""
    if name.startswith(("accuracy", "loss_")):
        return f"{metric_name(name)}, undefined in the report:"
    return metric_name(name)


@dataclass(frozen=True)
class Cell:
    """Contents of one table cell: its text, small print and tone."""

    text: str = "–"
    small: str = ""
    tone: str = ""

    @property
    def whole(self) -> str:
        """Text and small print in one line."""
        return ", ".join(part for part in (self.text, self.small) if part)


def cells(system: System, titles: Sequence[str]) -> list[list[Cell]]:
    """Line -> its cells in the columns of these titles."""
    return [[COLUMNS[title](line) for title in titles] for line in system.main_lines]


def _recipe(line: Line) -> Cell:
    system = line.system.first("system")
    seeds = len(line.system.rows)
    parts = (line.system.first("method"), f"{seeds} seeds" if seeds > 1 else "", system)
    small = ", ".join(part for part in parts if part)
    return Cell(line.system.name, small)


def _direction(line: Line) -> Cell:
    plain, _, after = line.label.partition(", ")
    notes = [after]
    if line.direction == line.system.main_lines[-1].direction:
        notes.append(line.system.more)
    return Cell(plain or "–", ", ".join(filter(None, notes)))


def verdict(line: Line) -> Cell:
    """Cell with the judgement against the best baseline, or the reason why there is none."""
    system = line.system
    if not system.scored:
        tone = "" if system.status == "skipped" else "bad"
        error = "".join(system.errors[:1])
        return Cell(system.status, error, tone)
    notes = []
    if line.without_pairs.words:
        notes.append(f"without pairs: {line.without_pairs.words}")
    if system.failed:
        notes.append(f"{len(system.failed)} of {len(system.rows)} seeds {system.status}")
    return Cell(line.judgement.words or "not judged", "; ".join(notes), line.judgement.tone)


def spread(line: Line, metric: str) -> str:
    """Small print of a score: lowest and highest value of several seeds, or the interval of one."""
    scores = line.scores(metric)
    places = line.places(metric)
    if len(scores) > 1:
        return f"{digits(min(scores), places)} to {digits(max(scores), places)}"
    return typographic(line.score(metric).interval(places))


def named_scores(line: Line) -> str:
    """The main scores: `PSNR 24.31, SSIM 0.861`."""
    return ", ".join(
        f"{metric_name(metric)} {line.text(metric, line.scores(metric))}" for metric in line.main
    )


def _main_scores(line: Line) -> Cell:
    scores = [_labelled(line, metric, line.scores(metric)) for metric in line.main]
    spreads = []
    if len(line.system.rows) > 1:
        spreads = [spread(line, metric) for metric in line.main]
    return Cell(" / ".join(scores) or "–", " / ".join(filter(None, spreads)))


def _baselines(line: Line, name_of: Callable[[str], str | None]) -> Cell:
    """The score of the baseline `name_of(metric)` for each main metric, with the names beneath."""
    texts = []
    names = []
    for metric in line.main:
        name = name_of(metric)
        if not name:
            continue
        names.append(baseline_words(name))
        scores = line.baseline(name, metric)
        if scores:
            texts.append(_labelled(line, metric, scores))
    if not texts:
        return Cell("")
    return Cell(" / ".join(texts), ", ".join(dict.fromkeys(names)))


def _one_baseline(line: Line, name: str) -> Cell:
    return replace(_baselines(line, lambda metric: name), small="")


def _labelled(line: Line, metric: str, scores: Values) -> str:
    """A score as text; metrics other than PSNR and SSIM are named."""
    text = line.text(metric, scores)
    return text if metric in FIRST else f"{metric_name(metric)} {text}"


def _published(line: Line) -> Cell:
    figures = line.published
    if not figures:
        return Cell()
    if figures.keys() <= set(FIRST):
        return Cell(" / ".join(digits(figures.get(metric), 2) for metric in FIRST))
    texts = [f"{figure_name(metric)} {number(value, 5)}" for metric, value in figures.items()]
    return Cell(texts[0], ", ".join(texts[1:]))


def _step_time(line: Line) -> Cell:
    steps = line.step_seconds
    if not steps:
        return Cell()
    middle = median(steps)
    spread = f"{short_time(min(steps))} to {short_time(max(steps))}" if len(steps) > 1 else ""
    return Cell(short_time(middle), spread)


def percent(share: float) -> str:
    """`41 %`."""
    return f"{100 * share:.0f} %"


def _speed(line: Line, key: str, text_of: Callable[[float], str]) -> Cell:
    """The mean over seeds of a figure of speed."""
    values = line.speed(key)
    return Cell(text_of(fmean(values))) if values else Cell()


COLUMNS: dict[str, Callable[[Line], Cell]] = {
    "Recipe": _recipe,
    "Direction": _direction,
    "Verdict": verdict,
    "PSNR / SSIM": _main_scores,
    "Best baseline": lambda line: _baselines(line, line.best),
    "L1 regression": partial(_one_baseline, name="regression"),
    "Identity": partial(_one_baseline, name="identity"),
    "Published, other data": _published,
    "Step time": _step_time,
    "Images/s": lambda line: _speed(line, "images_per_s", lambda value: number(value, 3)),
    "Memory": lambda line: _speed(line, "peak_memory_gib", lambda value: f"{number(value, 3)} GiB"),
    "Training": partial(_speed, key="seconds", text_of=duration),
    "Bare step": partial(_speed, key="step_s", text_of=short_time),
    "Of peak": partial(_speed, key="of_conv", text_of=percent),
    "Full length": partial(_speed, key="full_s", text_of=duration),
}


def markdown(rows: Iterable[Row]) -> str:
    """A Markdown table of rows, also of failed ones, and a legend; several seeds appear as mean
    (lowest to highest).
    """
    groups = systems(rows)
    lines = []
    timed = any(line.speed("step_s") for system in groups for line in system.lines)
    heads = (*IN_MARKDOWN, *MEASURED) if timed else IN_MARKDOWN
    table = [heads, ["---"] * len(heads)]
    for system in groups:  # one row for all directions
        lines += system.lines
        _, *columns = zip(*cells(system, heads), strict=True)
        table.append([f"`{_escaped(system.name)}`", *map(_in_markdown, columns)])
    text = [f"| {' | '.join(texts)} |" for texts in table]
    text += ["", *_legend(lines)]
    text += [f"- {_escaped(sentence)}" for sentence in sentences(groups)]
    return "\n".join([*text, ""])


def _in_markdown(column: Iterable[Cell]) -> str:
    """The cells of all directions in one; equal cells are written once."""
    texts = [shorten(cell.whole, MAX_CELL_CHARACTERS, placeholder="…") for cell in column]
    escaped = [_escaped(text) or "–" for text in texts]
    return escaped[0] if len(set(escaped)) == 1 else "<br>".join(escaped)


def _legend(lines: list[Line]) -> list[str]:
    """The legend: what the figures are, with the definition of each metric."""
    seeds = 0
    definitions: dict[str, str] = {}
    machines: set[str] = set()
    extra: list[float] = []  # processes beside those of the bench
    for line in lines:
        seeds = max(seeds, len(line.system.rows))
        for metric in line.main:
            definitions[metric] = line.score(metric).definition
        for row in line.system.rows:
            machines.add(str(row.machine.get("cpu") or ""))
            extra.append((row.load or 0.0) - (row.jobs or 1) * (row.machine.get("threads") or 1))

    figures = "Figures are PSNR in dB / SSIM, or what is named, on held-out images"
    if seeds > 1:
        figures += f"; mean (lowest to highest) of up to {seeds} seeds"
    notes = [f"{figures}.", *LEGEND]
    for metric, text in definitions.items():
        if text:
            notes.append(f"{_escaped(metric_name(metric))}: `{_escaped(text)}`.")
    machines.discard("")
    busy = max(extra, default=0.0)
    if busy >= 1:
        what = f"Up to {busy:.0f} other processes ran on the machine"
        notes.append(f"{what}: seconds and images/s are not its speed.")
    if machines:
        notes.append(f"Measured on {', '.join(sorted(map(_escaped, machines)))}.")
    return [f"- {note}" for note in notes]


def _escaped(text: object) -> str:
    """Text on one line, with the characters escaped that have a meaning in Markdown tables and
    HTML.
    """
    escaped = " ".join(str(text).split())
    for character, written in (("\\", "\\\\"), ("|", "\\|"), ("`", "'"), ("<", "&lt;")):
        escaped = escaped.replace(character, written)
    return escaped


def brief(row: Row) -> str:
    """The main scores of each direction: `T1 -> T2 PSNR 21.30, SSIM 0.810, better than the best baseline`."""
    system = System(row.label, (row,))
    texts = []
    for line in system.main_lines:
        if line.direction:
            parts = (named_scores(line), verdict(line).text)
            texts.append(f"{line.label} {', '.join(part for part in parts if part)}")
    if system.more:
        texts.append(system.more)
    return plain("   ".join(texts))


def terminal(rows: Sequence[Row]) -> TextTable:
    """A line for each direction of each system: mean (lowest to highest) over its seeds."""
    texts = []
    styles = []
    for system in systems(rows):
        for place, line in enumerate(cells(system, ON_TERMINAL)):
            name, *others = line  # what the recipe is stands in the files
            texts.append(
                ("" if place else plain(name.text), *(plain(each.whole) for each in others))
            )
            styles.append(TONES.get(line[-1].tone, ""))
    return TextTable(ON_TERMINAL, texts, styles)


def plain(text: str) -> str:
    """Text as a terminal of any encoding and width shows it."""
    return text.replace("\u00a0", " ").replace("→", "->").replace("–", "-").replace("−", "-")
