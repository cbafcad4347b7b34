"""The rows of a CSV or TSV file with their line numbers, and the text of a CSV file."""

from __future__ import annotations

import codecs
import csv
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO

from gantk.errors import UserError, did_you_mean, file_error_words, reading_file
from gantk.files import open_file
from gantk.formats.files import formats, suffix_of

# what a column's name may have behind a contrast's: t1_path
OF_FILES = re.compile(r"_(path|file|image)$")
# The columns of a table of images: what each may be called, in lower case without separators, the
# best name first.
COLUMN_NAMES = {
    "path": (
        *("path", "imagepath", "filepath", "filename", "image", "imagefile", "img", "file"),
        *("pfad", "datei", "dateiname", "bild"),
    ),
    "domain": ("domain", "contrast", "sequence", "modality", "kontrast", "sequenz"),
    "patient": (
        *("patient", "patientid", "participantid", "participant", "subject", "subjectid"),
        *("caseid", "case", "id"),
    ),
}
# How programs and people write that a value is not known, in lower case.
UNKNOWN = frozenset(
    [
        *("na", "n/a", "n.a.", "#n/a", "<na>", "nan", "nat", "null", "nil", "none", "undefined"),
        *("unknown", "unk", "missing", "not available", "not known", "?", "-", "--", "."),
    ]
)
LEFT_OUT = "none"  # in the column split: the row is not used
# What a cell of the column split may say, in lower case.
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys((LEFT_OUT, "exclude", "-"), LEFT_OUT),
}
WORDS_OF_COLUMNS = {"label": {"none", "missing"}}  # these are no unknowns
# Ends the remedy where names do not decide what an image is.
FILL_IN_TABLE = "Or write a table with `gantk data check SCANS --table scans.csv`, complete it, and train from it"

EXCEL_SEPARATOR = re.compile(r"(?i)sep=([,;\t])")  # Excel's first line
MAX_TABLE_BYTES = 2**32
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF16_LE, "utf-16"),  # "Unicode text" of Excel
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)


def read_rows(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The columns of a CSV or TSV, and its rows with their line numbers; names in lower case,
    values without blanks.

    The separator is comma, semicolon or tab, whichever is most frequent in the header. Empty rows,
    and cells beyond the columns, are left out. UserError for a file that is not text, or has no
    header.
    """
    columns, rows = open_rows(path)
    return columns, list(rows)


def open_rows(path: Path, text: str = "") -> tuple[list[str], Iterator[tuple[int, dict[str, str]]]]:
    """Like `read_rows`, but an iterator that reads row by row, so that a table of millions takes no
    memory.
    """
    rows = _lines(path, text)
    header = [name.strip() for name in next(rows)[1]]
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

    keyed = ((line, _known_cells(columns, row)) for line, row in rows)
    return [name for name in columns if name], keyed


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
    if suffix_of(cell) in formats():
        return True
    return "/" in cell and os.path.exists(folder / cell)


def usual_columns(columns: Iterable[str]) -> dict[str, list[str]]:
    """Find the columns path, domain and patient of a table: column -> the table's own names for it,
    the best first.
    """
    own_name = {re.sub(r"[\W_]", "", name): name for name in reversed(list(columns))}
    found = {}
    for column, names in COLUMN_NAMES.items():
        own_names = [own_name[name] for name in names if name in own_name]
        if own_names:
            found[column] = own_names

    return found


def no_domain(
    columns: Sequence[str], path_column: str, kinds: Collection[str] = (), domain: str = ""
) -> UserError:
    """The error for a table that has paths but does not say the domain of each image.

    `kinds` are the contrasts that the names of its files state, `domain` that of a recipe of one.
    """
    says = "no column says"
    own = usual_columns(columns).get("domain")
    if own:
        says = f"the column '{own[0]}' is empty and does not say"
    what = (
        f"the column '{path_column}' names the images, but {says} which kind of image each one is."
        f" The table's columns are {first_columns(columns)}"
    )
    if kinds:
        what += f". The file names say {' and '.join(sorted(kinds))}"
    others = ", ".join(COLUMN_NAMES["domain"][1:])
    remedy = "add or fill in the column domain. If all images are of one kind, "
    if domain:
        remedy += f"name it: --set 'data.domains={json.dumps([domain])}'"
    else:
        remedy += "give all rows the same word"
    return UserError(
        what,
        where="data.source.path",
        allowed=f"the columns path and domain (or {others}), with words such as 'T1' and 'T2'",
        remedy=remedy,
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
        what = f"'{file}' contains no valid weights of training images"
        allowed = (
            "a column key, with keys that split.json lists under train, and a column weight, with"
            " numbers above 0 and up to 1,000"
        )
        raise UserError(what, where="data.weights", allowed=allowed)

    return dict.fromkeys(keys, 1.0) | known


def _open_table(path: Path, text: str) -> BinaryIO:
    return BytesIO(text.encode()) if text else open_file(path, max_bytes=MAX_TABLE_BYTES)


def _encoding(stored: BinaryIO) -> str:
    """The encoding that a file's byte-order mark states; UTF-8 without one."""
    start = stored.read(4)
    stored.seek(0)
    for mark, encoding in BYTE_ORDER_MARKS:
        if start.startswith(mark):
            return encoding
    return "utf-8"


def _undecodable_line(path: Path) -> int:
    """The number of a file's first line that is no text in the file's encoding."""
    with _open_table(path, "") as stored:
        decoder = codecs.getincrementaldecoder(_encoding(stored))()
        line = 1
        for part in iter(lambda: stored.read(2**20), b""):
            try:
                decoder.decode(part)
            except UnicodeDecodeError as error:
                return line + error.object.count(b"\n", 0, error.start)
            line += part.count(b"\n")

    return line


def _lines(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells): first those of the header, then each row with a cell."""

    def in_words(error: Exception) -> str:
        if isinstance(error, UnicodeDecodeError):
            return f"line {_undecodable_line(path)} is not UTF-8 text"
        return file_error_words(error)

    with (
        reading_file(
            path,
            "a table",
            allowed="CSV or TSV as UTF-8 text, or UTF-16 with a byte-order mark",
            remedy="check the path, or save the table again, in Excel as 'CSV UTF-8'",
            in_words=in_words,
        ),
        _open_table(path, text) as stored,
        TextIOWrapper(stored, _encoding(stored), newline="") as file,
    ):
        header = next((line for line in file if line.strip()), "")
        separator = EXCEL_SEPARATOR.fullmatch(header.strip())
        if separator:
            header = next((line for line in file if line.strip()), "")
        if "\0" in header:  # UTF-16 without a byte-order mark
            raise ValueError("line 1 is not UTF-8 text")
        file.seek(0)
        sign = separator[1] if separator else max(",;\t", key=header.count)
        reader = csv.reader(file, delimiter=sign, strict=True)
        if separator:
            next(reader)
        filled = ((reader.line_num, row) for row in reader if any(map(str.strip, row)))
        yield next(filled, (0, []))
        yield from filled
