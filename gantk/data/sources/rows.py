"""The rows of a CSV or TSV, what its column `split` says, and a table given in Python as a recipe's data source."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from gantk.data.sources.file_names import split_of
from gantk.errors import UserError, told


def read_rows(path: Path, text: str = "") -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The columns of a CSV or TSV, and its rows with their line numbers; names in lower case, values without blanks.

    Comma, semicolon or tab: whichever the header has most of. Empty rows are left out, and so is what a row has beyond
    the columns, or lacks. What is no text, or has no header, is a UserError.
    """
    try:
        with StringIO(text, newline="") if text else path.open(encoding="utf-8-sig", newline="") as file:
            header = next((line for line in file if line.strip()), "")
            file.seek(0)
            reader = csv.reader(file, delimiter=max(",;\t", key=header.count), strict=True)
            filled = ((reader.line_num, row) for row in reader if any(map(str.strip, row)))
            columns = [name.strip().lower() for name in next(filled, (0, []))[1]]
            rows = [(line, dict(zip(columns, map(str.strip, row), strict=False))) for line, row in filled]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) else told(error)
        raise UserError(f"'{path}' cannot be read as a table: {why}", allowed="UTF-8 text, CSV or TSV") from error
    if not columns:
        raise UserError(f"'{path}' is empty", allowed="a header, and a row for each image")
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise UserError(f"'{path}' has two columns '{twice[0]}'", remedy="rename or remove one")
    return [name for name in columns if name], rows


def split_named(value: str, where: str) -> str | None:
    """`train`, `validation` or `test` of a cell; None of an empty one (or n/a), a UserError of anything else."""
    if not value or value.lower() == "n/a":
        return None
    split = split_of((value,))
    if split is None:
        raise UserError(f"'{value}' is no split", where=where, allowed="train, validation, test")
    return split


def source_of(table: Any) -> dict[str, str]:
    """The recipe's `data.source` for a table given in Python, with a CSV's columns; its paths are relative to the
    working directory.

    `table` is a list of dicts, or has `to_dict("records")` (pandas) or `to_dicts()` (polars). The run's recipe holds
    the table itself, so that it is read again from anywhere. UserError where it is neither, or empty.
    """
    if hasattr(table, "to_dict"):
        table = table.to_dict("records")
    elif hasattr(table, "to_dicts"):
        table = table.to_dicts()
    rows = list(table) if isinstance(table, Iterable) else []
    if not rows or not all(isinstance(row, Mapping) for row in rows):
        raise UserError("this table has no rows", where="data", allowed="a list of dicts, or a data frame of some rows")
    text = StringIO(newline="")
    names = list(dict.fromkeys(str(name) for row in rows for name in row))
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({str(name): _cell(value) for name, value in row.items()} for row in rows)
    return {"name": "manifest", "path": str(Path.cwd()), "table": text.getvalue()}


def _cell(value: Any) -> str:
    """A value as a CSV holds it: nothing for None and NaN, patient 37 for 37.0, as columns with gaps have it."""
    if value is None or value != value:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
