"""The end of an evaluation on a terminal: one sentence, one table of scores, and what needs attention.

All further figures are in metrics.json and in the report. Read `summary_lines` first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import pandas as pd

from gantk.errors import join_first
from gantk.metrics.names import (
    CEILING,
    FEATURES,
    FOREGROUND,
    WITH_MASKS,
    baseline_words,
    baselines,
    join_words,
    needs_pairs,
    short_metric_name,
    title_of,
)
from gantk.metrics.rows import (
    FROM_NOISE,
    Row,
    list_scores,
    pairs_sentence,
    result_sentences,
    returned_rows,
)
from gantk.metrics.table import MODEL, table_of
from gantk.metrics.verdict import Tone
from gantk.runs.results import NO_VALUE, Results
from gantk.terminal import LABEL_WIDTH, LINE_WIDTH, TextTable, sentence_lines

OF_FILES = "these are scores of whole files; those at the size of the network are in scores.csv and in the report"
# column of `gantk.metrics.rows` -> its heading
BESIDE_BASELINES = {
    "direction": "direction",
    "name": "score",
    "value": "model",
    "baseline": "baseline",
    "difference": "difference",
    "verdict": "verdict",
}
WITHOUT_BASELINES = {
    "direction": "direction",
    "name": "score",
    "value": "value",
    "interval": "interval",
    "sample": "tested",
}
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


def summary_lines(results: Results, said: Collection[str] = ()) -> Iterator[str]:
    """Yield what a terminal shows of results, each line with its label; the table is a `TextTable`.
    Consequences of the split that were `said` before are not repeated.
    """
    for consequence in results.split.consequences if results.split else ():
        if consequence not in said:
            yield with_label("warning", consequence)

    for text, tone in result_sentences(results):
        yield with_label("warning" if tone == "bad" else "result", text)

    shown = results.judged_by
    rows = returned_rows(shown)
    with_foreground = {row.metric + FOREGROUND for row in rows}
    # of the foreground those that the sentence names; the report has all
    rows = [row for row in rows if row.metric not in with_foreground or row.tone == "bad"]
    yield from _table(rows)
    yield from _baselines(shown, {row.baseline_name for row in rows if row.tone})
    without_pairs = pairs_sentence(shown)
    if without_pairs:
        yield with_label("note", without_pairs)

    yield from dict.fromkeys([*_remarks(shown), *_remarks(results)])
    if shown is not results:
        yield with_label("note", OF_FILES)
    lines = table_of(results)
    for metric in WITH_MASKS:
        own = lines[(lines.metric == metric) & (lines.system == MODEL) & (lines.patient != "")]
        known = own.groupby("patient").value.count()
        if names := [*known.index[known == 0]]:
            what = metric.replace("_", " ")
            yield with_label("note", f"not counted in {what}: {join_first(names)}")


def _table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a table of scores, and what some scores mean."""
    meanings = [*_meanings(rows)]
    columns = WITHOUT_BASELINES
    if any(row.tone for row in rows):
        columns = BESIDE_BASELINES
        _write_samples(rows)
    titles = [row.direction for row in rows]
    for row, above in zip(rows, ["", *titles], strict=False):
        row.direction = "" if row.direction == above else row.direction
        _move_unit(row)
        row.name = row.name.replace(" in the ", " in ")
        row.interval = row.interval or NO_VALUE
    if rows:
        cells = [tuple(getattr(row, column) for column in columns) for row in rows]
        yield TextTable(tuple(columns.values()), cells, [COLOURS[row.tone] for row in rows])
    yield from meanings


def _write_samples(rows: Sequence[Row]) -> None:
    """Write what a table beside baselines has no column for: behind a name the sample, where it is not
    that of the direction's first score, and behind a value without a verdict its interval.
    """
    samples = {row.direction: row.sample for row in reversed(rows)}  # of the first scores
    for row in rows:
        if row.sample != samples[row.direction]:
            row.name += f", {row.sample.partition(' (')[0]}"
        if not row.tone:
            row.value = f"{row.value} {row.interval}".rstrip()


def _move_unit(row: Row) -> None:
    """Write a unit other than dB, as of "9.1 % of range", once behind the name: not in each cell, nor
    again in the rows of regions.
    """
    if not row.unit or row.unit == "dB":
        return
    row.value = row.value.replace(f" {row.unit}", "")
    row.baseline = row.baseline.removesuffix(f" {row.unit}")
    row.difference = row.difference.replace(f" {row.unit}", "")
    if not row.region:
        row.name += f", {row.unit}"


def _baselines(results: Results, shown: Collection[str]) -> Iterator[str]:
    """Yield of which baselines the table has the strongest, and what those that it shows learn from
    pairs.
    """
    scored = {
        baseline: baseline_words(baseline, results.baseline_steps)
        for baseline in results.baselines
        if baseline != CEILING
    }
    if shown:
        which = "for each score, the strongest of these: " if len(scored) > 1 else ""
        yield with_label("baseline", which + join_words([*scored.values()]))
    for baseline, name in scored.items():
        _, meaning = baselines().get(baseline, ("", ""))
        if meaning and name in shown and needs_pairs(baseline):
            yield with_label("note", f"{name}: {meaning}")


def _meanings(rows: Sequence[Row]) -> Iterator[str]:
    """Yield what scores by features are, and those that are neither better nor worse."""
    told = {}
    for row in rows:
        if row.plain_name.endswith(FEATURES) or not row.sense:
            plain = "" if row.plain_name.lower() == row.name else f"{row.plain_name}. "
            told[row.name] = f"{row.name}: {plain}{row.explanation}"
    for meaning in told.values():
        yield with_label("note", meaning)


def with_label(label: str, text: str) -> str:
    """A label and a text, wrapped to lines of at most `LINE_WIDTH` characters; each sentence begins a
    line.
    """
    indent = "\n" + LABEL_WIDTH * " "
    lines = sentence_lines(text, LINE_WIDTH - LABEL_WIDTH)
    return f"{label + '  ':<{LABEL_WIDTH}}{indent.join(lines)}"


def _remarks(results: Results) -> Iterator[str]:
    """Warnings of scores, alarms, and the scores of real images."""
    said: dict[tuple[str, str], list[str]] = defaultdict(list)  # label and text -> directions
    for key in results.metrics:
        title = title_of(key, results.domains)
        for labelled in remarks(results, key):
            said[labelled].append(title)
        if key in results.alarms:
            said["warning", results.alarms[key]].append(title)
    for (label, text), titles in said.items():
        yield with_label(label, f"{join_words(titles)}: {text}")


def remarks(results: Results, key: str) -> Iterator[tuple[str, str]]:
    """Yield of a direction what was not computed and why, scores' own warnings and notes, one line for
    equal ones, without those of the foreground, which equal those of the whole image; and what other
    real images reach.
    """
    scores = results.metrics[key]
    found = defaultdict(list)
    for metric, score in scores.items():
        if metric.endswith(FOREGROUND):
            continue
        name = short_metric_name(metric)
        reason = score.definition.partition("/not-computed: ")[2]
        if score.value is None and reason:
            found["warning", reason].append(name)
        for label in ("warning", "note"):
            if label in score.details:
                found[label, str(score.details[label])].append(name)

    for (label, text), names in found.items():
        yield label, f"{', '.join(names)}: {text}"

    ceilings = results.baseline(CEILING, key)
    known = list_scores(ceilings)
    if known and key not in FROM_NOISE:  # whose sentence has them
        passed = [
            short_metric_name(name)
            for name, ceiling in ceilings.items()
            if name in scores and scores[name].is_better_than(ceiling)
        ]
        ends = "no model can be expected to do better"
        if passed:
            ends = f"so {join_words(passed)} cannot tell the model's images from real ones"
        yield "note", f"other real images reach {known}, {ends}"
