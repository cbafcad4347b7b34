"""Makes the catalog of a folder, which is listed once. Names say what images show, and headers what
series of files show.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gantk.catalog.catalog import Catalog, Row, unread_rows
from gantk.catalog.contrasts import known_contrast, usual_contrast
from gantk.catalog.layouts import Asked, read_names
from gantk.catalog.versions import without_whole_heads
from gantk.errors import UserError, raise_if_of_machine
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
        outline = io.outline(series)
    except UserError as error:  # a damaged file, which `read` will report
        raise_if_of_machine(error)
        return row

    facts = outline.facts
    if outline.no_scan:
        row.fill("kind", "no scan", f"the header says that it is {outline.no_scan}")
    folder = Path(series.name).name
    said = facts.get("contrast") or usual_contrast(folder) or folder
    contrast = known_contrast(said, asked.contrasts) or (usual_contrast(said) or "").upper()
    row.fill("contrast", contrast, "the header" if facts.get("contrast") else "the folder")
    row.fill("subject", facts.get("patient", ""), "the header")
    row.fill("session", facts.get("study", ""), "the header")
    return row
