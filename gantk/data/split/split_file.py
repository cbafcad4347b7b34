"""Reads splits from a CSV: one row for each patient, with its set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gantk.catalog.tables import LEFT_OUT, first_columns, read_rows, split_in, usual_columns
from gantk.data.preparation import Record
from gantk.errors import UserError, count_noun, did_you_mean, join_first
from gantk.files import sha256_of

WHERE = "data.split.file"


def read_split_file(records: Sequence[Record], file: str) -> tuple[list[Record], dict[str, Any]]:
    """Return the records with the CSV's splits, without those that it leaves out (`none`), and the
    file's entry in split.json (path, hash).

    The CSV has a header and the columns `patient` and `split` (train, validation, test, none). Its
    separator is a comma, semicolon or tab. Rows of patients that the source does not have are
    skipped; a patient without a row is a UserError, as is every other problem, with its line.
    """
    path = Path(file)
    try:
        header, lines = read_rows(path)
    except UserError as error:
        raise error.at(WHERE) from error

    column = usual_columns(header).get("patient", ["patient"])[0]
    for name in (column, "split"):
        if name not in header:
            columns = first_columns([*map(repr, header)])
            what = f"'{path}' has no column '{name}'. Its columns are {columns}"
            allowed = "a header with the columns patient and split"
            remedy = did_you_mean(name, header)
            raise UserError(what, where=f"{WHERE}: line 1", allowed=allowed, remedy=remedy)

    sets = _read_sets(path, lines, column)
    kept = []
    set_of_pair: dict[str, str] = {}
    for record in records:
        own = sets.get(record.subject) or sets.get(_name_in_header(record))
        if own is None:
            raise _missing(path, records, sets)
        if own == LEFT_OUT:
            continue
        if record.pair and set_of_pair.setdefault(record.pair, own) != own:
            what = (
                f"'{record.key}' is in the {own} set, but the image that is registered with it is"
                f" in the {set_of_pair[record.pair]} set"
            )
            remedy = "put both into the same set"
            raise UserError(what, where=f"{WHERE}: '{path.name}'", remedy=remedy)
        kept.append(replace(record, split=own))

    return kept, {"file": {"path": str(path), "sha256": sha256_of(path)}}


def _read_sets(
    path: Path, lines: Iterable[tuple[int, dict[str, str]]], column: str
) -> dict[str, str]:
    """The set of each patient in `column`; UserError with the line of a wrong row."""
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


def _name_in_header(record: Record) -> str:
    """The patient's name in the file, of which a pseudonym is made."""
    return getattr(record.subject, "of", "")


def _missing(path: Path, records: Sequence[Record], sets: dict[str, str]) -> UserError:
    """The error for patients without a row."""
    patients = {record.subject: _name_in_header(record) for record in records}
    names = sorted(name for name, other in patients.items() if not {name, other} & sets.keys())
    if "" in names:
        return UserError(
            f"the patients of the images are not known, so '{path}' cannot split them",
            where=WHERE,
            remedy="if file names contain the patient, set data.source.patient to a regular"
            " expression. Or list the images in a table with a column split (--data)",
        )
    shown = join_first([*map(repr, names)])
    verb = "has" if len(names) == 1 else "have"
    return UserError(
        f"{len(names)} of {count_noun(patients, 'patient')} {verb} no row in '{path}': {shown}",
        where=WHERE,
        remedy="add a row for each of them. The word none in the column split leaves a row out",
    )
