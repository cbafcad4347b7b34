"""The data source over a table of images: a CSV (or TSV) with a row for each image, or for each
pair.

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
from gantk.catalog.tables import no_domain
from gantk.data.sources.pairing import pair_rows
from gantk.data.sources.source import VolumeSource
from gantk.errors import UserError, count_noun, join_first
from gantk.formats import files as io
from gantk.plugin.spec import Onto


@dataclass(kw_only=True)
class Manifest(VolumeSource):
    """A CSV of images: one row for each image (columns path, domain), or one column of paths for
    each domain.

    Paths are files, or folders of one DICOM series, relative to the CSV. Optional columns: patient
    (or subject_id), split (train, validation, test; none leaves a row out), position (of a slice),
    label (a class), mask (a file), pair, volume_number (of a file of several, from 0). Rows of other
    contrasts are skipped. Usual names of path, domain and patient are understood, such as filename,
    modality and subject.

    Two images are a registered pair if they are on one voxel grid (or `onto` resamples them) and
    belong together: by an equal `pair`, by the same row, as the only two images of a patient, or as
    the same slice of one patient by position or file name.
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
    def images(self) -> ImageTable:
        """The table, whose header was read."""
        return ImageTable(self.root, self.letter_of, self.table, resampled=self.onto != "none")

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
        catalog = self.catalog
        self.left_out = {
            word: count for word, count in table.words.items() if not table.contrast_of(word)
        }
        self.notes = self._notes()
        has_sets = any(row.split for row in catalog)
        self.doubts = [] if has_sets else catalog.doubts
        rows = [self._row(row) for row in catalog]
        if "patient" in table.own_names and not (has_sets or self.patient):
            self._ask_for_patients(catalog)

        by_name = False
        if "pair" not in table.columns and not table.column_of:
            by_name = not any(row.subject for row in rows)
            self._name_pairs(rows, by_name)
        elif len(self.names) == 2 and not table.column_of:
            self.notes += _part_pairs(rows)
        empty = [f"'{row.key}'" for row in rows if not row.pair]
        if "pair" in table.columns and 0 < len(empty) < len(rows):
            self.notes.append(
                f"{count_noun(empty, 'image')} without a pair, because the cell `pair` is empty:"
                f" {join_first(empty)}"
            )
        self.notes += pair_rows(rows, self.onto, by_name)
        return rows

    def _row(self, image: Row) -> Row:
        row = self.row_of(self.letter_of[image.contrast], image)
        row.key = self.images.key_of(row)
        with suppress(ValueError):  # it is a word, or empty
            row.position = float(row.slice)
        return row

    def nameless(self) -> None:
        """UserError where a recipe has one domain, the table one column of paths, and no row says a
        domain or a class.
        """
        table = self.images
        if len(self.domains) > 1 or self.a or table.column_of:
            return
        domain = table.own_names.get("domain", "domain")
        if not any(cells.get(domain) or cells.get("label") for _, cells in table.lines()):
            raise no_domain(table.columns, table.own_names["path"], domain=self.domains[0])

    def _notes(self) -> list[str]:
        """How columns with other names were understood, in sentences."""
        notes = []
        table = self.images
        own = {} if table.column_of else table.own_names
        renamed = {column: name for column, name in own.items() if name != column}
        if renamed.keys() & {"path", "domain"} or "id" in renamed.values():
            notes.append(
                f"the columns {', '.join(renamed.values())} of {table.called} are read as"
                f" {', '.join(renamed)}"
            )
        if "patient" not in table.own_names and "id" in table.columns:
            notes.append(
                f"the column id of {table.called} differs in each row, so it is not read as the"
                " patient. If it is the patient, rename it to patient"
            )
        return notes

    def _name_pairs(self, rows: Sequence[Row], by_name: bool) -> None:
        """Set what a pair shares: its path without the domain, or the patient where it has one image
        per domain, else the patient and the slice.
        """
        words = ContrastWords(self.domains, {name: [word] for word, name in self._named_words()})
        counts = Counter((row.subject, row.letter) for row in rows)
        for row in rows:
            name = without_contrast(io.stem_of(row.key), self.names[row.letter], words)
            row.slice = row.slice or name
            if by_name:
                row.pair = "/".join(filter(None, (row.split, row.slice)))
            elif row.subject and max(counts[row.subject, letter] for letter in "ab") <= 1:
                row.pair = row.subject
            elif row.subject:
                row.pair = f"{row.subject}/{row.slice}"

    def _named_words(self) -> list[tuple[str, str]]:
        """The word of each domain in the column domain, and the domain."""
        return [(self.words[letter], name) for letter, name in self.names.items()]

    def _ask_for_patients(self, catalog: Catalog) -> None:
        """Doubt the patients where only some rows say one."""
        table = self.images
        lines = sorted({row.line for row in catalog if not row.subject})
        if not 0 < len(lines) < table.count:
            return
        what = (
            f"the column {table.own_names['patient']} of {table.called} is empty in {len(lines)} of"
            f" {table.count} rows, the first in line {lines[0]}. One person may then be in training"
            " and test, and scores too good"
        )
        remedy = "fill in the empty cells. If no patients are known, use --set data.split.by=image"
        error = UserError(what, where="data.source.path", remedy=remedy)
        self.doubts = [*self.doubts, error]


def _part_pairs(rows: Sequence[Row]) -> list[str]:
    """Add patient and position to a pair that has several images of a domain; returns a note
    on those that then still have several.
    """

    def crowded() -> set[str]:
        counts = Counter((row.pair, row.letter) for row in rows)
        return {pair for (pair, _), count in counts.items() if pair and count > 1}

    shared = crowded()
    for row in rows:
        if row.pair in shared:
            row.pair = "/".join(filter(None, (row.subject, row.pair, row.slice)))
    left = sorted(crowded())
    if not left:
        return []
    return [
        f"{count_noun(left, 'pair')} not used, because several images of a domain have the same cell"
        f" `pair`: {join_first(left)}"
    ]
