"""A result in lines for a terminal."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

CELLS = 3  # scores on a line
APART = "_foreground"  # scores that the report and metrics.json have beside those of whole images
DIRECTIONS = {"a_to_b": (0, 1), "b_to_a": (1, 0)}  # which of the domains, from and to


def speed_of(log: list[dict[str, Any]], used: dict[str, Any] | None = None) -> dict[str, Any]:
    """How fast a training was, of log.jsonl and usage.json.

    images_per_s: median over log points; seconds of training, validation and saving apart; steps; step_seconds: mean
    seconds per step of each log interval; first_step_s: from the start of the process to the end of its first step;
    peak_memory_gib; energy_j of the GPU (NVML), or of all CPU packages (RAPL). None where it is not known. `predicted`
    are the first two of what `gantk doctor` would have said, where that was asked: step_s and peak_memory_gib.
    """
    lines = [line for line in log if "images_per_s" in line]
    if not lines:
        return {}
    speed = float(np.median([line["images_per_s"] for line in lines]))
    ends = [(0, 0.0), *((line["step"], line["seconds"]) for line in lines)]
    spans = [(step - first, later - began) for (first, began), (step, later) in itertools.pairwise(ends)]
    names = ("first_step_s", "peak_memory_gib", "energy_j")
    return {
        "images_per_s": round(speed, 2),
        "seconds": lines[-1]["seconds"],
        "steps": lines[-1]["step"],
        "step_seconds": [round(seconds / steps, 6) for steps, seconds in spans if steps > 0],
        **{name: (used or {}).get(name) for name in names},
        **({"predicted": used["predicted"]} if used and used.get("predicted") else {}),
    }


def summary_lines(result: dict[str, Any]) -> Iterator[str]:
    """The result in lines for a terminal: model, baselines, verdict."""
    if not result["metrics"]:
        yield "score    no held-out pairs are known, so nothing was scored against a truth"
    for key, metrics in result["metrics"].items():
        title = title_of(key, result.get("domains", []))
        rows = {"model": metrics} | {name: rows[key] for name, rows in result["baselines"].items() if key in rows}
        for name, row in rows.items():
            cells = [f"{metric} {_cell(score)}" for metric, score in row.items() if not metric.endswith(APART)]
            for first in range(0, len(cells), CELLS):
                head = (title, name) if first == 0 else ("", "")
                yield f"score    {head[0]:<10} {head[1]:<14} {'   '.join(cells[first : first + CELLS])}"
        warnings = {}  # the same for several scores is said once
        for metric, score in metrics.items():
            if score["value"] is None and "not-computed" in score["definition"] and not metric.endswith(APART):
                yield f"warning  {title}: {metric} {score['definition'].partition('/not-computed: ')[2]}"
            if score.get("details", {}).get("warning"):
                warnings.setdefault(score["details"]["warning"], []).append(metric)
        for warning, names in warnings.items():
            yield f"warning  {title}: {', '.join(names)}: {warning}"
        judged = result.get("uncertainty", {}).get(key)
        if judged:
            cells = "   ".join(f"{name} {_cell(judged[name])}" for name in ("auroc", "ause", "spearman"))
            yield f"unsure   {title:<10} {judged['kind']:<14} {cells}"
        for metric, verdict in result["verdict"].get(key, {}).items():
            if not verdict["better"] and not metric.endswith(APART):
                yield f"warning  {title}: the model does not beat {verdict['best_baseline']} in {metric}"


def title_of(key: str, domains: Sequence[str]) -> str:
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
    units = score.get("in_units") or {}
    own = f" = {units['value']:.4g} HU" if units.get("unit") == "HU" and units.get("value") is not None else ""
    return f"{score['value']:.{digits}f}{' ' + score['unit'] if score['unit'] else ''}{interval}{own} (n={score['n']})"
