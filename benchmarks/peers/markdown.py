"""Rows as Markdown: who takes how long for a step, and who scores what after equal training."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import Any

METRICS = ("psnr", "ssim", "mae")
SPEED = ("case", "side", "version", "weights", "s/step", "times gantk", "times gantk plain", "rounds")


def table(rows: list[dict[str, Any]]) -> str:
    """All rows, those without figures with their reason."""
    parts = []
    for kind, lines in (("speed", _speed), ("quality", _quality)):
        finished = [row for row in rows if row.get("kind") == kind and row["status"] == "ok"]
        parts += ["\n".join(lines(finished))] if finished else []
    rest = [row for row in rows if row["status"] != "ok"]
    if rest:
        cells = ((row["recipe"], row.get("side", row.get("peer")), row["status"], row["error"]) for row in rest)
        parts.append("\n".join(_lines(("case", "side", "status", "why"), cells)))
    return "\n\n".join(parts) + "\n"


def _speed(rows: list[dict[str, Any]]) -> Iterable[str]:
    return _lines(SPEED, map(_speed_cells, rows))


def _speed_cells(row: dict[str, Any]) -> tuple[str, ...]:
    samples, ratios = row["speed"]["step_seconds"], row.get("ratio") or {}
    cells = (_ratio(ratios.get(name)) for name in ("gantk", "gantk plain"))
    weights = f"{row['weights'] / 1e6:.2f} M"
    return (row["recipe"], _side(row), row["version"], weights, f"{median(samples):.4f}", *cells, str(len(samples)))


def _side(row: dict[str, Any]) -> str:
    beside = f" (beside {row['beside']})" if row["peer"] is None and row.get("beside") else ""
    return f"{row['side']}, {row['machine']['precision']}{beside}"


def _ratio(found: dict[str, Any] | None) -> str:
    return f"{found['median']:.2f} [{found['ci95'][0]:.2f}, {found['ci95'][1]:.2f}]" if found else ""


def _quality(rows: list[dict[str, Any]]) -> Iterable[str]:
    cells, seen = [], set()
    for row in rows:
        cells += [_quality_cells(row, key, scores, _side(row)) for key, scores in row["metrics"].items()]
    for row in rows:  # baselines once for each case and direction
        for name, scores in row["baselines"].items():
            for key, values in scores.items():
                if values and (row["recipe"], name, key) not in seen:
                    seen.add((row["recipe"], name, key))
                    cells.append(_quality_cells(row, key, values, name, trained=False))
    order = {row["recipe"]: number for number, row in reversed(list(enumerate(rows)))}
    cells.sort(key=lambda line: (order[line[0]], line[2]))
    return _lines(("case", "side", "direction", "weights", "steps", "seconds", *METRICS), cells)


def _quality_cells(
    row: dict[str, Any], key: str, scores: dict[str, Any], side: str, trained: bool = True
) -> tuple[str, ...]:
    effort = ("", "", "")
    if trained:
        effort = (f"{row['weights'] / 1e6:.2f} M", str(row["speed"]["steps"]), f"{row['speed']['seconds']:.0f}")
    names = [row["domains"]["ab".index(letter)] for letter in (key[0], key[5])] if key[1:5] == "_to_" else [key]
    return (row["recipe"], side, " -> ".join(names), *effort, *(_score(scores.get(name)) for name in METRICS))


def _score(score: dict[str, Any] | None) -> str:
    if not score or score.get("value") is None:
        return ""
    digits = 2 if score.get("unit") == "dB" else 3
    interval = score.get("ci95")
    more = f" [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]" if interval else ""
    return f"{score['value']:.{digits}f}{more}"


def _lines(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> list[str]:
    head = list(head)
    lines = [head, ["---"] * len(head), *([str(cell).replace("|", "\\|") for cell in row] for row in rows)]
    return [f"| {' | '.join(cells)} |" for cells in lines]
