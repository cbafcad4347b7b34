"""The data source over a table of images: a CSV (or TSV) with a row for each image, or for each
patient.

`gantk.data.arrays` turns a table given in Python into a recipe's `data.source` of this kind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gantk.catalog.catalog import Catalog, Row
from gantk.catalog.contrasts import ContrastWords
from gantk.catalog.image_table import ImageTable
from gantk.catalog.layouts import without_contrast
from gantk.catalog.tables import first_columns
from gantk.data.sources.pairing import pair_rows
from gantk.data.sources.source import VolumeSource
from gantk.errors import UserError, count_noun
from gantk.formats import files as io
from gantk.plugin.spec import Onto


@dataclass(kw_only=True)
class Manifest(VolumeSource):
    """A CSV of images: one row for each image (columns path, domain), or one column of paths for
    each domain, which its name says.

    Paths are files, or folders of one DICOM series, relative to the CSV. Optional columns: patient,
    visit, split (train, validation, test; none leaves a row out), position (of a slice), label (a
    class), mask (a file), pair, volume_number (of a file of several, from 0). Columns of other names
    are not read, and rows of other contrasts are skipped.

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

    one_contrast = True

    def __post_init__(self):
        super().__post_init__()
        self.letter_of = {word: letter for letter, word in self.words.items()}
        self.folder = self.root if self.table else self.root.parent

    @classmethod
    def accepts(cls, path: Path) -> dict | None:
        """`{"path": ...}` of a .csv or .tsv file."""
        if path.is_file() and path.suffix.lower() in (".csv", ".tsv"):
            return {"path": str(path)}
        return None

    @cached_property
    def contrast_words(self) -> ContrastWords:
        """The words by which the table says the domains."""
        own = {
            word: self.own_words.get(self.names[letter], ()) for letter, word in self.words.items()
        }
        return ContrastWords([*self.letter_of], own)

    @cached_property
    def images(self) -> ImageTable:
        """The table, whose header was read."""
        return ImageTable(
            self.root,
            [*self.letter_of],
            self.contrast_words,
            self.table,
            resampled=self.onto != "none",
        )

    @cached_property
    def catalog(self) -> Catalog:
        """A row for each image of the domains."""
        catalog = self.images.read()
        if not any(row.subject for row in catalog):
            self.set_patients(catalog)
        return catalog

    def find_rows(self) -> list[Row]:
        """A row for each image; one UserError lists all wrong cells with their lines."""
        table = self.images
        rows = [self._row(row) for row in self.catalog]
        self.doubts = [] if any(row.split for row in rows) else self._doubts_about_patients(rows)
        if len(self.names) == 2 and not table.column_of:
            self._name_pairs(rows)
        by_name = "pair" not in table.columns and not any(row.subject for row in rows)
        self.notes = pair_rows(rows, self.onto, by_name and not table.column_of)
        self.read_by = table.in_words
        if table.other_words:
            words = ", ".join(f"{n} {word}" for word, n in table.other_words.most_common(4))
            self.read_by += f" ({count_noun(table.other_words.total(), 'row')} left out: {words})"
        return rows

    def _row(self, image: Row) -> Row:
        row = self.row_of(self.letter_of[image.contrast], image)
        row.key = self.images.key_of(row)
        with suppress(ValueError):  # it is a word, or empty
            row.position = float(row.slice)
        return row

    def _name_pairs(self, rows: Sequence[Row]) -> None:
        """Set what a pair shares: the cell `pair`, else patient and visit; where several images of a
        domain do, the slice too.
        """
        is_said = "pair" in self.images.columns
        for row in rows:
            if not row.slice:
                stem = io.stem_of(row.key)
                row.slice = without_contrast(stem, self.words[row.letter], self.contrast_words)
            if not is_said:
                row.pair = "/".join(filter(None, (row.split, row.subject, row.session)))
        counts = Counter((row.pair, row.letter) for row in rows)
        crowded = {pair for (pair, _), count in counts.items() if count > 1}
        for row in rows:
            if row.pair in crowded or not (row.pair or is_said):
                parts = row.split, row.subject, row.session, row.pair if is_said else "", row.slice
                row.pair = "/".join(filter(None, parts))

    def _doubts_about_patients(self, rows: Sequence[Row]) -> list[UserError]:
        """The error where only some rows say a patient, or where a column that is not read may."""
        table = self.images
        empty = sorted({row.line for row in rows if not row.subject})
        if "patient" in table.columns and 0 < len(empty) < len(table.lines):
            what = (
                f"the column patient of {table.called} is empty in {len(empty)} of"
                f" {len(table.lines)} rows, the first in line {empty[0]}"
            )
        elif empty and table.unread and "patient" not in table.columns:
            what = (
                f"{table.called} has no column patient. Its header is"
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
                " data.split.by=image",
            )
        ]
