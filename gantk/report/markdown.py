"""Writes scores as Markdown tables, such as those of model cards."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

HEADS = ("direction", "score", "value [95 % interval]", "n", "best baseline")


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
        rows: the cells of each row.
    """
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _number(row: dict[str, Any]) -> str:
    if row.get("value") is None:
        return "-"

    text = f"{row['value']:.4g}"
    ends = row.get("ci95")
    if ends and None not in ends:
        text += " [{:.4g}, {:.4g}]".format(*ends)
    return f"{text} {row.get('unit') or ''}".rstrip()
