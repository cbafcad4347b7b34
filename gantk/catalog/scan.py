"""Makes a catalog: of a folder, which is listed once, or of a table. Names say what images show, and
headers what series of files show.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from gantk.catalog.catalog import Catalog, Row, unread_rows
from gantk.catalog.contrasts import contrast_called, known_contrast, usual_contrast
from gantk.catalog.domains import names_mask
from gantk.catalog.layouts import Asked, read_names
from gantk.catalog.tables import OF_FILES, first_columns, open_rows, usual_columns
from gantk.catalog.versions import without_whole_heads
from gantk.errors import UserError
from gantk.formats import files as io
from gantk.formats.image import Scan


def scan(
    folder: Path,
    asked: Asked,
    wanted: Callable[[Path], bool] = bool,
    *,
    stripped: bool = False,
) -> Catalog:
    """The catalog of all images and series below a folder, in natural order; images of kinds that
    gantk does not read are of the kind "other", see `unread_note`.

    `wanted`: whether a file is listed. `stripped`: images without skull replace whole heads.
    UserError as of `read_names`, and for a missing or unreadable folder.
    """
    paths = [path for path in io.files_below(folder, True, bool) if wanted(path)]
    scans = io.scans_of(folder, paths)
    images = [each.path for each in scans if io.is_image(each.path)]
    named = without_whole_heads(images) if stripped else images
    catalog = read_names(folder, named, asked)
    for image in sorted({*images} - {*named}):
        why = {"kind": "beside it lies an image without skull"}
        catalog.rows.append(Row((image,), kind="version", why=why))

    series = [each for each in scans if not io.is_image(each.path)]
    catalog.rows += [_row_of_series(each, asked, alone=len(scans) == 1) for each in series]
    catalog.rows.sort(key=lambda row: io.natural(row.scan_below(folder).name))
    catalog.rows += unread_rows(paths)
    return catalog


def _row_of_series(series: Scan, asked: Asked, alone: bool) -> Row:
    """The row of a series, filled from its header and its folder's name; not filled where it is
    `alone` or cannot be read.
    """
    row = Row(series.files, series=series)
    if alone:
        return row
    try:
        facts = io.outline(series).facts
    except UserError:  # a damaged file, which `read` will report
        return row

    folder = Path(series.name).name
    said = facts.get("contrast") or usual_contrast(folder) or folder
    contrast = known_contrast(said, asked.contrasts) or usual_contrast(said)
    row.fill("contrast", contrast or "", "the header" if facts.get("contrast") else "the folder")
    row.fill("subject", facts.get("patient", ""), "the header")
    row.fill("session", facts.get("study", ""), "the header")
    return row


def read_table(table: Path, contrasts: Sequence[str]) -> Catalog:
    """The images of these contrasts in a CSV: one row for each patient with a column for each
    contrast, or one row for each image with the columns path, domain and patient. Paths are
    relative to the table.
    """
    columns, rows = open_rows(table)
    usual = {column: names[0] for column, names in usual_columns(columns).items()}
    column_of = _columns_of_contrasts(table, columns, contrasts)
    if not column_of and not {"path", "domain", "patient"} <= usual.keys():
        raise UserError(
            f"'{table}' does not say which contrast each image is. Its columns are"
            f" {first_columns(columns)}",
            where="INPUT",
            allowed=f"path, domain and patient, or a column for each of {', '.join(contrasts)}",
        )

    catalog = Catalog([])
    for line, cells in rows:
        subject = cells.get(usual.get("patient", ""), "")
        session = ""
        if column_of:
            images = {name: cells.get(column, "") for name, column in column_of.items()}
            session = f"line {line}"
            subject = subject or session
        else:
            contrast = known_contrast(cells.get(usual["domain"], ""), contrasts)
            images = {contrast or "": cells.get(usual["path"], "")}

        for contrast, path in images.items():
            if contrast and path:
                found = _scan_in_cell(table, path, line)
                series = found if found.files != (found.path,) else None
                row = Row(found.files, contrast, subject, session, stem=subject, series=series)
                catalog.rows.append(row)

    if not catalog.rows:
        raise UserError(
            f"'{table}' lists no image of {', '.join(contrasts)}",
            where="INPUT",
            allowed=contrasts,
        )
    return catalog


def _columns_of_contrasts(
    table: Path, columns: Sequence[str], contrasts: Sequence[str]
) -> dict[str, str]:
    """The column of each contrast: one that is called as the contrast, else one whose words mean it
    (`T1_post_contrast`); UserError where two do.
    """
    names = {column: OF_FILES.sub("", column) for column in columns}
    images = [column for column, name in names.items() if not names_mask(name)]
    column_of = {}
    for contrast in contrasts:
        called = [each for each in columns if contrast_called(names[each], contrasts) == contrast]
        meant = [each for each in images if known_contrast(names[each], contrasts) == contrast]
        if len(meant) > 1 and not called:
            raise UserError(
                f"'{table}' has two columns of {contrast}: '{meant[0]}' and '{meant[1]}'",
                where="INPUT",
                allowed="one column for each contrast",
            )
        if called or meant:
            column_of[contrast] = (called or meant)[0]

    return column_of


def _scan_in_cell(table: Path, text: str, line: int) -> Scan:
    path = table.parent / text
    if not path.exists():
        raise UserError(
            f"line {line} of '{table}' names '{text}', which does not exist",
            where="INPUT",
            allowed="paths relative to the table",
        )
    return io.scan_of(path)
