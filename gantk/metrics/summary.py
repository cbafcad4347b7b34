"""The end of an evaluation on a terminal: one sentence, one table of scores, and what needs attention.

All further figures are in metrics.json and in the report. Read `summary_lines` first.
"""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from gantk.metrics.names import CEILING, FOREGROUND, join_words, short_metric_name, title_of
from gantk.metrics.rows import (
    ScoreRow,
    main_rows,
    pairs_sentence,
    result_sentence,
)
from gantk.metrics.table import table_of
from gantk.metrics.verdict import Tone, verdict_words
from gantk.recipe.published import PublishedSystem
from gantk.runs.results import NO_VALUE, Results, Score, number_text
from gantk.terminal import LINE_WIDTH, TextTable

LABEL_WIDTH = 9
HEADERS = ("direction", "score", "model", "baseline", "difference", "verdict")
HEADERS_WITHOUT_BASELINES = ("direction", "score", "value", "95 % interval", "tested")
COLOURS: dict[Tone, str] = {"good": "green", "near": "", "bad": "bold red", "": ""}


class Scores(dict[str, Any]):
    """The content of metrics.json, with the scores of single images as a `table`, a pandas DataFrame
    (see `gantk.metrics.table`). Printed, it is the summary of a terminal.
    """

    def __init__(self, results: Results, lines: pd.DataFrame | None = None):
        super().__init__(results.dump())
        self.results = results
        self.table = table_of(results) if lines is None else lines

    def __str__(self) -> str:
        return "\n".join(summary_lines(self.results))


def summary_lines(results: Results) -> Iterator[str]:
    """Yield what a terminal shows of results, each line with its label; the table is a `TextTable`."""
    for consequence in results.split.consequences if results.split else ():
        yield with_label("warning", consequence)

    sentence = result_sentence(results)
    if sentence:
        yield with_label("result", sentence)

    # all scores of the foreground are in the report
    rows = [row for own in main_rows(results).values() for row in own]
    titles = _titles(rows, results)
    if any(row.tone for row in rows):
        cells = [(title, *_cells(row)) for title, row in zip(titles, rows, strict=True)]
        yield TextTable(HEADERS, cells, [COLOURS[row.tone] for row in rows])
        names = dict.fromkeys(row.baseline_name for row in rows if row.baseline_name)
        yield with_label("baseline", f"the best one for each score: {join_words([*names])}")
    elif rows:
        cells = [(title, *_plain_cells(row)) for title, row in zip(titles, rows, strict=True)]
        yield TextTable(HEADERS_WITHOUT_BASELINES, cells)

    needs_pairs = pairs_sentence(results)
    if needs_pairs:
        yield with_label("note", needs_pairs)

    yield from _remarks(results)


def published_lines(results: Results, system: PublishedSystem | None) -> Iterator[str]:
    """Yield a note for each direction with published scores that may stand beside those of the
    result.
    """
    if system is None:
        return
    for key in results.metrics:
        figures = system.beside(key)
        if figures:
            title = title_of(key, results.domains)
            scores = [
                f"{short_metric_name(name)} {Score(value=value).text(2)}"
                for name, value in figures.items()
            ]
            what = f"published for {title}: {', '.join(scores)}"
            yield with_label("note", f"{what}, on other data, by another protocol")


def with_label(label: str, text: str) -> str:
    """A label and a text that is wrapped to lines of at most `LINE_WIDTH` characters."""
    wrapped = textwrap.wrap(
        text, LINE_WIDTH - LABEL_WIDTH, break_long_words=False, break_on_hyphens=False
    )
    indent = "\n" + LABEL_WIDTH * " "
    return f"{label:<{LABEL_WIDTH}}{indent.join(wrapped)}"


def _titles(rows: list[ScoreRow], results: Results) -> list[str]:
    """The title of each row's direction, once for all its rows."""
    titles = []
    before = None
    for row in rows:
        titles.append(title_of(row.key, results.domains) if row.key != before else "")
        before = row.key
    return titles


def _cells(row: ScoreRow) -> tuple[str, ...]:
    """A row of the table of scores beside a baseline's."""
    verdict = verdict_words(row.verdict, short=True) if row.tone else ""
    size, sense = row.difference()
    decimals = row.score.decimals
    text = f"{number_text(size.value, decimals)} {sense} {size.interval(decimals)}".rstrip()
    difference = "equal" if sense == "equal" else text
    return row.name, row.score.text(), row.baseline or NO_VALUE, difference, verdict


def _plain_cells(row: ScoreRow) -> tuple[str, ...]:
    """A row of the table of scores without a baseline, such as those of files against files."""
    score = row.score
    return row.name, score.text(), score.interval() or NO_VALUE, score.sample()


def _remarks(results: Results) -> Iterator[str]:
    """Warnings of scores, alarms, and the scores of real images."""
    for key, scores in results.metrics.items():
        title = title_of(key, results.domains)
        yield from _score_warnings(title, scores)
        if key in results.alarms:
            yield with_label("warning", f"{title}: {results.alarms[key]}")

        ceiling = _list_scores(results.baselines.get(CEILING, {}).get(key, {}))
        if ceiling:
            what = f"{title}: real images of other patients reach {ceiling}"
            yield with_label("note", f"{what}, which is the best that can be expected")


def _list_scores(scores: Mapping[str, Score]) -> str:
    """`PSNR 24.51 dB, SSIM 0.853`: the scores that have a value."""
    known = {metric: score for metric, score in scores.items() if score.value is not None}
    return ", ".join(f"{short_metric_name(metric)} {each.text()}" for metric, each in known.items())


def _score_warnings(title: str, scores: Mapping[str, Score]) -> Iterator[str]:
    """What was not computed and why, and scores' own warnings, one line for equal ones; without
    those of the foreground, which equal those of the whole image.
    """
    warnings = defaultdict(list)
    for metric, score in scores.items():
        if metric.endswith(FOREGROUND):
            continue
        _, found, reason = score.definition.partition("/not-computed: ")
        if score.value is None and found:
            yield with_label("warning", f"{title}: {short_metric_name(metric)}: {reason}")

        warning = score.details.get("warning")
        if warning:
            warnings[warning].append(short_metric_name(metric))

    for warning, metrics in warnings.items():
        yield with_label("warning", f"{title}: {', '.join(metrics)}: {warning}")
