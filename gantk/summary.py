"""A result in lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

CELLS = 3  # scores on a line
DIRECTIONS = {"a_to_b": (0, 1), "b_to_a": (1, 0)}  # which of the domains, from and to


def speed_of(log: list[dict[str, Any]]) -> dict[str, float | int]:
    """Images per second (median over log points), seconds of training, and steps, of log.jsonl."""
    lines = [line for line in log if "images_per_s" in line]
    if not lines:
        return {}
    speed = float(np.median([line["images_per_s"] for line in lines]))
    return {"images_per_s": round(speed, 2), "seconds": lines[-1]["seconds"], "steps": lines[-1]["step"]}


def summary_lines(result: dict[str, Any]) -> Iterator[str]:
    """The result in lines for a terminal: model, baselines, verdict."""
    if not result["metrics"]:
        yield "score    no held-out pairs are known, so nothing was scored against a truth"
    for key, metrics in result["metrics"].items():
        title = _title(key, result.get("domains", []))
        rows = {"model": metrics} | {name: rows[key] for name, rows in result["baselines"].items() if key in rows}
        for name, row in rows.items():
            cells = [f"{metric} {_cell(score)}" for metric, score in row.items()]
            for first in range(0, len(cells), CELLS):
                head = (title, name) if first == 0 else ("", "")
                yield f"score    {head[0]:<10} {head[1]:<14} {'   '.join(cells[first : first + CELLS])}"
        for metric, score in metrics.items():
            if score["value"] is None and "not-computed" in score["definition"]:
                yield f"warning  {title}: {metric} {score['definition'].partition('/not-computed: ')[2]}"
        judged = result.get("uncertainty", {}).get(key)
        if judged:
            cells = "   ".join(f"{name} {_cell(judged[name])}" for name in ("auroc", "ause", "spearman"))
            yield f"unsure   {title:<10} {judged['kind']:<14} {cells}"
        for metric, verdict in result["verdict"].get(key, {}).items():
            if not verdict["better"]:
                yield f"warning  {title}: the model does not beat {verdict['best_baseline']} in {metric}"


def _title(key: str, domains: list[str]) -> str:
    """`T1 -> T2`, `T1 from noise`; the key itself where the domains are not known."""
    plain, _, post = key.partition("_post")
    title = key
    if plain in DIRECTIONS and len(domains) > 1:
        title = " -> ".join(domains[i] for i in DIRECTIONS[plain])
    elif plain == "image" and domains:
        title = f"{domains[0]} from noise"
    return f"{title}, post-steps" if key.endswith("_post") and title != key else title


def _cell(score: dict[str, Any]) -> str:
    if score["value"] is None:
        return "-"
    digits = 2 if score["unit"] == "dB" else 3
    interval = f" [{score['ci95'][0]:.{digits}f}, {score['ci95'][1]:.{digits}f}]" if score["ci95"] else ""
    return f"{score['value']:.{digits}f}{' ' + score['unit'] if score['unit'] else ''}{interval} (n={score['n']})"
