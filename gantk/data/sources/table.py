"""The data source over a table of images: a CSV (or TSV) with a row for each image, or for each
patient.

`gantk.data.arrays` turns a table given in Python into a recipe's `data.source` of this kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gantk.catalog.catalog import Catalog, Row
from gantk.catalog.contrasts import ContrastWords
from gantk.catalog.image_table import ImageTable
from gantk.catalog.tables import first_columns
from gantk.data.sources.pairing import pair_rows
from gantk.data.sources.source import VolumeSource
from gantk.errors import UserError
from gantk.plugin.spec import Onto


@dataclass(kw_only=True)
class Manifest(VolumeSource):
    """A CSV of images: one row for each image (columns path, domain), or one column of paths for
    each domain, which its name says.

    Paths are files, or folders of one DICOM series, relative to the CSV. Optional columns: patient,
    visit, split (train, validation, test; none leaves a row out), position (of a slice), label (a
    class), mask (a file), pair, volume_number (of a file of several, from 0). Columns of other names
    are not read, and rows of other contrasts are left out. Of a domain such as "T1+FLAIR", contrasts
    that share a row, or patient and visit, become the channels of one image.

    Two images are a registered pair if they are on one voxel grid (or `onto` resamples them) and
    belong together: by an equal `pair`, by the same row, as the only two images of a patient and
    visit, or as the same slice of one patient by position or file name.
    """

    path: str = ""  # the CSV or TSV file
    # text of the CSV, for tables given in Python; its paths are then relative to `path`
    table: str = ""
    # word of the first domain in the column domain, or name of its own column; "" = its name
    a: str = ""
    b: str = ""  # the same for the second domain
    # resample the other image of each pair onto the grid of this domain, by the headers
    onto: Onto = "none"
    # regex whose group is the patient (in path or file name), for tables without a column patient
    patient: str = ""

    def __post_init__(self):
        super().__post_init__()
        self.folder = self.root if self.table else self.root.parent
        # by the words that the options a and b give
        self.contrast_of = {self.texts.get(name, name): name for name in self.wanted}

    @classmethod
    def accepts(cls, path: Path) -> dict | None:
        """`{"path": ...}` of a .csv or .tsv file."""
        if path.is_file() and path.suffix.lower() in (".csv", ".tsv"):
            return {"path": str(path)}
        return None

    @cached_property
    def images(self) -> ImageTable:
        """The table, whose header was read."""
        own = {word: self.own_words.get(name, ()) for word, name in self.contrast_of.items()}
        words = ContrastWords([*own], own)
        resampled = self.onto != "none"
        return ImageTable(self.root, [*own], words, self.table, resampled=resampled)

    @cached_property
    def catalog(self) -> Catalog:
        """A row for each image of the domains; those of others are left out."""
        catalog = self.images.read()
        images = catalog.of_kind("image")
        if not any(row.subject for row in images):
            self.set_patients(images)
        if len(self.wanted) > 1:
            # a second volume of a contrast is no other slice of an image of several
            are_volumes = self.several and any(row.is_volume for row in images)
            self.images.name_pairs(images, by_name=not are_volumes)
        for row in images:
            row.contrast = self.contrast_of[row.contrast]
        return catalog

    def find_rows(self) -> list[Row]:
        """A row for each image of the domains."""
        table = self.images
        images = self.catalog.of_kind("image")
        self.read_by = table.in_words
        self.doubts = (
            [] if any(row.split for row in images) else self._doubts_about_patients(images)
        )
        rows = self.rows_of_domains()
        if not self.several:
            if table.column_of or "pair" in table.columns:
                self.pairs_by = "table"
            elif not any(row.subject for row in rows):
                self.pairs_by = "names"
            self.notes = pair_rows(rows, self.onto, self.pairs_by == "names")
        return rows

    def _doubts_about_patients(self, rows: Sequence[Row]) -> list[UserError]:
        """The error where a row's cell patient is empty, or where a column that is not read may be it."""
        table = self.images
        lines = {row.line for row in rows}
        empty = sorted({row.line for row in rows if not row.subject})
        if 0 < len(empty) < len(lines):
            what = (
                f"the column patient of {table.called} is empty in {len(empty)} of {len(lines)} rows,"
                f" the first in line {empty[0]}"
            )
        elif empty and table.unread:
            what = (
                f"{table.called} has no column patient that is filled in. Its header is"
                f" {first_columns(table.columns)}; not read: {first_columns(table.unread)}"
            )
        else:
            return []
        return [
            UserError(
                f"{what}. One person may then be in training and test, and scores too good",
                where="data.source.path",
                allowed="a column patient, with a cell in each row",
                remedy="rename or complete it. If no patients are known, use --set"
                " data.split.by=block",
            )
        ]
