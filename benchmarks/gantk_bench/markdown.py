"""Writes bench.md: a Markdown table for a README with one row for each system, and definitions beneath."""

from __future__ import annotations

from collections.abc import Iterable

from gantk.report.words import digits, metric_name, number
from gantk.terminal import duration
from gantk_bench.columns import baselines_cell, best_cell, published_cell
from gantk_bench.statistics import sentences
from gantk_bench.systems import FIRST, Judgement, Line, Row, mapping, systems

NOTHING = "–"
HEADS = ("system", "direction", "gantk", "best baseline", "L1 regression", "identity", "published, other data",
         "verdict", "training", "images/s")  # fmt: skip
LONGEST_ERROR = 100  # characters; bench.html has the whole text


def table(rows: Iterable[Row]) -> str:
    """A Markdown table of rows, also of failed ones, and a legend; several seeds appear as mean (lowest-highest)."""
    groups = systems(rows)
    body = [HEADS, ["---"] * len(HEADS)]
    for system in groups:  # one row for all directions; equal cells are written once
        cells = zip(*map(_cells, system.lines), strict=True)
        body.append([each[0] if len(set(each)) == 1 else "<br>".join(each) for each in cells])
    lines = [line for system in groups for line in system.lines]
    notes = [*_legend(lines), *(f"- {_escaped(sentence)}" for sentence in sentences(groups))]
    return "\n".join([*(f"| {' | '.join(cells)} |" for cells in body), "", *notes, ""])


def _cells(line: Line) -> list[str]:
    """The cells of one direction of a system."""
    system, baseline = line.system, best_cell(line)
    seconds, rate = line.speed("seconds"), line.speed("images_per_s")
    verdict = "; without pairs ".join(
        _judgement_text(each) for each in (line.judgement, line.without_pairs) if each and each.tone
    )
    if not system.scored:
        why = f"{system.status}{': ' if system.error else ''}{system.error}"
        verdict = why if len(why) <= LONGEST_ERROR else f"{why[: LONGEST_ERROR - 1]}…"
    elif system.failed:
        verdict = f"{verdict or NOTHING}; {len(system.failed)} of {len(system.rows)} seeds {system.status}"
    scores = []
    for metric in line.main:
        figure, places = line.figure(metric), line.places(metric)
        several = figure and len(figure.values) > 1
        spread = f" ({digits(figure.low, places)}-{digits(figure.high, places)})" if several else ""
        name = "" if metric in FIRST else f"{metric_name(metric)} "
        scores.append(f"{name}{digits(figure.mean, places)}{spread}" if figure else NOTHING)
    published = published_cell(line)
    texts = (
        line.label,
        " / ".join(scores),
        f"{baseline.text} ({baseline.small})" if baseline.small else "",
        *(baselines_cell(line, [name] * len(line.main)).text for name in ("regression", "identity")),
        ", ".join(part for part in (published.text, published.small) if part),
        verdict,
        duration(seconds.mean) if seconds else "",
        number(rate.mean, 3) if rate else "",
    )
    return [f"`{_escaped(system.name)}`", *(_escaped(text) or NOTHING for text in texts)]


def _judgement_text(judgement: Judgement) -> str:
    """`better (0.98)`, `partly better (1.00), not in MAE`."""
    chance = f" ({judgement.probability:.2f})" if judgement.probability is not None else ""
    short = f", not in {', '.join(judgement.short_in)}" if judgement.short_in else ""
    return f"{judgement.words}{chance}{short}"


def _legend(lines: list[Line]) -> list[str]:
    """The legend: what the figures are, with the definition of each metric."""
    definitions = {m: str(line.entry(m).get("definition") or "") for line in lines for m in line.main}
    seeds = max((len(line.system.rows) for line in lines), default=0)
    machines = {str(mapping(row.get("machine")).get("cpu") or "") for line in lines for row in line.system.rows} - {""}
    notes = [
        "Figures are PSNR in dB / SSIM, or what is named, on held-out images"
        + (f"; mean (lowest-highest) of up to {seeds} seeds." if seeds > 1 else "."),
        "Identity returns the input. The best baseline is that of identity, histogram matching, the best map of "
        "intensity alone and an L1 U-Net regression, the last two fitted on true training pairs, and pixel noise for "
        "images from noise.",
        "The verdict is against the best baseline, with the probability that the model is better (paired bootstrap "
        "over patients); without pairs: against the best of those that needed none.",
        *(f"{_escaped(metric_name(metric))}: `{_escaped(text)}`." for metric, text in definitions.items() if text),
        *([f"Measured on {', '.join(sorted(map(_escaped, machines)))}."] if machines else []),
    ]
    return [f"- {sentence}" for sentence in notes]


def _escaped(text: object) -> str:
    """Text on one line, with the characters escaped that have a meaning in Markdown tables and HTML."""
    escaped = " ".join(str(text).split()).replace("\\", "\\\\").replace("|", "\\|").replace("`", "'")
    return escaped.replace("<", "&lt;")
