"""Tables in text files (CSV, TSV): their rows by column, and what a row says of a split."""

from __future__ import annotations

import csv
from io import StringIO
from pathlib import Path

from gantk.data.sources.file_names import split_of
from gantk.errors import UserError

LARGEST = 64 * 2**20  # bytes of a table
SIGNS = (",", ";", "\t")


def read_rows(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The columns of a table, and its rows with their line numbers; names in lower case, values without blanks.

    Comma, semicolon or tab: whichever the header has most of. Empty rows are left out, and so is what a row has beyond
    the columns, or lacks. What is no text, or has no header, is a UserError.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"'{path}' is {path.stat().st_size / 2**20:.0f} MiB", allowed=f"{LARGEST >> 20} MiB")
        text = path.read_text("utf-8-sig")
        header = next((line for line in text.splitlines() if line.strip()), "")
        reader = csv.reader(StringIO(text, newline=""), delimiter=max(SIGNS, key=header.count), strict=True)
        table = [(reader.line_num, row) for row in reader if any(value.strip() for value in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"'{path}' cannot be read as a table: {error}", allowed="UTF-8 text, CSV or TSV") from error
    if not table:
        raise UserError(f"'{path}' is empty", allowed="a header, and a row for each image")
    columns = [name.strip().lower() for name in table[0][1]]
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise UserError(f"'{path}' has two columns '{twice[0]}'", remedy="rename or remove one")
    rows = [
        (line, {name: value.strip() for name, value in zip(columns, values, strict=False)})
        for line, values in table[1:]
    ]
    return [name for name in columns if name], rows


def split_named(value: str, where: str) -> str | None:
    """`train`, `validation` or `test` of a cell; None of an empty one (or n/a), a UserError of anything else."""
    if not value or value.lower() == "n/a":
        return None
    split = split_of((value,))
    if split is None:
        raise UserError(f"'{value}' is no split", where=where, allowed="train, validation, test")
    return split
