"""Splits that a CSV says: one row for each patient, or for each image, with its set or its fold."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from gantk.data.items import Record
from gantk.data.sources.manifest import read_rows
from gantk.errors import UserError, did_you_mean

NAMES = ("patient", "path", "key")  # the columns of which one says whom a row is about
WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("none", "exclude", "-"), "none"),
}
WHERE = "data.split.file"
Rows = dict[str, tuple[int, str]]  # whom a row is about -> its line, and what it says


def read_split_file(records: Sequence[Record], file: str, folds: int, fold: int) -> tuple[list[Record], dict[str, Any]]:
    """The records with the split that a CSV gives them, without those that it leaves out (`none`); and what split.json
    keeps of the file.

    The CSV has a header, a column `patient` (or `path`, relative to the CSV's folder, or `key`) and a column `split`
    (train, validation, test, none) or `fold` (whole numbers; the rows of `fold` are the test set, all others are
    trained on). It is separated by commas, semicolons or tabs. Rows about patients that the source does not have are
    passed over; a patient, or an image, that no row names is a UserError, as is every other problem, with its line.
    """
    path = Path(file)
    column, says, rows = _read(path)
    sets = _sets_of_folds(path, rows, folds, fold) if says == "fold" else _sets_of_words(path, rows, folds)
    find = _finder(path, column, rows)
    named = [(record, find(record)) for record in records]
    missing = [record for record, name in named if name is None]
    if missing:
        _complain_of_missing(path, column, says, missing, records)
    _expect_whole_pairs(path, [(r, rows[name][0], sets[name]) for r, name in named if sets[name] != "none"])
    made = {"file": {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}}
    made |= {"fold": fold} if says == "fold" else {}
    return [replace(record, split=sets[name]) for record, name in named if sets[name] != "none"], made


def _read(path: Path) -> tuple[str, str, Rows]:
    """Which column says whom a row is about, whether it says a `split` or a `fold`, and the rows."""
    if not path.exists():
        raise UserError(f"the file '{path}' does not exist", where=WHERE, remedy="correct the path, or leave it out")
    try:
        header, lines = read_rows(path)
    except UserError as error:
        raise error.at(WHERE) from error
    column = next((name for name in NAMES if name in header), "")
    says = [name for name in ("split", "fold") if name in header]
    for wanted, found, allowed in (("patient", column, NAMES), ("split", says, ("split", "fold"))):
        if not found:
            what = f"'{path}' has no column '{wanted}', but {', '.join(map(repr, header))}"
            allowed, remedy = f"a header with one of {', '.join(allowed)}", did_you_mean(wanted, header)
            raise UserError(what, where=f"{WHERE}: line 1", allowed=allowed, remedy=remedy)
    if len(says) == 2:
        what = f"'{path}' has both 'split' and 'fold'"
        raise UserError(what, where=f"{WHERE}: line 1", remedy="rename or remove one of them")
    rows: Rows = {}
    for line, row in lines:
        name, value = row.get(column, ""), row.get(says[0], "").lower()
        if not name:
            raise UserError(f"this row names no {column}", where=_line(path, line), remedy="correct that row")
        first, other = rows.setdefault(name, (line, value))
        if other != value:
            what = f"'{name}' is in '{value}' here, and in '{other}' in line {first}"
            raise UserError(what, where=_line(path, line), remedy="keep one of the two rows")
    return column, says[0], rows


def _line(path: Path, line: int) -> str:
    return f"{WHERE}: '{path.name}', line {line}"


def _sets_of_words(path: Path, rows: Rows, folds: int) -> dict[str, str]:
    if folds:
        what = f"'{path}' says who is in which split, and folds = {folds} deals them out anew"
        raise UserError(what, where=WHERE, remedy="set folds = 0, or give the file a column fold in place of split")
    for line, value in rows.values():
        if value not in WORDS:
            what = f"'{value}' is no split" if value else "this row says no split"
            allowed, remedy = "train, validation, test; none to leave it out", did_you_mean(value, WORDS)
            raise UserError(what, where=_line(path, line), allowed=allowed, remedy=remedy)
    return {name: WORDS[value] for name, (_, value) in rows.items()}


def _sets_of_folds(path: Path, rows: Rows, folds: int, fold: int) -> dict[str, str]:
    for line, value in rows.values():
        if not (value.isascii() and value.isdigit()):
            what = f"'{value}' is no fold" if value else "this row says no fold"
            raise UserError(what, where=_line(path, line), allowed="0, 1, 2, ...")
    numbers = sorted({int(value) for _, value in rows.values()})
    counted = folds not in (0, len(numbers))
    if fold not in numbers or len(numbers) < 2 or counted:
        what = f"it has {len(numbers)} folds, not {folds}" if counted else f"it has no fold {fold}"
        what = f"'{path}': {'it has one fold only' if len(numbers) == 1 else what}"
        allowed = ", ".join(map(str, numbers)) or "rows below the header"
        raise UserError(what, where="data.split.folds" if counted else "data.split.fold", allowed=allowed)
    return {name: "test" if int(value) == fold else "train" for name, (_, value) in rows.items()}


def _finder(path: Path, column: str, rows: Rows) -> Callable[[Record], str | None]:
    """The name under which a record stands in the table, or None; a DICOM series may be named by its folder."""
    if column == "path":
        at = {(path.parent / name).resolve(): name for name in rows}

        @cache  # a volume's path comes again with each of its planes
        def row_of(file: Path) -> str | None:
            return at.get(file.resolve(), at.get(file.resolve().parent))

        return lambda record: next(filter(None, map(row_of, record.files)), None)
    names = (lambda r: (r.subject,)) if column == "patient" else (lambda r: (r.key, r.scan_key))
    return lambda record: next((name for name in names(record) if name in rows), None)


def _complain_of_missing(
    path: Path, column: str, says: str, missing: Sequence[Record], records: Sequence[Record]
) -> None:
    if column == "patient" and any(not record.subject for record in missing):
        what = f"'{path}' goes by patient, and the source does not know which image is of which patient"
        remedy = "give the file a column path in place of patient, or tell the source where names say who it is "
        raise UserError(what, where=WHERE, remedy=remedy + "(patient = 'regex')")
    name = {"patient": lambda r: r.subject, "path": lambda r: str(r.path or r.key), "key": lambda r: r.key}[column]
    names, count = sorted(set(map(name, missing))), len(set(map(name, records)))
    shown = ", ".join(f"'{name}'" for name in names[:5]) + (" ..." if len(names) > 5 else "")
    what = f"{len(names)} of {count} {'patients' if column == 'patient' else 'images'} have no row in '{path}': {shown}"
    leave_out = ": none in the column split leaves one out" if says == "split" else ""
    raise UserError(what, where=WHERE, remedy=f"add a row for each{leave_out}")


def _expect_whole_pairs(path: Path, placed: Sequence[tuple[Record, int, str]]) -> None:
    """UserError where rows, each with its line and set, part registered images, as rows by path easily do."""
    first: dict[str, tuple[Record, int, str]] = {}
    for record, line, name in placed:
        if record.pair is None:
            continue
        other, earlier, its = first.setdefault(record.pair, (record, line, name))
        if its != name:
            what = (
                f"'{other.key}' and '{record.key}' are a registered pair, and line {earlier} puts the first into {its}"
            )
            what += f", line {line} the second into {name}"
            raise UserError(what, where=f"{WHERE}: '{path.name}'", remedy="put both into one set")
