"""The end of an evaluation on a terminal: one sentence, one table of scores, and what needs attention.

All further figures are in metrics.json and in the report. Read `summary_lines` first.
"""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gantk.metrics.pair_scores import FOREGROUND
from gantk.metrics.verdict import CEILING, baseline_row, title_of
from gantk.metrics.words import (
    pairs_sentence,
    result_sentence,
    short_metric_name,
    tone_of,
    verdict_words,
)
from gantk.recipe.published import PublishedSystem
from gantk.terminal import LINE_WIDTH, TextTable

LABEL_WIDTH = 9
NO_VALUE = "-"
HEADERS = ("direction", "score", "model", "baseline", "difference", "verdict")
HEADERS_WITHOUT_BASELINES = ("direction", "score", "value", "95 % interval", "tested")
COLOURS = {"good": "green", "near": "yellow", "bad": "bold red", "": ""}
# the scores of an uncertainty that a terminal shows
UNCERTAINTY_SCORES = ("auroc", "auroc_10", "auroc_10_whole", "ause", "spearman", "coverage")

Row = dict[str, Any]  # a score as metrics.json has it


@dataclass(frozen=True)
class ScoreLine:
    """One score of a direction beside that of the best baseline, as texts of the terminal's table."""

    direction: str
    score: str
    model: str
    baseline: str
    difference: str  # model minus baseline, with the 95 % interval over patients
    verdict: str
    tone: str


def summary_lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a terminal shows of a result (the content of metrics.json), each line with its
    label; the table is a `TextTable`.
    """
    for consequence in result.get("split", {}).get("consequences", ()):
        yield with_label("note", consequence)

    if not result["metrics"]:
        yield "result   no held-out pairs are known, so the outputs cannot be compared with real images"

    sentence = result_sentence(result)
    if sentence:
        yield with_label("result", sentence)

    lines = score_lines(result)
    if lines and any(line.verdict for line in lines):
        cells = [
            (line.direction, line.score, line.model, line.baseline, line.difference, line.verdict)
            for line in lines
        ]
        yield TextTable(HEADERS, cells, [COLOURS[line.tone] for line in lines])
    elif lines:
        yield TextTable(HEADERS_WITHOUT_BASELINES, list(_rows_without_baselines(result)))

    needs_pairs = pairs_sentence(result)
    if needs_pairs:
        yield with_label("note", needs_pairs)

    yield from _remarks(result)
    yield from result.get("lines", ())


def published_lines(result: Mapping[str, Any], system: PublishedSystem | None) -> Iterator[str]:
    """Yield a note for each direction with published scores that may stand beside those of the
    result.
    """
    if system is None:
        return
    for key in result["metrics"]:
        figures = system.beside(key)
        if figures:
            title = title_of(key, result.get("domains", []))
            scores = [f"{short_metric_name(name)} {value:.2f}" for name, value in figures.items()]
            what = f"published for {title}: {', '.join(scores)}"
            yield with_label("note", f"{what}, on other data, by another protocol")


def with_label(label: str, text: str) -> str:
    """A label and a text that is wrapped to lines of at most `LINE_WIDTH` characters."""
    wrapped = textwrap.wrap(
        text, LINE_WIDTH - LABEL_WIDTH, break_long_words=False, break_on_hyphens=False
    )
    indent = "\n" + LABEL_WIDTH * " "
    return f"{label:<{LABEL_WIDTH}}{indent.join(wrapped)}"


def score_lines(result: Mapping[str, Any]) -> list[ScoreLine]:
    """The scores of whole images and of lesions beside the best baseline's, in the order of
    metrics.json; those of the foreground are in the report only.
    """
    lines = []
    for key, rows in result["metrics"].items():
        title = title_of(key, result.get("domains", []))
        verdicts = result.get("verdict", {}).get(key, {})
        for metric, row in rows.items():
            if metric.endswith(FOREGROUND):
                continue

            verdict = verdicts.get(metric) or {}
            rival = baseline_row(result, verdict.get("best_baseline"), key, metric)
            line = ScoreLine(
                title,
                short_metric_name(metric),
                _value(row),
                _value(rival) if rival else NO_VALUE,
                _difference(row, rival, verdict.get("test")),
                verdict_words(verdict, short=True) if tone_of(verdict) else "",
                tone_of(verdict),
            )
            lines.append(line)
            title = ""  # once for the rows of a direction

    return lines


def _rows_without_baselines(result: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The cells of a table for files that are compared with files."""
    for key, rows in result["metrics"].items():
        title = title_of(key, result.get("domains", []))
        for metric, row in rows.items():
            if not metric.endswith(FOREGROUND):
                yield (
                    title,
                    short_metric_name(metric),
                    _value(row),
                    _interval(row),
                    _sample_size(row),
                )
                title = ""


def _remarks(result: Mapping[str, Any]) -> Iterator[str]:
    """Warnings of scores, alarms, the scores of real images and of an uncertainty."""
    for key, rows in result["metrics"].items():
        title = title_of(key, result.get("domains", []))
        of_whole = {name: row for name, row in rows.items() if not name.endswith(FOREGROUND)}
        yield from _score_warnings(title, of_whole)
        if key in result.get("alarms", {}):
            yield with_label("warning", f"{title}: {result['alarms'][key]}")

        ceiling = result.get("baselines", {}).get(CEILING, {}).get(key, {})
        values = [
            f"{short_metric_name(metric)} {_value(row)}"
            for metric, row in ceiling.items()
            if row["value"] is not None
        ]
        if values:
            what = f"{title}: real images of other patients reach {', '.join(values)}"
            yield with_label("note", f"{what}, which is the best that can be expected")

        of_files = result.get("files", {}).get(key)
        if of_files:
            values = [
                f"{short_metric_name(metric)} {_value(row)}"
                for metric, row in of_files.items()
                if row["value"] is not None
            ]
            what = f"{title}: {', '.join(values)} of the files that gantk translate writes"
            yield with_label("files", f"{what}, whole and in their own values")
            yield from _score_warnings(f"{title}, whole files", of_files)

        uncertainty = result.get("uncertainty", {}).get(key)
        if uncertainty:
            values = [
                f"{name} {_value(uncertainty[name])}"
                for name in UNCERTAINTY_SCORES
                if name in uncertainty
            ]
            kind = uncertainty["kind"]
            yield with_label("note", f"{title}: uncertainty {kind}: {', '.join(values)}")


def _score_warnings(title: str, rows: Mapping[str, Row]) -> Iterator[str]:
    """What was not computed and why, and scores' own warnings, one line for equal ones."""
    warnings = defaultdict(list)
    for metric, row in rows.items():
        if row["value"] is None and "not-computed" in row["definition"]:
            reason = row["definition"].partition("/not-computed: ")[2]
            yield with_label("warning", f"{title}: {short_metric_name(metric)}: {reason}")

        warning = row.get("details", {}).get("warning")
        if warning:
            warnings[warning].append(short_metric_name(metric))

    for warning, metrics in warnings.items():
        yield with_label("warning", f"{title}: {', '.join(metrics)}: {warning}")


def _value(row: Row) -> str:
    """`24.51 dB`, `0.853`, `0.032 (31.5 HU)`; "-" without a value."""
    value = row.get("value")
    if value is None:
        return NO_VALUE

    text = f"{value:.{_digits(row)}f}"
    unit = row.get("unit")
    if unit:
        text += f" {unit}"

    own_units = row.get("in_units") or {}
    if own_units.get("unit") == "HU" and own_units.get("value") is not None:
        text += f" ({own_units['value']:.4g} HU)"
    return text


def _digits(row: Row) -> int:
    return 2 if row.get("unit") == "dB" else 3


def _interval(row: Row) -> str:
    """`[24.10, 24.92]`; "-" without an interval."""
    if not row.get("ci95"):
        return NO_VALUE
    low, high = row["ci95"]
    return f"[{low:.{_digits(row)}f}, {high:.{_digits(row)}f}]"


def _sample_size(row: Row) -> str:
    """`n=8, 64 images`: how many patients, and how many images if these differ."""
    images = row.get("images", row["n"])
    return f"n={row['n']}" + (f", {images} images" if images != row["n"] else "")


def _difference(row: Row, rival: Row, test: Mapping[str, Any] | None) -> str:
    """`+1.63 [1.08, 2.05]`: model minus baseline with its 95 % interval over patients; without a
    test, the difference of the values.
    """
    if row.get("value") is None or rival.get("value") is None:
        return NO_VALUE

    digits = _digits(row)
    if test is None:
        return _with_sign(row["value"] - rival["value"], digits)

    # a gain is how much better the model is; where lower is better, it is baseline minus model
    sign = 1 if row["higher_is_better"] else -1
    low, high = sorted(sign * end for end in test["ci95"])
    return f"{_with_sign(sign * test['gain'], digits)} [{low:.{digits}f}, {high:.{digits}f}]"


def _with_sign(value: float, digits: int) -> str:
    """`+1.63`, `-0.88`; a value that is rounded to 0 has no sign."""
    rounded = round(value, digits)
    return f"{rounded:+.{digits}f}" if rounded else f"{0:.{digits}f}"
