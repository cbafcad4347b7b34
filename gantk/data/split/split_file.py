"""Who is where as a CSV says it: one row for each patient, or for each image."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gantk.data.items import Record
from gantk.data.sources.csv_rows import read_rows
from gantk.errors import UserError, did_you_mean

NAMES = ("patient", "path", "key")  # the columns of which one says whom a row is about
WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("none", "exclude", "-"), "none"),
}
WHERE = "data.split.file"


@dataclass(frozen=True)
class Table:
    """The rows of a split file: whom each is about, and what it says."""

    path: Path
    column: str  # "patient", "path" or "key"
    says: str  # "split" or "fold"
    rows: dict[str, tuple[int, str]]  # name -> (line, what it says)

    def facts(self) -> dict[str, Any]:
        """What split.json keeps of the file."""
        return {"path": str(self.path), "sha256": hashlib.sha256(self.path.read_bytes()).hexdigest()}


def as_file_says(records: Sequence[Record], file: str, folds: int, fold: int) -> tuple[list[Record], Table]:
    """The records with the split that a CSV gives them, without those that it leaves out (`none`).

    The CSV has a header, a column `patient` (or `path`, relative to the CSV's folder, or `key`) and a column `split`
    (train, validation, test, none) or `fold` (whole numbers; the rows of `fold` are the test set, all others are
    trained on). It is separated by commas, semicolons or tabs. Rows about patients that the source does not have are
    passed over; a patient, or an image, that no row names is a UserError, as is every other problem, with its line.
    """
    table = read_table(Path(file))
    said = _folds(table, folds, fold) if table.says == "fold" else _words(table, folds)
    find = _finder(table)
    place = [find(record) for record in records]
    missing = [record for record, name in zip(records, place, strict=True) if name is None]
    if missing:
        _complain_of_missing(table, missing, records)
    marked = [replace(record, split=said[name]) for record, name in zip(records, place, strict=True)]
    _expect_whole_pairs(table, [r for r in marked if r.split != "none"], dict(zip(map(id, marked), place, strict=True)))
    return [record for record in marked if record.split != "none"], table


def read_table(path: Path) -> Table:
    """A split file, read and checked as far as that goes without knowing the images."""
    if not path.exists():
        raise UserError(f"the file '{path}' does not exist", where=WHERE, remedy="correct the path, or leave it out")
    try:
        header, lines = read_rows(path)
    except UserError as error:
        raise error.at(WHERE) from error
    column = next((name for name in NAMES if name in header), None)
    both = [name for name in ("split", "fold") if name in header]
    if column is None or not both:
        wanted, allowed = ("patient", NAMES) if column is None else ("split", ("split", "fold"))
        raise UserError(
            f"'{path}' has no column '{wanted}', but {', '.join(map(repr, header))}",
            where=f"{WHERE}: line 1",
            allowed=f"a header with one of {', '.join(allowed)}",
            remedy=did_you_mean(wanted, header),
        )
    if len(both) == 2:
        raise UserError(
            f"'{path}' has both 'split' and 'fold'", where=f"{WHERE}: line 1", remedy="rename or remove one of them"
        )
    return Table(path, column, both[0], _checked(path, column, both[0], lines))


def _checked(path: Path, named: str, said: str, lines: list[tuple[int, dict[str, str]]]) -> dict[str, tuple[int, str]]:
    rows: dict[str, tuple[int, str]] = {}
    for line, row in lines:
        where = f"{WHERE}: '{path.name}', line {line}"
        name, value = row.get(named, ""), row.get(said, "").lower()
        if not name:
            raise UserError(f"this row names no {named}", where=where, remedy="correct that row")
        if name in rows and rows[name][1] != value:
            what = f"'{name}' is in '{value}' here, and in '{rows[name][1]}' in line {rows[name][0]}"
            raise UserError(what, where=where, remedy="keep one of the two rows")
        rows.setdefault(name, (line, value))
    return rows


def _words(table: Table, folds: int) -> dict[str, str]:
    if folds:
        what = f"'{table.path}' says who is in which split, and folds = {folds} deals them out anew"
        raise UserError(what, where=WHERE, remedy="set folds = 0, or give the file a column fold in place of split")
    for line, value in table.rows.values():
        if value not in WORDS:
            raise UserError(
                f"'{value}' is no split" if value else "this row says no split",
                where=f"{WHERE}: '{table.path.name}', line {line}",
                allowed="train, validation, test; none to leave it out",
                remedy=did_you_mean(value, WORDS),
            )
    return {name: WORDS[value] for name, (_, value) in table.rows.items()}


def _folds(table: Table, folds: int, fold: int) -> dict[str, str]:
    for line, value in table.rows.values():
        if not (value.isascii() and value.isdigit()):
            what = f"'{value}' is no fold" if value else "this row says no fold"
            raise UserError(what, where=f"{WHERE}: '{table.path.name}', line {line}", allowed="0, 1, 2, ...")
    numbers = sorted({int(value) for _, value in table.rows.values()})
    if fold not in numbers or len(numbers) < 2 or folds not in (0, len(numbers)):
        counted = folds not in (0, len(numbers))
        what = f"it has {len(numbers)} folds, not {folds}" if counted else f"it has no fold {fold}"
        raise UserError(
            f"'{table.path}': {'it has one fold only' if len(numbers) == 1 else what}",
            where="data.split.folds" if counted else "data.split.fold",
            allowed=", ".join(map(str, numbers)) or "rows below the header",
        )
    return {name: "test" if int(value) == fold else "train" for name, (_, value) in table.rows.items()}


def _finder(table: Table) -> Callable[[Record], str | None]:
    """The name under which a record stands in the table, or None."""
    if table.column == "patient":
        return lambda record: record.subject if record.subject in table.rows else None
    if table.column == "key":
        return lambda record: next((key for key in (record.key, record.scan_key) if key in table.rows), None)
    at = {(table.path.parent / name).resolve(): name for name in table.rows}
    known: dict[Path, str | None] = {}

    def named(path: Path) -> str | None:
        """A DICOM series may be named by its folder."""
        if path not in known:
            full = path.resolve()
            known[path] = at.get(full, at.get(full.parent))
        return known[path]

    return lambda record: next((name for path in record.files if (name := named(path)) is not None), None)


def _complain_of_missing(table: Table, missing: Sequence[Record], records: Sequence[Record]) -> None:
    if table.column == "patient":
        if any(not record.subject for record in missing):
            raise UserError(
                f"'{table.path}' goes by patient, and the source does not know which image is of which patient",
                where=WHERE,
                remedy="give the file a column path in place of patient, or tell the source where names say who it is "
                "(patient = 'regex')",
            )
        names, count = sorted({r.subject for r in missing}), len({r.subject for r in records})
    else:
        names = sorted({str(r.path) if table.column == "path" and r.path else r.key for r in missing})
        count = len({str(r.path) if table.column == "path" and r.path else r.key for r in records})
    shown = ", ".join(f"'{name}'" for name in names[:5]) + (" ..." if len(names) > 5 else "")
    what = "patients" if table.column == "patient" else "images"
    raise UserError(
        f"{len(names)} of {count} {what} have no row in '{table.path}': {shown}",
        where=WHERE,
        remedy="add a row for each: none in the column split leaves one out"
        if table.says == "split"
        else "add a row for each",
    )


def _expect_whole_pairs(table: Table, records: Sequence[Record], named: dict[int, str]) -> None:
    """Registered images stay together: rows by path may part them without meaning to."""
    pairs: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record.pair is not None:
            pairs[record.pair].append(record)
    for members in pairs.values():
        for other in members[1:]:
            if other.split != members[0].split:
                one, two = (table.rows[named[id(record)]][0] for record in (members[0], other))
                raise UserError(
                    f"'{members[0].key}' and '{other.key}' are a registered pair, and line {one} puts the first into "
                    f"{members[0].split}, line {two} the second into {other.split}",
                    where=f"{WHERE}: '{table.path.name}'",
                    remedy="put both into one set",
                )
