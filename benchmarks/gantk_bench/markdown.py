"""Bench rows as a Markdown table for a README: one row a system, its directions in it, definitions beneath."""

from __future__ import annotations

from collections.abc import Iterable

from gantk.report.words import baseline_name, digits, duration, metric_name, number
from gantk_bench.systems import FIRST, Figure, Judgement, Line, Row, mapping, systems

NOTHING = "–"
HEADS = ("system", "direction", "gantk", "best baseline", "L1 regression", "identity", "published", "verdict",
         "training", "images/s")  # fmt: skip
LONGEST_ERROR = 100  # characters; the page has all of it


def table(rows: Iterable[Row]) -> str:
    """A Markdown table of any rows, failed ones too, and what its figures mean; seeds are mean (lowest-highest)."""
    found = systems(rows)
    lines = [line for system in found for line in system.lines]
    heads = [_cells(HEADS), _cells("---" for _ in HEADS)]
    body = (_cells(_together([_written(line) for line in system.lines])) for system in found)
    return "\n".join([*heads, *body, "", *_legend(lines), ""])


def _together(lines: list[list[str]]) -> list[str]:
    """The directions of a system in one row; what is the same for all of them is said once."""
    return [cells[0] if len(set(cells)) == 1 else "<br>".join(cells) for cells in zip(*lines, strict=True)]


def _written(line: Line) -> list[str]:
    system, main = line.system, line.main
    name = f"`{_plain(system.name)}`"
    if not line.direction:
        why = _plain(system.error)
        shortened = why if len(why) <= LONGEST_ERROR else f"{why[: LONGEST_ERROR - 1]}…"
        said = f"{_plain(system.status)}{': ' if why else ''}{shortened}"
        return [name, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, _published(line), said, *_speed(line)]
    return [
        name,
        _plain(line.label),
        _named(main, [_figure(line, metric, line.figure(metric)) for metric in main]),
        _best(line),
        _named(main, [_figure(line, metric, line.rival("regression", metric), mean=True) for metric in main]),
        _named(main, [_figure(line, metric, line.rival("identity", metric), mean=True) for metric in main]),
        _published(line),
        verdict_words(line),
        *_speed(line),
    ]


def verdict_words(line: Line) -> str:
    """`better (0.98)`, `partly better (1.00), not in MAE; without pairs better (1.00)`."""
    said = _judged(line.judgement) or NOTHING
    unpaired = line.without_pairs
    failed = len(line.system.failed)
    seeds = f"; {failed} of {len(line.system.rows)} seeds {_plain(line.system.status)}" if failed else ""
    return f"{said}{'; without pairs ' + _judged(unpaired) if unpaired else ''}{seeds}"


def _judged(judgement: Judgement) -> str:
    chance = f" ({judgement.probability:.2f})" if judgement.probability is not None else ""
    short = f", not in {', '.join(judgement.short_in)}" if judgement.short_in else ""
    return f"{judgement.words}{chance}{short}"


def _named(metrics: list[str], values: list[str]) -> str:
    """`24.9 / 0.85`; a metric that is neither PSNR nor SSIM has its name."""
    if all(value == NOTHING for value in values):
        return NOTHING
    named = [v if m in FIRST else f"{_plain(metric_name(m))} {v}" for m, v in zip(metrics, values, strict=True)]
    return " / ".join(named)


def _figure(line: Line, metric: str, figure: Figure | None, *, mean: bool = False) -> str:
    if figure is None:
        return NOTHING
    places = line.places(metric)
    text = digits(figure.mean, places)
    if len(figure.values) == 1 or mean:
        return text
    return f"{text} ({digits(figure.low, places)}-{digits(figure.high, places)})"


def _best(line: Line) -> str:
    names = [line.best(metric) for metric in line.main]
    values = [
        _figure(line, metric, line.rival(name, metric) if name else None, mean=True)
        for name, metric in zip(names, line.main, strict=True)
    ]
    text = _named(line.main, values)
    known = [_plain(baseline_name(name)) for name in dict.fromkeys(names) if name]
    return text if text == NOTHING else f"{text} ({', '.join(known)})"


def _published(line: Line) -> str:
    published = line.published
    if not published:
        return NOTHING
    if all(metric in FIRST for metric in published):
        values = (digits(published[m], 2) if m in published else NOTHING for m in FIRST)
        return " / ".join(values)
    return ", ".join(f"{_plain(metric_name(name))} {number(value, 3)}" for name, value in published.items())


def _speed(line: Line) -> list[str]:
    seconds, rate = line.speed("seconds"), line.speed("images_per_s")
    return [duration(seconds.mean) if seconds else NOTHING, number(rate.mean, 3) if rate else NOTHING]


def _legend(lines: list[Line]) -> list[str]:
    """What the figures are; every definition once."""
    definitions = {m: str(line.entry(m).get("definition") or "") for line in lines for m in line.main}
    seeds = max((len(line.system.rows) for line in lines), default=0)
    machines = {str(mapping(row.get("machine")).get("cpu") or "") for line in lines for row in line.system.rows} - {""}
    said = [
        "Figures are PSNR in dB / SSIM, or what is named, on held-out images"
        + (f"; mean (lowest-highest) of up to {seeds} seeds." if seeds > 1 else "."),
        "Identity returns the input. The best baseline is that of identity, histogram matching, the best map of "
        "intensity alone and an L1 U-Net regression, the last two fitted on true training pairs, and pixel noise for "
        "images from noise.",
        "The verdict is against the best baseline, with the probability that the model is better (paired bootstrap "
        "over patients); without pairs: against the best of those that needed none.",
        *(f"{_plain(metric_name(metric))}: `{_plain(text)}`." for metric, text in definitions.items() if text),
        *([f"Measured on {', '.join(sorted(map(_plain, machines)))}."] if machines else []),
    ]
    return [f"- {sentence}" for sentence in said]


def _cells(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(text: object) -> str:
    """One line that breaks neither the table nor the page it stands on."""
    shown = " ".join(str(text).split()).replace("\\", "\\\\").replace("|", "\\|").replace("`", "'")
    return shown.replace("<", "&lt;")
