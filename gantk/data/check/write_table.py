"""Writes what `gantk data check` understood as a table, which users complete and train with."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from gantk.catalog.catalog import VOLUME, Catalog, Row
from gantk.catalog.tables import LEFT_OUT
from gantk.data.dataset import Study
from gantk.data.preparation import RecordId
from gantk.data.sources.pairing import complete_pairs
from gantk.data.sources.source import file_sources
from gantk.errors import UserError, count_noun
from gantk.files import expect_file
from gantk.formats.image import Scan


def expect_table(table: Path, overwrite: bool) -> None:
    """UserError where a table cannot be written there, or would replace one that was completed."""
    if table.suffix.lower() != ".csv":
        raise UserError(
            f"'{table}' is not a CSV file", where="--table", allowed="a file name that ends in .csv"
        )
    expect_file(table, "--table", overwrite=overwrite)


def write_table(
    table: Path, usage: Study | None, said: Sequence[Row], pairs: Mapping[RecordId, str] = {}
) -> str:
    """Write one row for each image, and return a sentence about the rows. `pairs`: names of likely
    pairs, by the id of a record.

    With a `usage` the table yields the same records; files that it does not use are left out by
    `none` in the column split. Without one, it has the rows `said`, which are what names and headers
    say.
    """
    if usage:
        rows = [*_rows_in_use(usage, pairs), *_rows_left_out(usage)]
    else:
        rows = [
            replace(row, split="" if row.kind == "image" else LEFT_OUT, pair="", session="")
            for row in said
        ]

    # those of all tables, empty ones too, so that rows of two can be put into one
    columns = ["path", "domain", "patient", "visit", "split", "label", "mask", VOLUME]
    if usage and len(usage.names) == 2:
        columns.append("pair")  # an empty one: no pairs, as in the folder

    Catalog(rows).write(table, columns)
    trained = [row for row in rows if row.split != LEFT_OUT]
    domains = sum(not row.contrast for row in trained)
    patients = sum(not row.subject for row in trained)
    likely = f"; {len(pairs) // 2} likely pairs by what they show, to be checked" if pairs else ""
    return (
        f"'{table}' has {count_noun(rows, 'row')}: {domains} without a domain, {patients} without a"
        f" patient, {len(rows) - len(trained)} left out{likely}"
    )


def _rows_left_out(usage: Study) -> list[Row]:
    """A row for each image that is not used."""
    used = set()
    for record in usage.records:
        used |= set(map(os.path.abspath, (*record.files, *record.mask_files)))
    rows = {}
    for source in file_sources(usage.source):
        for row in source.catalog:
            if row.kind != "other" and used.isdisjoint(map(os.path.abspath, row.files)):
                place = row.scan.path
                rows[place] = Row(Scan(place), row.contrast, split=LEFT_OUT)
    return [*rows.values()]


def _rows_in_use(usage: Study, pairs: Mapping[RecordId, str]) -> list[Row]:
    """A row for each image that is used, in the order of the records."""
    complete = complete_pairs(usage.records)
    splits = any(record.split for record in usage.records)
    # "images" is no contrast but the check's word for one unknown domain.
    known = {letter: "" if name == "images" else name for letter, name in usage.names.items()}
    rows = {}
    for record in usage.records:
        if record.file is None:
            raise UserError(
                f"the source '{usage.table.source.name}' reads parts of files as images",
                where="--table",
                allowed="one file, or series, for each image",
            )
        row = record.file.row
        plane = record.key.removeprefix(record.scan_key) if record.scan_key else ""
        name = "" if plane else pairs.get(record.id, "")
        if row.contrasts or record.pair in complete:
            name = (record.pair or "").removesuffix(plane)
        for contrast, scan in (row.contrasts or {known[record.domain]: row.scan}).items():
            if scan:
                rows[contrast, scan, record.subject] = replace(
                    row,
                    scan=scan,
                    contrast=contrast,
                    subject=record.subject,
                    split=(record.split or "train") if splits else "",
                    pair=name,
                )

    return list(rows.values())
