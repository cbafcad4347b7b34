"""Writes Markdown: texts from files of a run, escaped, and scores as tables."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from gantk.errors import printable
from gantk.metrics.rows import TABLE_COLUMNS, score_rows
from gantk.runs.results import Results

# What begins or ends something in Markdown or HTML, wherever it stands.
ANYWHERE = r"[\\`*<|~]"
UNDERSCORE = r"(?<![^\W_])_|_(?![^\W_])"  # not inside a word, where it means nothing
ENTITY = r"&(?=[#\w])"
LINK = r"\](?=[(\[:]|$)|!(?=\[)|(?<=\w):(?=//)|(?<=\bwww)\."
AT_THE_START = r"^(?:[=>]|[-+](?=[\s-]|$)|[0-9]+[.)](?=\s|$)|\[(?=[ x]\]))"
HEADING = r"(?<!\S)#"
SPECIAL = re.compile("|".join((AT_THE_START, ANYWHERE, UNDERSCORE, ENTITY, LINK, HEADING)), re.I)


class Markdown(str):
    """A text that is Markdown already: `markdown_table` does not escape it."""


def escape_markdown(text: object) -> str:
    """A text on one line that Markdown shows as it is: no HTML, link, emphasis, heading or cell of a
    table begins in it, and no character in it controls a terminal.

    Everything that gantk takes from a file into Markdown passes through here.
    """
    if isinstance(text, Markdown):
        return text
    line = " ".join(printable(str(text)).split())
    # a backslash before the character that means something: the last one that matched
    return SPECIAL.sub(lambda match: f"{match[0][:-1]}\\{match[0][-1]}", line)


def code_span(text: object) -> Markdown:
    """A text on one line, in the typeface of code."""
    line = " ".join(printable(str(text)).split()).replace("|", "\\|")
    fence = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    margin = " " if "`" in line else ""
    return Markdown(f"{fence}{margin}{line}{margin}{fence}")


def score_table(results: Results) -> str:
    """All scores of results with their intervals, next to the score of the best baseline, as a
    Markdown table.
    """
    rows = score_rows(results)
    if not rows:
        return "It was not scored: the run has no metrics.json."
    for row in rows:
        row.interval = Markdown(row.interval)  # it is numbers alone: its bracket closes no link
    cells = [[getattr(row, column) for column in TABLE_COLUMNS.values()] for row in rows]
    return markdown_table(tuple(TABLE_COLUMNS), cells)


def markdown_table(heads: tuple[str, ...], rows: Iterable[Iterable[Any]]) -> str:
    """Format rows as a Markdown table.

    Args:
        heads: the headings of the columns.
        rows: the cells of each row. They are escaped, except for `Markdown`.
    """
    lines = [heads, [Markdown("---")] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(escape_markdown, line))} |" for line in lines)
