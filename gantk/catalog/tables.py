"""The rows of a CSV or TSV file with their line numbers, and the text of a CSV file."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from gantk.errors import UserError, did_you_mean, file_error_words, reading_file
from gantk.files import read_file
from gantk.formats.files import formats, suffix_of

# How programs and people write that a value is not known, in lower case.
UNKNOWN = frozenset(
    [
        "na",
        "n/a",
        "n.a.",
        "#n/a",
        "<na>",
        "nan",
        "nat",
        "null",
        "nil",
        "none",
        "undefined",
        "unknown",
        "unk",
        "missing",
        "?",
        "-",
        "--",
        ".",
    ]
    + ["not available", "not known"]
)
WORDS_OF_COLUMNS = {"label": {"none", "missing"}}  # these are no unknowns
LEFT_OUT = "none"  # in the column split: the row is not used
# What a cell of the column split may say, in lower case.
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys((LEFT_OUT, "exclude", "-"), LEFT_OUT),
}
# Ends the remedy where names do not decide what an image is.
FILL_IN_TABLE = "Or write a table with `gantk data check SCANS --table scans.csv`, complete it, and train from it"

EXCEL_SEPARATOR = re.compile(r"(?i)sep=([,;\t])\s*")  # Excel's first line
MAX_TABLE_BYTES = 2**32
MAX_HEADER_CHARACTERS = 2**16
BYTE_ORDER_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}  # "Unicode text" of Excel

NumberedRow = tuple[int, dict[str, str]]  # line number, and cells by column


def read_rows(path: Path, text: str = "") -> tuple[list[str], list[NumberedRow]]:
    """The columns of a CSV or TSV file, or of its `text`, and its rows with their line numbers; names
    in lower case, values without blanks, "" for those that mean "unknown".

    The separator is comma, semicolon or tab, whichever is most frequent in the header. Empty rows,
    and cells beyond the columns, are left out. UserError for a file that is not text, or has no
    header.
    """
    rows = _lines(path, text)
    header = [name.strip() for name in rows.pop(0)[1]] if rows else []
    if not header:
        raise UserError(f"'{path}' is empty", allowed="a header and one row for each image")

    folder = path if text else path.parent
    images = [name for name in header if _names_image(name, folder)]
    if images:
        raise UserError(
            f"'{path}' has no header: its first row names the image '{images[0][:100]}'",
            allowed="names of columns in the first row, such as path,domain,patient",
            remedy="add this row",
        )

    columns = [name.lower() for name in header]
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        what = f"'{path}' has two columns with the name '{twice[0]}'"
        raise UserError(what, remedy="rename or remove one of them")
    return [name for name in columns if name], [
        (line, _known_cells(columns, row)) for line, row in rows
    ]


def _known_cells(columns: Sequence[str], row: Sequence[str]) -> dict[str, str]:
    """The cells of a row by column, without blanks; whatever means "unknown" is empty."""
    cells = {}
    for column, text in zip(columns, row, strict=False):
        cell = text.strip()
        is_word = column == "split" or cell.lower() in WORDS_OF_COLUMNS.get(column, ())
        cells[column] = cell if is_word or cell.lower() not in UNKNOWN else ""
    return cells


def _names_image(cell: str, folder: Path) -> bool:
    """Whether a cell is the path of an image: by its suffix, or as an existing path with a folder."""
    return suffix_of(cell) in formats() or ("/" in cell and os.path.exists(folder / cell))


def _lines(path: Path, text: str) -> list[tuple[int, list[str]]]:
    """Line number and cells of the rows that have a cell: first the header."""

    def in_words(error: Exception) -> str:
        if isinstance(error, UnicodeDecodeError):
            line = error.object.count(b"\n", 0, error.start) + 1
            return f"line {line} is not UTF-8 text"
        return file_error_words(error)

    with reading_file(
        path,
        "a table",
        allowed="CSV or TSV as UTF-8 text, or UTF-16 with a byte-order mark",
        remedy="check the path, or save the table again, in Excel as 'CSV UTF-8'",
        in_words=in_words,
    ):
        if not text:
            content = read_file(path, max_bytes=MAX_TABLE_BYTES)
            text = content.decode(BYTE_ORDER_MARKS.get(content[:2], "utf-8-sig"))
        lines = text[:MAX_HEADER_CHARACTERS].splitlines()
        stated = EXCEL_SEPARATOR.fullmatch(lines[0]) if lines else None
        header = next((line for line in lines[bool(stated) :] if line.strip()), "")
        if "\0" in header:  # UTF-16 without a byte-order mark
            raise ValueError("line 1 is not UTF-8 text")
        sign = stated[1] if stated else max(",;\t", key=header.count)
        reader = csv.reader(StringIO(text, newline=""), delimiter=sign, strict=True)
        rows = [(reader.line_num, row) for row in reader if any(map(str.strip, row))]
    return rows[bool(stated) :]


def split_in(cell: str, where: str) -> str:
    """The set that a cell of the column split names, `LEFT_OUT`, or "" for an empty cell; UserError
    for any other word.
    """
    split = SPLIT_WORDS.get(cell.lower(), "")
    if cell and not split:
        what = f"'{cell}' is not a valid split"
        allowed = f"train, validation, test, or {LEFT_OUT} to leave the row out"
        remedy = did_you_mean(cell, SPLIT_WORDS)
        raise UserError(what, where=where, allowed=allowed, remedy=remedy)
    return split


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
        what = f"'{file}' contains no valid weights of training images"
        allowed = (
            "a column key, with keys that split.json lists under train, and a column weight, with"
            " numbers above 0 and up to 1,000"
        )
        raise UserError(what, where="data.weights", allowed=allowed)

    return dict.fromkeys(keys, 1.0) | known
