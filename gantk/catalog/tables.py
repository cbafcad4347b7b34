"""The rows of a CSV or TSV file with their line numbers, and the text of a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from io import StringIO
from itertools import zip_longest
from pathlib import Path
from typing import Any

from gantk.catalog.words import SPLIT, split_named, whole
from gantk.errors import UserError, did_you_mean, reading_file
from gantk.files import read_file

# how programs and people write that a value is not known, in lower case
UNKNOWN = frozenset(
    ["na", "n/a", "nan", "nat", "null", "none", "unknown", "missing", "<na>", "?", "-", "."]
)
LEFT_OUT = "none"  # in the column split: the row is not used
# Ends the remedy where names do not decide what an image is.
FILL_IN_TABLE = "Or write a table with `gantk data check SCANS --table scans.csv`, complete it, and train from it"

JOIN = (
    "give no row more cells than the header. Tables of other columns are joined by these:"
    " pandas.concat([pandas.read_csv(t, dtype=str) for t in ('a.csv', 'b.csv')])"
    ".to_csv('both.csv', index=False)"
)

MAX_TABLE_BYTES = 2**32
MAX_HEADER_CHARACTERS = 2**16

NumberedRow = tuple[int, dict[str, str]]  # line number, and cells by column


def read_rows(path: Path, text: str = "") -> tuple[list[str], list[NumberedRow]]:
    """The columns of a CSV or TSV file, or of its `text`, and its rows with their line numbers; names
    in lower case, values without blanks, "" for those that mean "unknown".

    The separator is comma, semicolon or tab, whichever is most frequent in the header. Empty rows,
    and empty cells beyond the columns, are left out; cells that a row lacks at its end are empty.
    UserError for a file that is not text, has no header, or a row with more cells, as where tables of
    other columns were put together.
    """
    with reading_file(
        path,
        "a table",
        allowed="CSV or TSV as UTF-8 text",
        remedy="check the path, or save the table again, in Excel as 'CSV UTF-8'",
    ):
        text = text or read_file(path, max_bytes=MAX_TABLE_BYTES).decode("utf-8-sig")
        lines = text[:MAX_HEADER_CHARACTERS].splitlines()
        header = next(filter(str.strip, lines), "")
        if "\0" in header:
            raise ValueError("it is not UTF-8 text")
        separator = max(",;\t", key=header.count)
        reader = csv.reader(StringIO(text, newline=""), delimiter=separator, strict=True)
        rows = [(reader.line_num, row) for row in reader if any(map(str.strip, row))]
    if not rows:
        raise UserError(f"'{path}' is empty", allowed="a header and one row for each image")

    columns = [name.strip().lower() for name in rows.pop(0)[1]]
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise UserError(
            f"'{path}' has two columns with the name '{twice[0]}'",
            remedy="rename or remove one of them",
        )
    known = []
    for line, row in rows:
        if any(row[len(columns) :]):
            raise UserError(
                f"line {line} of '{path}' has {len(row)} cells, the header {len(columns)}",
                remedy=JOIN,
            )
        cells = {}
        for column, text in zip_longest(columns, row[: len(columns)], fillvalue=""):
            cell = text.strip()
            is_unknown = cell.lower() in UNKNOWN and column != "split"  # whose `none` is a word
            cells[column] = "" if is_unknown else cell
        known.append((line, cells))
    return [name for name in columns if name], known


def split_in(cell: str, where: str) -> str:
    """The set that a cell of the column split names, `LEFT_OUT`, or "" for an empty cell; UserError
    for any other word.
    """
    if not cell or whole(SPLIT, cell):
        return split_named(cell)
    if cell.lower() in (LEFT_OUT, "exclude", "-"):
        return LEFT_OUT
    raise UserError(
        f"'{cell}' is not a valid split",
        where=where,
        allowed=f"train, validation, test, or {LEFT_OUT} to leave the row out",
        remedy=did_you_mean(cell, ("train", "validation", "test", LEFT_OUT)),
    )


def first_columns(columns: Sequence[str]) -> str:
    """The first columns of a table, for messages; shortened, because a file that is no table has
    any text.
    """
    text = ", ".join(name[:22] for name in columns[:9])
    return f"{text}, ..." if len(columns) > 9 else text


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """The text of a CSV with these columns and rows, for `read_rows`; None is an empty cell."""
    csv.writer(text := StringIO(), lineterminator="\n").writerows([columns, *rows])
    return text.getvalue()


def weights_of(file: str, keys: Sequence[str]) -> dict[str, float]:
    """The relative frequency of each key: the CSV's `weight` in the row of that `key`, else 1."""
    wanted = set(keys)
    try:
        known = {
            row["key"]: float(row["weight"])
            for _, row in read_rows(Path(file))[1]
            if row["key"] in wanted
        }
    except (KeyError, ValueError):
        known = {}

    if not known or not all(0 < weight <= 1000 for weight in known.values()):
        raise UserError(
            f"'{file}' contains no valid weights of training images",
            where="data.weights",
            allowed="a column key, with keys that split.json lists under train, and a column weight, with"
            " numbers above 0 and up to 1,000",
        )

    return dict.fromkeys(keys, 1.0) | known
