"""Reads a table of images: a row for each image (columns path and domain), or for each patient with
a column of paths for each contrast. Used for training, `gantk data check` and `gantk translate`.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from gantk.catalog.catalog import COLUMNS, VOLUME, Catalog, Row, composed
from gantk.catalog.contrasts import USUAL_WORDS, ContrastWords, one_word
from gantk.catalog.domains import rename_or_map
from gantk.catalog.question import rows_in_words
from gantk.catalog.tables import LEFT_OUT, SPLIT_WORDS, first_columns, read_rows
from gantk.errors import UserError, count_noun, did_you_mean, join_first
from gantk.formats import files as io
from gantk.formats.image import Scan

MAX_QUOTED_CELLS = 5  # wrong cells of one mistake that a message quotes
NO_SPLIT = "is not a valid split (train, validation, test)"
FURTHER = [name for name in COLUMNS if name not in ("path", "domain", "patient")]


class ImageTable:
    """A table of the images of some contrasts, in a file or as text.

    Args:
        words: the words by which columns and cells say the contrasts.
        text: the CSV itself; its paths are then relative to `path`.
        every: whether the columns of paths must be of all contrasts, and not of some.
        resampled: whether images and masks are resampled onto one grid.
        where: what names the table, for messages.

    Attributes:
        lines: line number and cells of each row that is not left out.
        column_of: the column of each contrast's paths; {} where one column holds all paths.
        unread: the columns that gantk does not know.
        in_words: the columns that are read, and the others.
        other_words: how many rows are of other contrasts, by their word.
    """

    def __init__(
        self,
        path: Path,
        contrasts: Sequence[str],
        words: ContrastWords,
        text: str = "",
        *,
        every: bool = True,
        resampled: bool = False,
        where: str = "data.source.path",
    ):
        self.folder = path if text else path.parent
        self.called = "the table" if text else f"'{path}'"
        self.contrasts = contrasts
        self.words = words
        self.resampled = resampled
        self.where = where
        self.columns, rows = read_rows(path, text)
        self.lines = [
            (line, cells)
            for line, cells in rows
            if SPLIT_WORDS.get(cells.get("split", "").lower()) != LEFT_OUT
        ]
        self.column_of = self._columns_of_paths(every)
        known = {*COLUMNS, *self.column_of.values()}
        self.unread = [name for name in self.columns if name not in known]
        self.in_words = f"columns {', '.join(name for name in self.columns if name in known)}"
        if self.unread:
            self.in_words += f" (not read: {first_columns(self.unread)})"
        self.other_words = Counter[str]()
        self.wrong: list[tuple[str, str, int]] = []  # mistake, cell and line

    def read(self) -> Catalog:
        """A row for each image; one UserError lists all wrong cells with their lines. The `slice` of
        a row is its position.
        """
        rows: dict[tuple, Row] = {}
        for line, cells in self.lines:
            for row in self._rows_of(line, cells):
                identity = row.contrast, row.files, row.scan.volume
                if identity in rows:
                    self._note("is listed twice", self.key_of(row), line)
                rows[identity] = row

        if any(row.split for row in rows.values()):  # then every row needs one
            for row in rows.values():
                if not row.split:
                    self._note(NO_SPLIT, "", row.line)
        if not rows and self.other_words:
            raise self._other_domains()
        if self.wrong:
            raise self._wrong_cells()
        return Catalog(rows.values())

    def _columns_of_paths(self, every: bool) -> dict[str, str]:
        """`column_of`; UserError where the header does not say which images the table lists."""
        if "path" in self.columns and ("domain" in self.columns or len(self.contrasts) == 1):
            return {}
        columns: dict[str, str] = {}
        for column in self.columns:
            contrast = self.words.contrast_of.get(one_word(column), "")
            if column in COLUMNS or contrast not in self.contrasts:
                continue
            other = columns.setdefault(contrast, column)
            if other != column:
                raise UserError(
                    f"{self.called} has two columns of {contrast}: '{other}' and '{column}'",
                    where=self.where,
                    allowed="one column for each contrast",
                )
        if not columns or (every and len(columns) < len(self.contrasts)):
            raise self.wrong_header()
        return columns

    def wrong_header(self) -> UserError:
        """The error for a header that does not say which images the table lists, or what they show."""
        lacking = "has no column path"
        if "path" in self.columns:
            lacking = "does not say the domain of each image"
        wanted = ["path,domain,patient"]
        remedy = "rename the columns; others than these are not read"
        if len(self.contrasts) > 1:
            wanted.append(",".join([*self.contrasts, "patient"]))
            said = [USUAL_WORDS.contrast_of.get(one_word(name), "") for name in self.columns]
            remedy = rename_or_map({*said} - {""}, self.contrasts) or remedy
        elif self.contrasts and self.contrasts[0]:
            domain = json.dumps([*self.contrasts])
            remedy += f". If all images are of one domain: --set 'data.domains={domain}'"
        return UserError(
            f"{self.called} {lacking}. Its header is {first_columns(self.columns)}",
            where=self.where,
            allowed=f"{' or '.join(wanted)} as the header, and {', '.join(FURTHER)} where known",
            remedy=remedy,
        )

    def _other_domains(self) -> UserError:
        """The error where the column domain names none of the contrasts."""
        shown = ", ".join(
            f"'{word}' ({count_noun(count, 'row')})"
            for word, count in self.other_words.most_common(MAX_QUOTED_CELLS)
        )
        names = [word for word in self.other_words if len(word) < 40]
        return UserError(
            f"the column domain of {self.called} contains {shown}, but the recipe's domains are"
            f" {' and '.join(self.contrasts)}",
            where="data.domains",
            remedy=rename_or_map(names, self.contrasts),
        )

    def _wrong_cells(self) -> UserError:
        """The error that lists the wrong cells, the first of each mistake."""
        cells_of: dict[str, list[str]] = defaultdict(list)
        for mistake, cell, line in self.wrong:
            cells_of[mistake].append(f"'{cell}' in line {line}")
        mistakes = []
        for mistake, cells in cells_of.items():
            quoted = join_first(cells, most=MAX_QUOTED_CELLS)
            mistakes.append(f"{quoted}{': each' if len(cells) > 1 else ''} {mistake}")
        rows = len({line for *_, line in self.wrong})
        return UserError(
            f"{rows} of {len(self.lines)} rows of {self.called} are wrong: {'; '.join(mistakes)}",
            where=self.where,
            remedy="correct these rows, or remove them",
        )

    def _note(self, mistake: str, cell: str, line: int) -> None:
        """Keep a wrong cell for the one error at the end."""
        self.wrong.append((mistake, cell[:80], line))

    def _rows_of(self, line: int, cells: Mapping[str, str]) -> Iterator[Row]:
        """Yield the rows of a line: one for its path, none if its domain is another one; or one for
        each contrast's path.
        """
        column_of = self.column_of
        if not column_of:
            contrast = self._contrast_of(line, cells)
            column_of = {contrast: "path"} if contrast else {}
        texts = {contrast: cells.get(column, "") for contrast, column in column_of.items()}
        split = SPLIT_WORDS.get(cells.get("split", "").lower(), cells.get("split", ""))
        if texts and not any(texts.values()):
            self._note("is empty", " and ".join(column_of.values()), line)
        if texts and split not in ("", *SPLIT_WORDS.values()):
            self._note(NO_SPLIT, split, line)
        try:
            rows = [Row(self._scan(text, cells), name) for name, text in texts.items() if text]
            masks = self._masks(rows, cells["mask"]) if rows and cells.get("mask") else []
        except UserError as error:
            self._note(error.what, str(error.where), line)
            return
        for number, row in enumerate(rows):
            row.line = line
            row.subject = composed(cells.get("patient", ""))
            row.session = cells.get("visit", "")
            row.split = split
            row.label = cells.get("label", "")
            row.slice = cells.get("position", "")
            row.pair = cells.get("pair") or (self.key_of(rows[0]) if len(texts) > 1 else "")
            row.mask = masks[number] if masks else None
            yield row

    def _contrast_of(self, line: int, cells: Mapping[str, str]) -> str:
        """The contrast of a line; "" for another one, or an unknown word, which is noted."""
        word = cells.get("domain", "")
        names = ", ".join(self.contrasts)
        said = self.words.meant(word) if word else frozenset(self.contrasts)
        if len(said) == 1 and said <= {*self.contrasts}:
            return next(iter(said))
        if not word:
            self._note(f"has no domain ({names})", cells.get("path", ""), line)
            return ""
        self.other_words[word] += 1
        close = did_you_mean(word[:80], [name.lower() for name in self.contrasts])
        if not USUAL_WORDS.said(word) and (close or len(self.contrasts) > 1):
            self._note(f"is not a valid domain ({names}). {close}".removesuffix(". "), word, line)
        return ""

    def _masks(self, rows: Sequence[Row], text: str) -> list[Path | None]:
        """The mask of each image of a line: of those on the mask's grid, or of all where images are
        resampled.
        """
        mask = self._scan(text)
        if mask.is_series:
            raise UserError("is a folder, not a mask file", where=text)
        differ = [not self.resampled and io.difference(mask, row.scan) for row in rows]
        if all(differ):
            what = f"is a mask on another voxel grid than its image, {differ[0]}"
            raise UserError(what, where=text)
        return [None if differs else mask.path for differs in differ]

    def _scan(self, text: str, cells: Mapping[str, str] = {}) -> Scan:
        """The file, a volume of it, or the DICOM series that a cell names."""
        path = os.path.join(self.folder, text)
        mode = _mode(path)
        if "\\" in text and not mode:  # a table written on Windows
            path = os.path.join(self.folder, text.replace("\\", "/"))
            mode = _mode(path)
        if not mode:
            raise UserError("does not exist", where=text)

        scan = Scan(Path(path))
        if stat.S_ISDIR(mode):
            series = io.scans(scan.path, recursive=False)
            if len(series) != 1:
                images = count_noun(series, "image")
                raise UserError(f"is a folder of {images}, not of one DICOM series", where=text)
            scan = series[0]
        elif not io.is_image(scan.path) and not io.series_format(scan.path):
            raise UserError("is not a readable image", where=text)
        number = cells.get(VOLUME, "")
        if not re.fullmatch("[0-9]{0,4}", number):
            raise UserError("is not the number of a volume, from 0 on", where=number)
        return replace(scan, volume=int(number)) if number else scan

    def key_of(self, row: Row) -> str:
        """The path of a row's file or series, relative to the table where it lies below."""
        start = f"{self.folder}{os.sep}" if self.folder.parts else ""
        path = str(row.scan.path)  # as text, which is faster
        return path.removeprefix(start).replace(os.sep, "/")


def _mode(path: str) -> int:
    """The mode of a path from `os.stat`; 0 where there is no file."""
    try:
        return os.stat(path).st_mode
    except (OSError, ValueError):
        return 0


def read_table(path: Path, contrasts: Sequence[str]) -> Catalog:
    """The images of these contrasts in a table, of several those of patients; each line is a visit
    where the table has a column for each contrast.
    """
    words = ContrastWords(contrasts)
    table = ImageTable(path, contrasts, words, every=False, resampled=True, where="INPUT")
    catalog = table.read()
    for row in catalog:
        if table.column_of:
            row.session = row.session or f"line {row.line}"
            row.subject = row.subject or row.session
    if len(contrasts) > 1 and not all(row.subject for row in catalog):
        raise UserError(
            f"'{path}' does not say the patient of each image",
            where="INPUT",
            allowed="path, domain and patient, or a column for each of " + ", ".join(contrasts),
        )
    catalog.in_words = rows_in_words(table.in_words, catalog)
    if not catalog.rows:
        raise UserError(
            f"'{path}' lists no image of {', '.join(contrasts)}",
            where="INPUT",
            allowed=contrasts,
        )
    return catalog


def domains_in_table(path: Path) -> Counter[str]:
    """How many rows of a table are of each domain; of a table without that column, its columns of
    contrasts. None are known of classes of one kind of image.

    UserError where neither the header nor a row says a domain.
    """
    columns, rows = read_rows(path)
    words = ContrastWords()
    if "path" not in columns:
        said = [words.contrast_of.get(one_word(column), "") for column in columns]
        contrasts = [*dict.fromkeys(filter(None, said))]
        return Counter([*ImageTable(path, contrasts, words).column_of])

    found: Counter[str] = Counter()
    for _, cells in rows:
        word = cells.get("domain", "")
        said_by_word = words.meant(word)
        found[next(iter(said_by_word)) if len(said_by_word) == 1 else word] += 1
    del found[""]
    if not found and not any(cells.get("label") for _, cells in rows):
        raise ImageTable(path, ("",), words).wrong_header()
    return found
