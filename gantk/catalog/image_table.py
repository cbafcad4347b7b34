"""Reads a table of images: a row for each image (columns path and domain), or for each patient with
a column of paths for each contrast. Used for training, `gantk data check` and `gantk translate`.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from gantk.catalog.catalog import COLUMNS, VOLUME, Catalog, Row, compose_text
from gantk.catalog.contrasts import USUAL_WORDS, ContrastWords, one_word, only
from gantk.catalog.domains import relative_to
from gantk.catalog.layouts import without_contrast
from gantk.catalog.question import rows_in_words
from gantk.catalog.tables import LEFT_OUT, first_columns, read_rows, split_in
from gantk.errors import UserError, count_noun, join_first
from gantk.formats import files as io
from gantk.formats.image import Scan


class ImageTable:
    """A table of the images of some contrasts, in a file or as text.

    Args:
        words: the words by which columns and cells say the contrasts.
        text: the CSV itself; its paths are then relative to `path`.
        every: whether the columns of paths must be of all contrasts, and not of some.
        resampled: whether images and masks are resampled onto one grid.
        where: what names the table, for messages.

    Attributes:
        column_of: the column of each contrast's paths; {} where one column holds all paths.
        unread: the columns that gantk does not know.
        in_words: the columns that are read, and the others.
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
        self.columns, self._lines = read_rows(path, text)
        self.every = every
        self.column_of = self._columns_of_paths()
        known = {*COLUMNS, *self.column_of.values()}
        self.unread = [name for name in self.columns if name not in known]
        self.in_words = f"columns {', '.join(name for name in self.columns if name in known)}"
        if self.unread:
            self.in_words += f" (not read: {first_columns(self.unread)})"

    def read(self) -> Catalog:
        """A row for each image, with its key; those that the column split leaves out, or that are of
        other contrasts, are of the kind "left out". UserError for the first wrong line. The `slice`
        of a row is its position.
        """
        rows: dict[tuple, Row] = {}
        left_out = []
        for line, cells in self._lines:
            try:
                for row in self._rows_of(cells):
                    row.line = line
                    row.key = self._key_of(row)
                    if row.kind == "left out":
                        left_out.append(row)
                        continue
                    place = row.contrast, row.files, row.scan.volume
                    if rows.setdefault(place, row) is not row:
                        raise UserError(
                            f"'{row.key}' is listed twice", remedy="remove one of the rows"
                        )
            except UserError as error:
                raise error.at(self._place(line)) from error

        self._expect_no_empty_cells([*rows.values()], left_out)
        if not rows:
            others = Counter(row.why for row in left_out).most_common(5)
            said = ", ".join(f"'{word}' ({n})" for word, n in others)
            raise UserError(
                f"{self.called} lists no image of {' or '.join(self.contrasts)}. Its column domain"
                f" contains {said or 'nothing'}",
                where=self.where,
                remedy="set data.domains to two of these words, or give words for the domains:"
                " --set data.source.a=WORD --set data.source.b=WORD",
            )
        return Catalog([*rows.values(), *left_out])

    def _expect_no_empty_cells(self, rows: Sequence[Row], left_out: Sequence[Row]) -> None:
        """UserError that names all lines without a domain, or without a split or patient that others
        have; missing patients alone are a doubt.
        """
        every = {row.line for row in rows}
        names_training = any(row.split == "train" for row in rows)
        lines = {
            "domain": {row.line for row in left_out if not row.why},
            "split": {row.line for row in rows if not row.split} if names_training else set(),
            "patient": {row.line for row in rows if not row.subject},
        }
        empty = {column: sorted(own) for column, own in lines.items() if own and own != every}
        if empty.keys() - {"patient"}:
            cells = (
                f"{column} in {count_noun(own, 'line')} ({join_first([*map(str, own)])})"
                for column, own in empty.items()
            )
            raise UserError(
                f"{self.called} has empty cells: {'; '.join(cells)}",
                where=self._place(next(iter(empty.values()))[0]),
                allowed=f"domain: {' or '.join(self.contrasts)}; split: train, validation or test in"
                " each row, or test alone to divide the others",
                remedy="fill them in, or write none into the column split of an image that is not used",
            )

    def name_pairs(self, rows: Sequence[Row], by_name: bool) -> None:
        """Set what images of one anatomy share (`pair`), if these are no columns of one line: the
        cell `pair`, else patient and visit; where several images of a contrast do, the slice too:
        the position or, `by_name`, the name without the contrast.
        """
        if self.column_of:
            return
        is_said = "pair" in self.columns
        for row in rows:
            if by_name and not row.slice:
                row.slice = without_contrast(io.stem_of(row.key), row.contrast, self.words)
            if not is_said:
                row.pair = "/".join(filter(None, (row.split, row.subject, row.session)))
        counts = Counter((row.pair, row.contrast) for row in rows)
        crowded = {pair for (pair, _), count in counts.items() if count > 1}
        for row in rows:
            if row.pair in crowded or not (row.pair or is_said):
                parts = row.split, row.subject, row.session, row.pair if is_said else "", row.slice
                row.pair = "/".join(filter(None, parts))
        if is_said:
            self._expect_one_image_a_pair(rows)

    def _expect_one_image_a_pair(self, rows: Sequence[Row]) -> None:
        lines: dict[tuple[str, str], int] = {}
        for row in rows:
            line = lines.setdefault((row.pair, row.contrast), row.line)
            if row.pair and line != row.line:
                raise UserError(
                    f"lines {line} and {row.line} of {self.called} are two images of {row.contrast}"
                    " with one cell pair",
                    where=self.where,
                    remedy="give each pair a name of its own. If two hospitals have patients of one"
                    " name, add the hospital to the cells patient and pair",
                )

    def _place(self, line: int) -> str:
        return f"{self.where}: {self.called}, line {line}"

    def _columns_of_paths(self) -> dict[str, str]:
        """`column_of`; UserError where the header does not say which images the table lists."""
        if "path" in self.columns and ("domain" in self.columns or len(self.contrasts) == 1):
            return {}
        columns: dict[str, str] = {}
        for column in self.columns:
            contrast = self.words.contrast_of.get(one_word(column), "")
            if column in COLUMNS or contrast not in self.contrasts:
                continue
            if columns.setdefault(contrast, column) != column:
                what = f"has two columns of {contrast}: '{columns[contrast]}' and '{column}'"
                raise UserError(f"{self.called} {what}", where=self.where)
        if not columns or (self.every and len(columns) < len(self.contrasts)):
            raise wrong_header(self.called, self.columns, self.contrasts, self.where)
        return columns

    def _rows_of(self, cells: Mapping[str, str]) -> Iterator[Row]:
        """Yield the rows of a line: one for its path, or one for each contrast's."""
        split = split_in(cells.get("split", ""), "")
        word = cells.get("domain", "")
        said = only(self.words.meant(word) if word else self.contrasts)
        is_read = said in self.contrasts and split != LEFT_OUT
        column_of = self.column_of or {said if is_read else "": "path"}
        text_of = {name: cells[column] for name, column in column_of.items() if cells.get(column)}
        if split == LEFT_OUT or "" in text_of:
            why = "by the column split" if split == LEFT_OUT else word
            for name, text in text_of.items():
                yield Row(Scan(self.folder / text), name, kind="left out", why=why)
            return
        if not text_of:
            raise UserError(
                f"no path in the column {' or '.join(column_of.values())}",
                remedy="write one into it, or remove the row",
            )
        rows = [Row(self._scan(text, cells.get(VOLUME, "")), x) for x, text in text_of.items()]
        pair = cells.get("pair") or (self._key_of(rows[0]) if len(column_of) > 1 else "")
        if cells.get("mask"):
            self._set_masks(rows, cells["mask"])
        for row in rows:
            row.subject = compose_text(cells.get("patient", ""))
            row.session = cells.get("visit", "")
            row.split = split
            row.label = cells.get("label", "")
            row.slice = cells.get("position", "")
            with suppress(ValueError):  # it is a word, or empty
                row.position = float(row.slice)
            row.pair = pair
            yield row

    def _set_masks(self, rows: Sequence[Row], text: str) -> None:
        """Set the mask of the images of a line: of those on the mask's grid, or of all where images
        are resampled.
        """
        mask = self._scan(text)
        if mask.is_series:
            raise UserError(f"'{text}' is a folder, not a mask file")
        differs = ""
        for row in rows:
            differs = "" if self.resampled else io.difference(mask, row.scan) or ""
            row.mask = None if differs else mask.path
        if not any(row.mask for row in rows):
            raise UserError(f"'{text}' is a mask on another voxel grid than its image, {differs}")

    def _scan(self, text: str, volume: str = "") -> Scan:
        """The file, a volume of it, or the DICOM series that a cell names."""
        path = self.folder / text
        if "\\" in text and not os.path.exists(path):  # a table written on Windows
            path = self.folder / text.replace("\\", "/")
        if not os.path.exists(path):
            raise UserError(f"'{text}' does not exist")
        is_folder = os.path.isdir(path)
        if not (is_folder or io.is_image(path) or io.series_format(path)):
            raise UserError(f"'{text}' is not a readable image")
        scan = io.scan_of(path) if is_folder else Scan(path)
        if not re.fullmatch("[0-9]{0,4}", volume):
            raise UserError(f"'{volume}' is not the number of a volume, from 0 on")
        return replace(scan, volume=int(volume)) if volume else scan

    def _key_of(self, row: Row) -> str:
        """The path of a row's file or series, relative to the table where it lies below."""
        return relative_to(row.scan.path, self.folder).as_posix()


def wrong_header(
    called: str, columns: Sequence[str], contrasts: Sequence[str], where: str
) -> UserError:
    """The error for a header that does not say which images a table lists, or what they show."""
    lacking = "has no column path"
    if "path" in columns:
        lacking = "does not say the domain of each image"
    wanted = ["path,domain,patient"]
    if len(contrasts) > 1:
        wanted.append(",".join([*contrasts, "patient"]))
    return UserError(
        f"{called} {lacking}. Its header is {first_columns(columns)}",
        where=where,
        allowed=f"{' or '.join(wanted)} as the header, and {', '.join([*COLUMNS][3:])} where known",
        remedy="rename the columns; others than these are not read",
    )


def read_table(path: Path, contrasts: Sequence[str]) -> Catalog:
    """The images of these contrasts in a table, of several those of patients; each line is a visit
    where the table has a column for each contrast.
    """
    words = ContrastWords(contrasts)
    table = ImageTable(path, contrasts, words, every=False, resampled=True, where="INPUT")
    catalog = table.read()
    images = catalog.of_kind("image")
    for row in images if table.column_of else ():
        row.session = row.session or f"line {row.line}"
        row.subject = row.subject or row.session
    if len(contrasts) > 1 and not all(row.subject for row in images):
        raise UserError(
            f"'{path}' does not say the patient of each image",
            where="INPUT",
            allowed="path, domain and patient, or a column for each of " + ", ".join(contrasts),
        )
    catalog.in_words = rows_in_words(table.in_words, catalog)
    return catalog


def domains_in_table(path: Path) -> Counter[str]:
    """How many rows of a table are of each domain; of a table without that column, its columns of
    contrasts. None are known of classes of one kind of image.

    UserError where neither the header nor a row says a domain.
    """
    columns, rows = read_rows(path)
    if "path" in columns:
        said = (cells.get("domain", "") for _, cells in rows)
        found = Counter(only(USUAL_WORDS.meant(word), word) for word in said)
    else:
        found = Counter(USUAL_WORDS.contrast_of.get(one_word(column), "") for column in columns)
    del found[""]
    if not found and not any(cells.get("label") for _, cells in rows):
        raise wrong_header(f"'{path}'", columns, ("T1", "T2"), "PATH")
    return found
