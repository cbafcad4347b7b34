"""Writes what `gantk data check` understood as a table, which users complete and train with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gantk.catalog.catalog import Row as CatalogRow
from gantk.catalog.contrasts import CONTRASTS
from gantk.catalog.domains import relative_to
from gantk.catalog.layouts import Asked, read_names
from gantk.catalog.tables import LEFT_OUT, csv_text
from gantk.data.check.inspect import Inspected
from gantk.data.check.usage import Usage, absolute
from gantk.data.sources.pairing import complete_pairs
from gantk.errors import UserError, count_noun
from gantk.files import expect_file, write_output
from gantk.formats import files as io
from gantk.formats.image import Scan


@dataclass
class Row:
    """One file of a table; an empty cell is not known."""

    path: str
    domain: str = ""
    patient: str = ""
    split: str = ""
    label: str = ""
    mask: str = ""
    pair: str = ""
    why: str = ""  # the rules that filled the cells


def expect_table(table: Path, overwrite: bool) -> None:
    """UserError where a table cannot be written there, or would replace one that was completed."""
    if table.suffix.lower() != ".csv":
        allowed = "a file name that ends in .csv"
        raise UserError(f"'{table}' is not a CSV file", where="--table", allowed=allowed)
    expect_file(table, "--table", overwrite=overwrite)


def write_table(
    table: Path,
    path: Path,
    scans: Sequence[Scan],
    usage: Usage | None,
    items: Sequence[Inspected],
    why: bool = False,
) -> str:
    """Write one row for each image below `path`; paths are relative to the table where they can be.

    With a `usage` the table yields the same records; files that it does not use are left out by
    `none` in the column split. Without one, a row contains only what names determine. With `why`, a
    column says which rules filled the cells. Returns a sentence about the rows.
    """
    if usage:
        rows = [*_rows_of_records(usage, scans), *_rows_left_out(usage, scans)]
    else:
        rows = _rows_of_names(path, scans, items)

    folder = table.absolute().parent
    for row in rows:
        row.path = _relative(row.path, folder)
        row.mask = row.mask and _relative(row.mask, folder)

    columns = ["path", "domain", "patient"]
    columns += [name for name in ("split", "label", "mask") if any(getattr(r, name) for r in rows)]
    if usage and len(usage.names) == 2:
        columns.append("pair")  # empty cells too: pairs are those of the folder
    if why:
        columns.append("why")

    cells = [[getattr(row, column) for column in columns] for row in rows]
    write_output(table, csv_text(columns, cells).encode())
    trained = [row for row in rows if row.split != LEFT_OUT[0]]
    domains = sum(not row.domain for row in trained)
    patients = sum(not row.patient for row in trained)
    return (
        f"'{table}' has {count_noun(rows, 'row')}: {domains} without a domain, {patients} without a"
        f" patient, {len(rows) - len(trained)} left out"
    )


def _rows_left_out(usage: Usage, scans: Sequence[Scan]) -> Iterator[Row]:
    """Yield a row for each image that is not used."""
    known = {row.path: row for row in usage.catalog or ()}
    used = set()
    for record in usage.records:
        used |= set(map(absolute, (*record.files, *record.mask_files)))
    for scan in scans:
        if used.isdisjoint(map(absolute, scan.files)):
            row = known.get(scan.path)
            yield Row(
                str(scan.path),
                row.contrast if row else "",
                split=LEFT_OUT[0],
                why=reasons(row) if row else "",
            )


def _rows_of_records(usage: Usage, scans: Sequence[Scan]) -> list[Row]:
    """A row for each image that is used, in the order of the records."""
    place_of = {scan.files[0]: scan.path for scan in scans}  # of a DICOM series its folder
    complete = complete_pairs(usage.records)
    splits = any(record.split for record in usage.records)
    # "images" is no contrast but the check's word for one unknown domain.
    known = {letter: "" if name == "images" else name for letter, name in usage.names.items()}
    whys = {(row.path, row.contrast): reasons(row) for row in usage.catalog or ()}
    rows: dict[tuple[str, str], Row] = {}
    for record in usage.records:
        image = str(place_of.get(record.files[0], record.files[0]))
        if (record.domain, image) in rows:  # another plane of the same volume
            continue

        row = Row(image, known[record.domain], record.subject, label=record.label or "")
        if splits:
            row.split = record.split or "train"
        if record.mask_files:
            row.mask = str(record.mask_files[0])
        if record.pair is not None and record.pair in complete:
            plane = record.key.removeprefix(record.scan_key) if record.scan_key else ""
            row.pair = record.pair.removesuffix(plane)

        row.why = whys.get((record.files[0], known[record.domain]), "")
        rows[record.domain, image] = row

    return list(rows.values())


def _rows_of_names(path: Path, scans: Sequence[Scan], items: Sequence[Inspected]) -> list[Row]:
    """A row for each image whose use is not known: what headers and names say."""
    inspected = {item.name: item for item in items}
    files = [scan.path for scan in scans if io.is_image(scan.path)]
    catalog = read_names(path, files, Asked(by_folders=False))
    known = {row.path: row for row in catalog}
    rows = []
    for scan in scans:
        item = inspected.get(scan.name)
        row = Row(str(scan.path))
        named = known.get(scan.path)
        if named:
            row.domain, row.patient = named.contrast, named.subject
            row.split = "" if named.kind == "image" else LEFT_OUT[0]
            row.why = reasons(named)
        if item and item.header_says and not row.domain:
            row.domain = CONTRASTS.get(item.header_says, item.header_says).upper()
        if item and item.patient:
            row.patient = item.patient
        rows.append(row)

    return rows


def reasons(row: CatalogRow) -> str:
    """The rules that filled the cells of a row, in a line."""
    names = {"contrast": "domain", "subject": "patient"}
    said = [f"{names.get(column, column)}: {rule}" for column, rule in row.why.items()]
    return "; ".join(said)


def _relative(path: str, folder: Path) -> str:
    return relative_to(Path(absolute(Path(path))), folder).as_posix()
