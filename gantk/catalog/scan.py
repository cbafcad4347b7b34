"""Makes the catalog of a folder, which is listed once. Names say what images show, and headers what
series of files show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from gantk.catalog.catalog import Catalog, Row, unread_rows
from gantk.catalog.contrasts import shown_by_series
from gantk.catalog.domains import splits_of
from gantk.catalog.layouts import Asked, read_names, read_patients
from gantk.catalog.versions import without_whole_heads
from gantk.errors import UserError, raise_if_of_machine
from gantk.formats import files as io
from gantk.formats.image import Scan, SeriesHeader


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
        catalog.rows.append(Row(Scan(image), kind="version", why=why))

    series = [each for each in scans if not io.is_image(each.path)]
    if len(scans) == 1:  # the only image is asked for, whatever its header says
        rows = [Row(each) for each in series]
    else:
        rows = rows_of_series(folder, series, asked)
        nameless = [row for row in rows if row.header and not row.subject]
        catalog.doubts += read_patients(nameless, folder, asked.patient)
    catalog.rows += rows
    catalog.rows.sort(key=lambda row: io.natural(row.scan_below(folder).name))
    catalog.rows += unread_rows(paths)
    return catalog


def rows_of_series(root: Path, scans: Iterable[Scan], asked: Asked) -> list[Row]:
    """A row for each series below `root`, filled from its header and the folders that it lies in; of
    an unreadable one nothing is known.
    """
    rows = [Row(each) for each in scans]
    for row in rows:
        form = io.series_format(row.path)
        try:
            row.header = form.describe(row.path) if form else None
        except UserError as error:  # a damaged file, which `read` will report
            raise_if_of_machine(error)
        if row.header:
            _fill(row, row.header, root, asked)

    known = [row for row in rows if row.header]
    splits = splits_of([row.folders_below(root) for row in known])
    for row, split in zip(known, splits, strict=True):
        row.fill("split", split or "", "a folder's name")
    return rows


def _fill(row: Row, header: SeriesHeader, root: Path, asked: Asked) -> None:
    if header.no_scan:
        row.fill("kind", "no scan", f"the header says that it is {header.no_scan}")
    folders = row.folders_below(root)
    texts = (*header.words, *folders[::-1])
    contrast = shown_by_series(header.modality, texts, asked.contrasts, agent=header.agent)
    row.fill("contrast", contrast, "the header or the folders")
    row.fill("subject", header.patient, "the header")
    row.fill("session", header.study, "the header")
    row.fill("pair", header.pair, "study and frame of reference")
