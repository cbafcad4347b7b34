"""best.json in a table: which checkpoint was kept, by which rule, and what the others had."""

from __future__ import annotations

from typing import Any

from gantk.report.figures import number
from gantk.report.folder import RunRecord
from gantk.report.naming import metric_name

FIRST, LAST = ("step", "score"), ("barred",)  # columns, whatever the criteria are


def chosen(run: RunRecord) -> dict[str, Any]:
    """best.json: the step that was chosen, by which rule, and a table of what it was chosen from; {} where none was."""
    step = run.best.get("step")
    if not isinstance(step, int):
        return {}
    rows = [row for row in run.best.get("table") or () if isinstance(row, dict)]
    named = dict.fromkeys(name for row in rows for name in _flat(row))
    columns = [name for name in FIRST if name in named] + [name for name in named if name not in (*FIRST, *LAST)]
    columns += [name for name in LAST if name in named]
    table = [(row.get("step") == step, [_cell(_flat(row).get(name)) for name in columns]) for row in rows]
    return {
        "step": step,
        "rule": str(run.best.get("rule") or ""),
        "barred": next((str(row["barred"]) for row in rows if row.get("step") == step and row.get("barred")), ""),
        "columns": [_column_name(run, name) for name in columns],
        "rows": table,
    }


def _column_name(run: RunRecord, name: str) -> str:
    """`a_to_b/kid_random` is `T1 → T2 KID random`."""
    direction, _, metric = name.rpartition("/")
    return f"{run.label(direction)} {metric_name(metric)}" if direction else metric_name(metric)


def _flat(row: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in row.items():
        found |= _flat(value, f"{prefix}{name}/") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _cell(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else number(value)
