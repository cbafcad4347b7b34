"""The data source over a table of images: a CSV (or TSV) with a row for each image, or for each
pair.

`gantk.data.array_tables.source_of` turns a table given in Python into a recipe's `data.source` of
this kind.
"""

from __future__ import annotations

import os
import stat
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gantk.catalog.catalog import Row
from gantk.catalog.contrasts import (
    CONTRASTS,
    contrast_in,
    exclude,
    one_word,
    same_contrast,
    usual_contrast,
)
from gantk.catalog.domains import (
    bare_stem,
    contrast_said,
    patient_of,
    relative_to,
    rename_or_map,
    split_of,
)
from gantk.catalog.patients import patients_in_names, unsure
from gantk.catalog.tables import (
    LEFT_OUT,
    OF_FILES,
    first_columns,
    no_domain,
    open_rows,
    usual_columns,
)
from gantk.data.preparation import Record
from gantk.data.sources.pairing import pair_by_name
from gantk.data.sources.reader import Item, Source, is_volume
from gantk.data.sources.source import Channels, Onto, VolumeSource
from gantk.errors import UserError, count_noun, did_you_mean
from gantk.formats import files as io
from gantk.formats.image import Scan

# Wrong cells of one mistake that a message quotes, and that are kept to be counted.
MAX_QUOTED_CELLS = 5
MAX_KEPT_CELLS = 10_000


@dataclass(kw_only=True)
class Manifest(VolumeSource):
    """A CSV of images: one row for each image (columns path, domain), or one column of paths for
    each domain.

    Paths are files, or folders of one DICOM series, relative to the CSV. Optional columns: patient
    (or subject_id), split (train, validation, test; none leaves a row out), position (of a slice),
    label (a class), mask (a file), pair. Rows of other contrasts are skipped. Usual names of path,
    domain and patient are understood, such as filename, modality and subject.

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
    # regex whose group is the patient (in path or file name), for tables without a column patient;
    # "names" = file names
    patient: str = ""
    channels: Channels = None  # convert all images to gray (1) or colour (3); none = unchanged

    one_contrast = True

    def __post_init__(self):
        super().__post_init__()
        self.folder = self.root if self.table else self.root.parent
        self.called = "the table" if self.table else f"'{self.root}'"
        # mistake -> its first cells and their line numbers
        self.wrong: dict[str, dict[str, int]] = defaultdict(dict)
        self.counts = Counter[str]()  # mistake -> how often it occurs
        self.letters: dict[str, str | None] = {}  # word in the column domain -> domain's letter
        self.left_out: dict[str, int] = {}  # other words in it -> how many rows have them

    @classmethod
    def accepts(cls, path: Path) -> dict | None:
        """`{"path": ...}` of a .csv or .tsv file."""
        if path.is_file() and path.suffix.lower() in (".csv", ".tsv"):
            return {"path": str(path)}
        return None

    def find_items(self) -> list[Item]:
        """An item for each image; one UserError lists all wrong cells with their lines."""
        self.doubts = []
        # Rows are read twice and not kept, so that a million wrong rows take no memory.
        names = self.columns()
        self.splits = False
        words = Counter[str]()
        count = 0
        wrong = 0
        for _, row in self._rows():
            self.splits |= bool(row.get("split"))  # if one row has a split, every row needs one
            words[row.get("domain", "")] += 1

        columns = self._columns(names)
        if columns is None:
            self._expect_domains(words)
            self.left_out = {
                word: n for word, n in words.items() if word and not self._letter(word)
            }
        self.notes = self._notes(columns)

        items: dict[tuple[str, str], Item] = {}
        without_patient: list[int] = []  # lines
        for line, row in self._rows():
            mistakes = self.counts.total()
            count = count + 1
            for item in self._items(line, row, columns):
                if (item.letter, item.key) in items:
                    self._note(UserError("is listed twice", where=item.key), line)
                items[item.letter, item.key] = item
                if not row.get("patient") and line not in without_patient[-1:]:
                    without_patient.append(line)
            wrong += self.counts.total() > mistakes

        if wrong:
            what = (
                f"{wrong} of {count} rows of {self.called} are wrong: {'; '.join(self._mistakes())}"
            )
            raise UserError(
                what, where="data.source.path", remedy="correct these rows, or remove them"
            )

        kept = list(items.values())
        if columns is None and not any(words):
            self._expect_one_kind(kept)
        if not any(item.subject for item in kept):
            self._set_patients(kept)
        if "patient" in self._own_names and 0 < len(without_patient) < count:
            self._ask_for_patients(without_patient, count)
        if "pair" not in names and columns is None:
            for item in kept:
                word = self.names[item.letter], self.words[item.letter]
                item.stem = item.stem or bare_stem(io.stem_of(item.key), word)
            self.notes += _pair_slices(kept)

        return kept

    def expect_said_domain(self) -> None:
        """UserError where a recipe has one domain, the table one column of paths, and no row says a
        domain or a class.
        """
        columns = self.columns()
        own = self._own_names
        if len(self.domains) > 1 or self.a or self._columns(columns) is not None:
            return
        if not any(row.get("domain") or row.get("label") for _, row in self._rows()):
            raise no_domain(columns, own["path"], domain=self.domains[0])

    def columns(self) -> list[str]:
        """Names of the table's columns, the keys of `about`."""
        return open_rows(self.root, self.table)[0]

    @cached_property
    def _own_names(self) -> dict[str, str]:
        """The table's own names of the columns path, domain and patient, as far as it has them."""
        own = {column: names[0] for column, names in usual_columns(self.columns()).items()}
        if own.get("patient") == "id" and "path" in own and self._all_differ("id"):
            del own["patient"]
        return own

    def _all_differ(self, column: str) -> bool:
        """Whether no two rows have the same value in a column: it then names images."""
        seen = set()
        for _, row in open_rows(self.root, self.table)[1]:
            value = row.get(column, "")
            if value in seen:
                return False
            seen.add(value)
        return True

    def _notes(self, columns: dict[str, str] | None) -> list[str]:
        """How columns with other names were understood, in sentences."""
        notes = []
        own = self._own_names if columns is None else {}
        renamed = {column: name for column, name in own.items() if name != column}
        if renamed.keys() & {"path", "domain"} or "id" in renamed.values():
            notes.append(
                f"the columns {', '.join(renamed.values())} of {self.called} are read as"
                f" {', '.join(renamed)}"
            )
        if "patient" not in self._own_names and "id" in self.columns():
            notes.append(
                f"the column id of {self.called} differs in each row, so it is not read as the"
                " patient. If it is the patient, rename it to patient"
            )
        return notes

    def about(self, records: Sequence[Record]) -> list[dict[str, str]]:
        """The row of each record's image, column -> cell; {} for an image without a row."""
        row_of: dict[tuple[str, str], dict[str, str]] = {
            (record.domain, record.scan_key or record.key): {} for record in records
        }
        self.splits = False
        columns = self._columns(self.columns())
        for line, row in self._rows():
            for item in self._items(line, row, columns):
                if (item.letter, item.key) in row_of:
                    row_of[item.letter, item.key] = row

        return [row_of[record.domain, record.scan_key or record.key] for record in records]

    def _rows(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Line number and cells of each row that is not left out, by the usual names of columns."""
        _, rows = open_rows(self.root, self.table)
        renamed = [(column, own) for column, own in self._own_names.items() if column != own]
        for line, row in rows:
            if row.get("split", "").lower() in LEFT_OUT:
                continue
            for column, own in renamed:
                row[column] = row.get(own, "")
            yield line, row

    def _note(self, error: UserError, line: int) -> None:
        """Count a wrong cell for the one error message at the end."""
        self.counts[error.what] += 1
        cells = self.wrong[error.what]
        if len(cells) < MAX_KEPT_CELLS:
            cells.setdefault(str(error.where)[:80], line)

    def _mistakes(self) -> Iterator[str]:
        """Yield each mistake with its first cells and their lines, and its count if cells repeat."""
        for kind, cells in self.wrong.items():
            first = [*cells.items()][:MAX_QUOTED_CELLS]
            quoted = ", ".join(f"'{cell}' in line {line}" for cell, line in first)
            if len(cells) > MAX_QUOTED_CELLS:
                least = "at least " if len(cells) == MAX_KEPT_CELLS else ""
                quoted += f" and {least}{len(cells) - MAX_QUOTED_CELLS} more"
            if self.counts[kind] > len(cells):
                quoted += f" ({self.counts[kind]} cells)"
            yield f"{quoted}{': each' if len(cells) > 1 else ''} {kind}"

    def _columns(self, names: list[str]) -> dict[str, str] | None:
        """The column of each domain's paths; None where one column `path` holds them all."""
        own = self._own_names
        columns = {}
        for letter, domain in self.words.items():
            columns[letter] = self._column_of(letter, domain, names)

        has_column_of_each = set(columns.values()) <= set(names)
        by_path = "path" in own and ("domain" in own or len(self.names) == 1)
        is_of_each = has_column_of_each and own.get("path") not in ("path", *columns.values())
        if by_path and not is_of_each:
            self._expect_one_domain_column()
            return None
        if has_column_of_each:
            return columns
        if "path" in own:
            raise no_domain(names, own["path"])

        each = " and ".join(f"'{name}'" for name in self.words.values())
        both = f"the columns path and domain, or a column of paths for each domain: {each}"
        allowed = both if len(self.domains) == 2 else f"the column path, or {each}"
        what = (
            f"{self.called} has no columns for the images. Its columns are {first_columns(names)}"
        )
        there = [x for x in names if x in CONTRASTS]
        remedy = rename_or_map([name.upper() for name in there], self.domains)
        raise UserError(what, where="data.source.path", allowed=allowed, remedy=remedy)

    def _expect_one_domain_column(self) -> None:
        """UserError where several columns may be the domain, and none has exactly this name."""
        domain = usual_columns(self.columns()).get("domain", ["domain"])
        if len(domain) > 1 and domain[0] != "domain":
            raise UserError(
                f"the columns {' and '.join(domain)} of {self.called} may both be the domain",
                where="data.source.path",
                remedy="rename the one that tells the kinds of image apart to domain",
            )

    def _column_of(self, letter: str, domain: str, names: list[str]) -> str:
        """The column of a domain's paths: its name, or a synonym of it, or its letter."""
        if domain.lower() in names:
            return domain.lower()
        for name in names:
            if same_contrast(one_word(OF_FILES.sub("", name)), one_word(domain)):
                return name
        return letter

    def _expect_domains(self, counts: Counter) -> None:
        """Raise UserError if the column domain names no domain of this recipe; `counts` is of its
        words.
        """
        counts.pop("", None)
        if counts and not any(map(self._letter, counts)):
            shown = ", ".join(
                f"'{word}' ({count_noun(count, 'row')})"
                for word, count in counts.most_common(MAX_QUOTED_CELLS)
            )
            what = (
                f"the column domain of {self.called} contains {shown}, but the recipe's domains are"
                f" {' and '.join(self.domains)}"
            )
            names = [word for word in counts if len(word) < 40]
            raise UserError(what, where="data.domains", remedy=rename_or_map(names, self.domains))

    def _expect_one_kind(self, items: Sequence[Item]) -> None:
        """UserError where the table says no domain, but the names of its files say another contrast
        than the recipe's domain, or several.
        """
        said = set(filter(None, (contrast_said(Path(item.key)) for item in items)))
        own = usual_contrast(self.domains[0])
        others = [word for word in said if exclude(word.lower(), own)]
        if own is None:
            others = [
                word for word in said if any(exclude(word.lower(), each.lower()) for each in said)
            ]
        if others:
            raise no_domain(self.columns(), self._own_names["path"], said)

    def _items(self, line: int, row: dict[str, str], columns: dict[str, str] | None) -> list[Item]:
        """The items of a row: one for its path, none if its domain is another one; or one for each
        domain's path.
        """
        if columns is None:
            letter = self._domain_of_row(line, row)
            columns = {letter: "path"} if letter else {}

        split = self._split_of_row(line, row) if self.splits else None
        items = []
        for letter, column in columns.items():
            if row.get(column):
                try:
                    items.append(self._item(letter, row, column, split))
                except UserError as error:
                    self._note(error, line)

        try:
            if columns and not any(row.get(column) for column in columns.values()):
                raise UserError("is empty", where=" and ".join(columns.values()))
            for item in items:
                item.subject = items[0].subject
                item.study = row.get("pair", "") or (items[0].key if len(columns) > 1 else "")
            if items and row.get("mask"):
                self._add_mask(items, row["mask"])
        except UserError as error:
            self._note(error, line)

        return items

    def _split_of_row(self, line: int, row: dict[str, str]) -> str | None:
        """The set that a row names; None for another word, which is noted."""
        word = row.get("split", "")
        split = split_of((word,))
        if not split:
            self._note(
                UserError("is not a valid split (train, validation, test)", where=word), line
            )
        return split

    def _domain_of_row(self, line: int, row: dict[str, str]) -> str | None:
        """The letter of a row's domain; None for another contrast, or an unknown word, which is
        noted.
        """
        word = row.get("domain", "")
        try:
            if word not in self.letters:
                self.letters[word] = self._letter_of(word, row.get("path", ""))
            return self.letters[word]
        except UserError as error:
            self._note(error, line)
            return None

    def _item(self, letter: str, row: dict[str, str], column: str, split: str | None) -> Item:
        """The item of the file that a cell names."""
        source, key = self._source(row[column])
        subject = row.get("patient", "")
        if not subject and is_volume(source):
            subject = self._patient_in(key)

        item = Item(letter, source, key, subject, split=split, label=row.get("label") or None)
        item.stem = row.get("position") or row.get("slice", "")
        with suppress(ValueError):  # it is a word, or empty
            item.position = float(item.stem)

        return item

    def _patient_in(self, key: str) -> str:
        """The patient of a volume, which is one patient's scan: its name may say whose."""
        words = set(map(one_word, self.words.values()))
        stem = io.stem_of(key)
        return contrast_in(stem, words)[1] or Path(key).parent.name or stem

    def _set_patients(self, items: Sequence[Item]) -> None:
        """Set the patients that the file names say, where the table says none; UserError where they
        may say some, unless the table gives the split.
        """
        if self.pattern:
            for item in items:
                item.subject = patient_of(item.key, self.pattern)
            return

        rows = []
        for item in items:
            stem = bare_stem(io.stem_of(item.key), tuple(self.words.values()))
            rows.append(Row((item.display_path,), item.letter, label=item.label or "", stem=stem))

        reading = patients_in_names(rows)
        if reading is None:
            return
        if not reading.sure and self.patient != "names":
            if not self.splits:
                self.doubts = [*self.doubts, unsure([row.stem for row in rows], reading)]
            return
        for item, patient in zip(items, reading.patients, strict=True):
            item.subject = patient

    def _ask_for_patients(self, lines: Sequence[int], count: int) -> None:
        """Ask for the patients of the rows in these lines, of `count`, unless the table gives the
        split or an option says where patients are.
        """
        if self.splits or self.patient or self.pattern:
            return
        what = (
            f"the column {self._own_names['patient']} of {self.called} is empty in {len(lines)} of"
            f" {count} rows, the first in line {lines[0]}. One person may then be in training and"
            " test, and scores too good"
        )
        remedy = "fill in the empty cells. If no patients are known, use --set data.split.by=image"
        error = UserError(what, where="data.source.path", remedy=remedy)
        self.doubts = [*self.doubts, error]

    def _add_mask(self, items: Sequence[Item], text: str) -> None:
        """Set the mask of a row's images: of those on the mask's grid, or of all where images are
        resampled.
        """
        mask, _ = self._source(text)
        if isinstance(mask, Scan):
            raise UserError("is a folder, not a mask file", where=text)

        differ = [self.onto == "none" and io.difference(mask, item.source) for item in items]
        if all(differ):
            raise UserError(
                f"is a mask on another voxel grid than its image, {differ[0]}", where=text
            )

        for item, differs in zip(items, differ, strict=True):
            item.mask = None if differs else mask

    def _letter(self, word: str) -> str | None:
        """The letter of the domain that a row names; None for another domain."""
        if len(self.domains) == 1 and not word:
            return "image"

        for letter, name in self.words.items():
            if word.lower() in (name.lower(), letter):
                return letter

        for letter, name in self.words.items():
            if same_contrast(one_word(word), one_word(name)):
                return letter

        return None

    def _letter_of(self, word: str, path: str) -> str | None:
        """The letter of the domain that a row names; None for another contrast. UserError for an
        unknown word.
        """
        letter = self._letter(word)
        if not word and letter is None:
            raise UserError(f"has no domain ({', '.join(self.words.values())})", where=path)

        if letter is None and one_word(word) not in CONTRASTS:
            close = did_you_mean(word[:80], [name.lower() for name in self.words.values()])
            if close or len(self.names) > 1:
                what = f"is not a valid domain ({', '.join(self.words.values())})"
                raise UserError(f"{what}. {close}" if close else what, where=word)

        return letter

    def _source(self, text: str) -> tuple[Source, str]:
        """The file or DICOM series that a cell names, and its key: the path relative to the table
        where possible.
        """
        path = os.path.join(self.folder, text)
        mode = _mode(path)
        if "\\" in text and not mode:  # a table written on Windows
            path = os.path.join(self.folder, text.replace("\\", "/"))
            mode = _mode(path)
        if not mode:
            raise UserError("does not exist", where=text)

        place = Path(path)
        key = self._key(place)
        if stat.S_ISDIR(mode):
            series = io.scans(place, recursive=False)
            if len(series) != 1:
                what = f"is a folder of {count_noun(series, 'image')}, not of one DICOM series"
                raise UserError(what, where=text)
            return series[0], key

        if not io.is_image(place) and not is_volume(place):
            raise UserError("is not a readable image", where=text)

        return place, key

    def _key(self, path: Path) -> str:
        """The path relative to the table's folder where it lies below; as text, which is faster."""
        start = f"{self.folder}{os.sep}" if self.folder.parts else ""
        text = str(path)
        if text.startswith(start):
            return text[len(start) :].replace(os.sep, "/")
        return relative_to(path, self.folder).as_posix()


def _mode(path: str) -> int:
    """The mode of a path from `os.stat`; 0 where there is no file."""
    try:
        return os.stat(path).st_mode
    except (OSError, ValueError):
        return 0


def _pair_slices(items: Sequence[Item]) -> list[str]:
    """Set the study of a table's images, which a pair shares: the patient where it has one image
    per domain, else the patient and the slice's stem; images of unknown patients are paired by name
    where nearly all names agree. Returns notes.
    """
    if not any(item.subject for item in items):
        return pair_by_name(items)

    counts = Counter((item.subject, item.letter) for item in items)
    for item in items:
        patient = item.subject
        if patient and counts[patient, "a"] <= 1 and counts[patient, "b"] <= 1:
            item.study = patient
        elif patient:
            item.study = f"{patient}/{item.stem}"

    return []
