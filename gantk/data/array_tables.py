"""Turns a table given in Python into a recipe's data source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gantk.catalog.tables import csv_text
from gantk.errors import UserError


def source_of(table: Any) -> dict[str, str]:
    """Return the recipe's `data.source` for a table given in Python with the columns of a CSV; its
    paths are relative to the working directory.

    `table` is a list of dicts, or has `to_dict("records")` (pandas) or `to_dicts()` (polars). The
    run's recipe holds the table itself, so that resuming needs no file. UserError where the table
    has another type or is empty.
    """
    if hasattr(table, "to_dict"):
        table = table.to_dict("records")
    elif hasattr(table, "to_dicts"):
        table = table.to_dicts()

    rows = list(table) if isinstance(table, Iterable) else []
    if not rows or not all(isinstance(row, Mapping) for row in rows):
        raise UserError(
            "the table has no rows",
            where="data",
            allowed="a list of dicts, or a data frame with at least one row",
        )

    names = list(dict.fromkeys(str(name) for row in rows for name in row))
    cells = [{str(name): _cell(value) for name, value in row.items()} for row in rows]
    text = csv_text(names, [[row.get(name) for name in names] for row in cells])
    return {"name": "manifest", "path": str(Path.cwd()), "table": text}


def _cell(value: Any) -> str:
    """A value as text of a CSV: "" for None and NaN; 37.0 is "37", because columns with gaps hold
    floats.
    """
    if value is None or value != value:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
