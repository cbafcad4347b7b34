"""Reads splits from a CSV: one row for each patient, or for each image, with its set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from gantk.catalog.tables import LEFT_OUT, first_columns, read_rows, split_in, usual_columns
from gantk.data.preparation import Record
from gantk.errors import UserError, did_you_mean
from gantk.files import sha256_of

WHERE = "data.split.file"


def read_split_file(records: Sequence[Record], file: str) -> tuple[list[Record], dict[str, Any]]:
    """Return the records with the CSV's splits, without those that it leaves out (`none`), and the
    file's entry in split.json (path, hash).

    The CSV has a header, a column `patient` (or `path`, relative to the CSV's folder, or `key`) and
    a column `split` (train, validation, test, none). Its separator is a comma, semicolon or tab. Rows
    of patients that the source does not have are skipped; a patient or an image without a row is a
    UserError, as is every other problem, with its line.
    """
    path = Path(file)
    try:
        header, lines = read_rows(path)
    except UserError as error:
        raise error.at(WHERE) from error

    usual = usual_columns(header)
    own: dict[str, str] = {}
    own |= {column: usual[column][0] for column in ("patient", "path") if column in usual}
    column = _column(path, [*header, *own], ("patient", "path", "key"))
    _column(path, header, ("split",))
    sets = _read_sets(path, lines, own.get(column, column))
    if column == "path":
        sets = {_real_path(path.parent / name): value for name, value in sets.items()}

    set_of = {}
    for record in records:
        set_of[record.id] = next((sets[x] for x in _names(record, column) if x in sets), None)
    without_row = [record for record in records if set_of[record.id] is None]
    if without_row:
        raise _missing(path, column, records, without_row)

    kept = [replace(each, split=set_of[each.id]) for each in records if set_of[each.id] != LEFT_OUT]
    _expect_pairs_together(kept, path)
    return kept, {"file": {"path": str(path), "sha256": sha256_of(path)}}


def _read_sets(
    path: Path, lines: Iterable[tuple[int, dict[str, str]]], column: str
) -> dict[str, str]:
    """The set of each name in `column`; UserError with the line of a wrong row."""
    sets: dict[str, str] = {}
    for line, row in lines:
        name = row.get(column, "")
        cell = row.get("split", "")
        where = f"{WHERE}: '{path.name}', line {line}"
        if not name or not cell:
            what = f"the column '{'split' if name else column}' is empty in this row"
            raise UserError(what, where=where, remedy="fill it in, or remove the row")

        value = split_in(cell, where)
        if sets.setdefault(name, value) != value:
            what = f"'{name}' is in '{value}' in this row, but in '{sets[name]}' in an earlier one"
            raise UserError(what, where=where, remedy="keep one of the two rows")

    return sets


def _expect_pairs_together(records: Sequence[Record], path: Path) -> None:
    """UserError where rows by path put registered images into different sets."""
    set_of_pair: dict[str, str | None] = {}
    for record in records:
        if record.pair is None:
            continue
        first = set_of_pair.setdefault(record.pair, record.split)
        if first != record.split:
            what = (
                f"'{record.key}' is in the {record.split} set, but the image that is registered"
                f" with it is in the {first} set"
            )
            remedy = "put both into the same set"
            raise UserError(what, where=f"{WHERE}: '{path.name}'", remedy=remedy)


def _column(path: Path, header: list[str], names: tuple[str, ...]) -> str:
    """The first of `names` that a table has as a column; UserError where it has none."""
    present = [name for name in names if name in header]
    if not present:
        columns = first_columns([*map(repr, header)])
        what = f"'{path}' has no column '{names[0]}'. Its columns are {columns}"
        allowed = f"a header with one of the columns {', '.join(names)}"
        remedy = did_you_mean(names[0], header)
        raise UserError(what, where=f"{WHERE}: line 1", allowed=allowed, remedy=remedy)

    return present[0]


def _names(record: Record, column: str) -> Sequence[str]:
    """What a row may call a record in this column; a DICOM series by its folder, too."""
    if column == "patient":
        # a pseudonym's attribute `of` is the patient's name in the file
        return record.subject, getattr(record.subject, "of", "")
    if column == "key":
        return record.key, record.scan_key
    places = [_real_path(place) for file in record.files for place in (file, file.parent)]
    return places or [record.key]


@lru_cache(maxsize=2**16)  # each plane of a volume has the same path
def _real_path(file: Path) -> str:
    return str(file.resolve())


def _missing(
    path: Path, column: str, records: Sequence[Record], missing: Sequence[Record]
) -> UserError:
    names = sorted({_names(record, column)[0] for record in missing})
    count = len({_names(record, column)[0] for record in records})
    shown = ", ".join(f"'{name}'" for name in names[:5]) + (" ..." if len(names) > 5 else "")
    what = (
        f"{len(names)} of {count} {'patients' if column == 'patient' else 'images'} have no row in"
        f" '{path}': {shown}"
    )
    remedy = "add a row for each of them. The word none in the column split leaves a row out"
    if column == "patient" and "" in names:
        what = f"'{path}' has a column patient, but the patients of the images are not known"
        remedy = (
            "use a column path instead of patient or, if file names contain the patient, set"
            " data.source.patient to a regular expression"
        )

    return UserError(what, where=WHERE, remedy=remedy)
