"""The rows of a CSV or TSV, with their lines; and the text of a CSV."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from io import StringIO
from pathlib import Path
from typing import Any

from gantk.errors import UserError, told

# Told of a file now and then what share of it was read, and how many lines.
READING: ContextVar[Callable[[float, int], None]] = ContextVar("READING", default=lambda share, line: None)


def read_rows(path: Path, text: str = "") -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The columns of a CSV or TSV, and its rows with their line numbers; names in lower case, values without blanks.

    Comma, semicolon or tab: whichever the header has most of. Empty rows are left out, and so is what a row has beyond
    the columns, or lacks. What is no text, or has no header, is a UserError.
    """
    columns, rows = open_rows(path, text)
    return columns, list(rows)


def open_rows(path: Path, text: str = "") -> tuple[list[str], Iterator[tuple[int, dict[str, str]]]]:
    """What `read_rows` returns, with rows that are read as they are asked for: a table of millions takes no memory."""
    rows = _lines(path, text)
    columns = next(rows)[1]
    if not columns:
        raise UserError(f"'{path}' is empty", allowed="a header, and a row for each image")
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise UserError(f"'{path}' has two columns '{twice[0]}'", remedy="rename or remove one")
    keyed = ((line, dict(zip(columns, map(str.strip, row), strict=False))) for line, row in rows)
    return [name for name in columns if name], keyed


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A CSV that `read_rows` reads: its columns, and its rows, where None is an empty cell."""
    csv.writer(text := StringIO(), lineterminator="\n").writerows([columns, *rows])
    return text.getvalue()


def weights_of(file: str, keys: Sequence[str]) -> dict[str, float]:
    """How often each of these images is to be shown against others: a CSV's `weight` of its `key`, else 1."""
    wanted = set(keys)
    try:
        known = {row["key"]: float(row["weight"]) for _, row in read_rows(Path(file))[1] if row["key"] in wanted}
    except (KeyError, ValueError):
        known = {}
    if not known or not all(0 < weight <= 1000 for weight in known.values()):
        allowed = "columns key, some of those that split.json lists under train, and weight, above 0 up to 1,000"
        raise UserError(f"'{file}' does not weigh the training images", where="data.weights", allowed=allowed)
    return dict.fromkeys(keys, 1.0) | known


def _lines(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """The columns, in lower case, and then the rows that hold something, each with its line."""
    try:
        with StringIO(text, newline="") if text else path.open(encoding="utf-8-sig", newline="") as file:
            header = next((line for line in file if line.strip()), "")
            file.seek(0)
            reader = csv.reader(file, delimiter=max(",;\t", key=header.count), strict=True)
            filled = ((reader.line_num, row) for row in reader if any(map(str.strip, row)))
            line, first = next(filled, (0, []))
            yield line, [name.strip().lower() for name in first]
            for line, row in filled:
                if not line % 1000 and not text:
                    READING.get()(file.buffer.tell() / path.stat().st_size, line)
                yield line, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) else told(error)
        raise UserError(f"'{path}' cannot be read as a table: {why}", allowed="UTF-8 text, CSV or TSV") from error
