"""Scores as Markdown tables, for cards."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

HEADS = ("direction", "score", "value [95 % interval]", "n", "best baseline")


def score_table(found: dict[str, Any]) -> str:
    """A Markdown table of metrics.json: each score with its interval, beside the best baseline's
    score.
    """
    rows = []
    names = dict(zip("ab", found.get("domains") or "ab", strict=False))
    for direction, metrics in (found.get("metrics") or {}).items():
        title = " to ".join(names.get(letter, letter) for letter in direction.split("_to_"))
        for name, row in metrics.items():
            baselines = {}
            for baseline, scores in found.get("baselines", {}).items():
                score = scores.get(direction, {}).get(name) or {}
                if score.get("value") is not None:
                    baselines[baseline] = score
            choose = max if row.get("higher_is_better", True) else min
            best = choose(baselines, key=lambda each: baselines[each]["value"], default=None)
            beside = f"{_number(baselines[best])} ({best})" if best else "-"
            rows.append((title, name, _number(row), row.get("n") or "-", beside))

    if rows:
        return markdown_table(HEADS, rows)

    return "It was not scored: the run has no metrics.json."


def markdown_table(heads: tuple[str, ...], rows: Iterable[Iterable[Any]]) -> str:
    """Rows as a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _number(row: dict[str, Any]) -> str:
    ends = row.get("ci95") or [None]
    interval = "" if None in ends else " [{:.4g}, {:.4g}]".format(*ends)
    if row.get("value") is None:
        return "-"
    return f"{row['value']:.4g}{interval} {row.get('unit') or ''}".rstrip()
