"""Splits that a CSV says: one row for each patient, or for each image, with its set or its fold."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from gantk.data.preparation import Record
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


def read_split_file(records: Sequence[Record], file: str, folds: int, fold: int) -> tuple[list[Record], dict[str, Any]]:
    """The records with the split that a CSV gives them, without those that it leaves out (`none`); and what split.json
    keeps of the file.

    The CSV has a header, a column `patient` (or `path`, relative to the CSV's folder, or `key`) and a column `split`
    (train, validation, test, none) or `fold` (whole numbers; the rows of `fold` are the test set, all others are
    trained on). It is separated by commas, semicolons or tabs. Rows about patients that the source does not have are
    passed over; a patient, or an image, that no row names is a UserError, as is every other problem, with its line.
    """
    path = Path(file)
    if not path.exists():
        raise UserError(f"the file '{path}' does not exist", where=WHERE, remedy="correct the path, or leave it out")
    try:
        header, lines = read_rows(path)
    except UserError as error:
        raise error.at(WHERE) from error
    column, says = _columns(path, header)
    rows: dict[str, tuple[int, str]] = {}  # whom a row is about -> its line, and what it says
    for line, row in lines:
        name, value, where = row.get(column, ""), row.get(says, "").lower(), f"{WHERE}: '{path.name}', line {line}"
        if says == "split" and value not in WORDS:
            what, remedy = f"'{value}' is no split", did_you_mean(value, WORDS)
            raise UserError(what, where=where, allowed="train, validation, test; none to leave it out", remedy=remedy)
        if says == "fold" and not (value.isascii() and value.isdigit()):
            raise UserError(f"'{value}' is no fold", where=where, allowed="0, 1, 2, ...")
        if not name:
            raise UserError(f"this row names no {column}", where=where, remedy="correct that row")
        first, other = rows.setdefault(name, (line, value))
        if other != value:
            what = f"'{name}' is in '{value}' here, and in '{other}' in line {first}"
            raise UserError(what, where=where, remedy="keep one of the two rows")
    if says == "fold":
        numbers = sorted({int(value) for _, value in rows.values()})
        if fold not in numbers or len(numbers) < 2 or folds not in (0, len(numbers)):
            what = f"'{path}' has {len(numbers)} folds, and the recipe asks for fold {fold}"
            what += f" of {folds}" if folds else ""
            allowed = ", ".join(map(str, numbers)) or "rows below the header"
            raise UserError(what, where="data.split.fold", allowed=allowed)
        sets = {name: "test" if int(value) == fold else "train" for name, (_, value) in rows.items()}
    elif folds:
        what = f"'{path}' says who is in which split, and folds = {folds} deals them out anew"
        raise UserError(what, where=WHERE, remedy="set folds = 0, or give the file a column fold in place of split")
    else:
        sets = {name: WORDS[value] for name, (_, value) in rows.items()}
    find = _finder(path, column, rows)
    named = [(record, find(record)) for record in records]
    if any(name is None for _, name in named):
        raise _missing(path, column, says, [record for record, name in named if name is None], records)
    kept, first = [(record, name) for record, name in named if sets[name] != "none"], {}
    for record, name in kept:  # rows by path easily part registered images
        other, its = first.setdefault(record.pair, (record, name))
        if record.pair is not None and sets[its] != sets[name]:
            what = (
                f"'{other.key}' and '{record.key}' are a registered pair, and line {rows[its][0]} puts the first into "
            )
            what += f"{sets[its]}, line {rows[name][0]} the second into {sets[name]}"
            raise UserError(what, where=f"{WHERE}: '{path.name}'", remedy="put both into one set")
    made = {"file": {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}}
    made |= {"fold": fold} if says == "fold" else {}
    return [replace(record, split=sets[name]) for record, name in kept], made


def _columns(path: Path, header: list[str]) -> tuple[str, str]:
    """Which column says whom a row is about, and whether it says a `split` or a `fold`."""
    found = []
    for allowed in (NAMES, ("split", "fold")):
        there = [name for name in allowed if name in header]
        if not there:
            what = f"'{path}' has no column '{allowed[0]}', but {', '.join(map(repr, header))}"
            remedy = did_you_mean(allowed[0], header)
            allowed = f"a header with one of {', '.join(allowed)}"
            raise UserError(what, where=f"{WHERE}: line 1", allowed=allowed, remedy=remedy)
        if there == ["split", "fold"]:
            what = f"'{path}' has both 'split' and 'fold'"
            raise UserError(what, where=f"{WHERE}: line 1", remedy="rename or remove one of them")
        found.append(there[0])
    return found[0], found[1]


def _finder(path: Path, column: str, rows: dict) -> Callable[[Record], str | None]:
    """The name under which a record stands in the table, or None; a DICOM series may be named by its folder."""
    if column == "path":
        at = {(path.parent / name).resolve(): name for name in rows}

        @cache  # a volume's path comes again with each of its planes
        def row_of(file: Path) -> str | None:
            return at.get(file.resolve(), at.get(file.resolve().parent))

        return lambda record: next(filter(None, map(row_of, record.files)), None)
    names = (lambda r: (r.subject,)) if column == "patient" else (lambda r: (r.key, r.scan_key))
    return lambda record: next((name for name in names(record) if name in rows), None)


def _missing(path: Path, column: str, says: str, missing: Sequence[Record], records: Sequence[Record]) -> UserError:
    if column == "patient" and any(not record.subject for record in missing):
        what = f"'{path}' goes by patient, and the source does not know which image is of which patient"
        remedy = "give the file a column path in place of patient, or tell the source where names say who it is "
        return UserError(what, where=WHERE, remedy=remedy + "(patient = 'regex')")
    name = {"patient": lambda r: r.subject, "path": lambda r: str(r.path or r.key), "key": lambda r: r.key}[column]
    names, count = sorted(set(map(name, missing))), len(set(map(name, records)))
    shown = ", ".join(f"'{name}'" for name in names[:5]) + (" ..." if len(names) > 5 else "")
    what = f"{len(names)} of {count} {'patients' if column == 'patient' else 'images'} have no row in '{path}': {shown}"
    leave_out = ": none in the column split leaves one out" if says == "split" else ""
    return UserError(what, where=WHERE, remedy=f"add a row for each{leave_out}")
