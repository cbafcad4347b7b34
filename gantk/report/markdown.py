"""Writes Markdown: texts from files of a run, escaped, and scores as tables."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from gantk.errors import printable

# What begins or ends something in Markdown or HTML, wherever it stands.
ANYWHERE = r"[\\`*<|~]"
UNDERSCORE = r"(?<![^\W_])_|_(?![^\W_])"  # not inside a word, where it means nothing
ENTITY = r"&(?=[#\w])"
LINK = r"\](?=[(\[:]|$)|!(?=\[)|(?<=\w):(?=//)|(?<=\bwww)\."
AT_THE_START = r"^(?:[=>]|[-+](?=[\s-]|$)|[0-9]+[.)](?=\s|$)|\[(?=[ x]\]))"
HEADING = r"(?<!\S)#"
SPECIAL = re.compile("|".join((AT_THE_START, ANYWHERE, UNDERSCORE, ENTITY, LINK, HEADING)), re.I)

HEADS = ("direction", "score", "value [95 % interval]", "n", "best baseline")


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
    return SPECIAL.sub(_escape, line)


def code_span(text: object) -> Markdown:
    """A text on one line, in the typeface of code."""
    line = " ".join(printable(str(text)).split()).replace("|", "\\|")
    fence = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    margin = " " if "`" in line else ""
    return Markdown(f"{fence}{margin}{line}{margin}{fence}")


def _escape(match: re.Match[str]) -> str:
    """A backslash before the character that means something: the last one that matched."""
    return f"{match[0][:-1]}\\{match[0][-1]}"


def score_table(found: dict[str, Any]) -> str:
    """Format the scores of a run as a Markdown table.

    Args:
        found: the content of metrics.json.

    Returns:
        A table of all scores with their intervals, next to the score of the best baseline.
    """
    rows = []
    names = dict(zip("ab", found.get("domains") or "ab", strict=False))
    for direction, metrics in (found.get("metrics") or {}).items():
        title = " to ".join(names.get(letter, letter) for letter in direction.split("_to_"))
        for name, row in metrics.items():
            beside = "-"
            baselines = _baselines_with_value(found, direction, name)
            if baselines:
                choose = max if row.get("higher_is_better", True) else min
                best = choose(baselines, key=lambda each: baselines[each]["value"])
                beside = f"{_number(baselines[best])} ({best})"
            rows.append((title, name, _number(row), row.get("n") or "-", beside))

    if rows:
        return markdown_table(HEADS, rows)

    return "It was not scored: the run has no metrics.json."


def _baselines_with_value(found: dict[str, Any], direction: str, name: str) -> dict[str, Any]:
    """Baseline -> its score by a metric, for those that have a value."""
    scored = {}
    for baseline, scores in found.get("baselines", {}).items():
        score = scores.get(direction, {}).get(name) or {}
        if score.get("value") is not None:
            scored[baseline] = score
    return scored


def markdown_table(heads: tuple[str, ...], rows: Iterable[Iterable[Any]]) -> str:
    """Format rows as a Markdown table.

    Args:
        heads: the headings of the columns.
        rows: the cells of each row. They are escaped, except for `Markdown`.
    """
    lines = [heads, [Markdown("---")] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(escape_markdown, line))} |" for line in lines)


def _number(row: dict[str, Any]) -> str:
    if row.get("value") is None:
        return "-"

    text = f"{row['value']:.4g}"
    ends = row.get("ci95")
    if ends and None not in ends:
        text += " [{:.4g}, {:.4g}]".format(*ends)
    return f"{text} {row.get('unit') or ''}".rstrip()
