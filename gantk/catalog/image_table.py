"""Reads a table of images: one row for each image (columns path and domain), or a column of paths
for each contrast. Used for training, `gantk data check` and `gantk translate`.
"""

from __future__ import annotations

import os
import re
import stat
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property
from itertools import islice
from pathlib import Path

from gantk.catalog.catalog import VOLUME, Catalog, Row
from gantk.catalog.contrasts import (
    CONTRASTS,
    contrast_called,
    contrasts_in,
    known_contrast,
    one_word,
    usual_contrast,
)
from gantk.catalog.domains import rename_or_map
from gantk.catalog.tables import (
    LEFT_OUT,
    OF_FILES,
    SPLIT_WORDS,
    first_columns,
    no_domain,
    open_rows,
    usual_columns,
)
from gantk.catalog.words import MASK
from gantk.errors import UserError, count_noun, did_you_mean, join_first
from gantk.formats import files as io
from gantk.formats.image import Scan

MAX_QUOTED_CELLS = 5  # wrong cells of one mistake that a message quotes
MAX_WRONG_CELLS = 10_000  # at which reading stops
# columns that are no domain's paths
OTHER_COLUMNS = {"split", "fold", "label", "mask", "pair", "position", "slice", VOLUME}
SETS = ("train", "validation", "test")
NO_SPLIT = "is not a valid split (train, validation, test)"


class ImageTable:
    """A table of the images of some contrasts, in a file or as text.

    Args:
        contrasts: name of a contrast -> another word for it in the column domain, or "".
        text: the CSV itself; its paths are then relative to `path`.
        every: whether the columns of paths must be of all contrasts, and not of some.
        resampled: whether images and masks are resampled onto one grid.
        where: what names the table, for messages.
    """

    def __init__(
        self,
        path: Path,
        contrasts: Mapping[str, str],
        text: str = "",
        *,
        every: bool = True,
        resampled: bool = False,
        where: str = "data.source.path",
    ):
        self.path = path
        self.text = text
        self.folder = path if text else path.parent
        self.called = "the table" if text else f"'{path}'"
        self.contrasts = contrasts
        self.every = every
        self.resampled = resampled
        self.where = where
        self.columns, _ = open_rows(path, text)
        self.words = Counter[str]()  # of the column domain
        self.wrong: list[tuple[str, str, int]] = []  # mistake, cell and line
        self.contrast_of = cache(self._contrast_of)  # by word of the column domain

    def read(self) -> Catalog:
        """A row for each image; one UserError lists all wrong cells with their lines. The `slice` of
        a row is its position or slice.
        """
        rows: dict[tuple, Row] = {}
        self.count = 0
        for line, cells in self.lines():
            self.count += 1
            for row in self._rows_of(line, cells):
                identity = row.contrast, row.files, row.scan.volume
                if identity in rows:
                    self._note(UserError("is listed twice", where=self.key_of(row)), line)
                rows[identity] = row
            if len(self.wrong) >= MAX_WRONG_CELLS:
                break

        self._expect_known_domain()
        if any(row.split for row in rows.values()):  # then every row needs one
            for row in rows.values():
                if not row.split:
                    self._note(UserError(NO_SPLIT, where=""), row.line)
        self._expect_right()
        return Catalog(rows.values())

    def lines(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Line number and cells of each row that is not left out."""
        for line, cells in open_rows(self.path, self.text)[1]:
            if SPLIT_WORDS.get(cells.get("split", "").lower()) != LEFT_OUT:
                yield line, cells

    @cached_property
    def own_names(self) -> dict[str, str]:
        """The table's own names of the columns path, domain and patient, as far as it has them."""
        own = {column: names[0] for column, names in usual_columns(self.columns).items()}
        if own.get("patient") == "id" and "path" in own and self._all_differ("id"):
            del own["patient"]
        return own

    def _all_differ(self, column: str) -> bool:
        """Whether no two rows have the same value in a column: it then names images."""
        values = [cells.get(column, "") for _, cells in self.lines()]
        return len({*values}) == len(values)

    @cached_property
    def column_of(self) -> dict[str, str]:
        """The column of each contrast's paths; {} where one column holds all paths."""
        called, meant = self._columns_of_contrasts()
        own = self.own_names
        has_domain = "domain" in own or len(self.contrasts) == 1
        all_called = self.every and called.keys() == self.contrasts.keys()
        path = own.get("path")
        if path and has_domain and (not all_called or path in ("path", *called.values())):
            self._expect_one_domain_column()
            return {}

        columns = meant | called
        if columns and (not self.every or columns.keys() == self.contrasts.keys()):
            return {name: columns[name] for name in self.contrasts if name in columns}
        if path:
            error = no_domain(self.columns, path)
            error.where = self.where
            raise error

        each = " and ".join(map(repr, self.contrasts))
        first = "the columns path and domain, or a column of paths for each domain:"
        raise UserError(
            f"{self.called} has no columns for the images. Its columns are"
            f" {first_columns(self.columns)}",
            where=self.where,
            allowed=f"{first if len(self.contrasts) > 1 else 'the column path, or'} {each}",
            remedy=rename_or_map(
                [name.upper() for name in self.columns if name in CONTRASTS], [*self.contrasts]
            ),
        )

    def _columns_of_contrasts(self) -> tuple[dict[str, str], dict[str, str]]:
        """The column that is called as each contrast, and the one whose words mean it
        (`T1_post_contrast`); UserError where two do.
        """
        contrasts = list(self.contrasts)
        called: dict[str, str] = {}
        meant: dict[str, list[str]] = defaultdict(list)
        for column in self.columns:
            name = OF_FILES.sub("", column)
            exact = contrast_called(name, contrasts)
            by_words = None if MASK.search(name) else known_contrast(name, contrasts)
            if exact:
                called.setdefault(exact, column)
            elif by_words:
                meant[by_words].append(column)
        for contrast, other_word in self.contrasts.items():
            if other_word in self.columns:
                called.setdefault(contrast, other_word)

        for contrast, columns in meant.items():
            if len(columns) > 1 and contrast not in called:
                raise UserError(
                    f"{self.called} has two columns of {contrast}: '{columns[0]}' and"
                    f" '{columns[1]}'",
                    where=self.where,
                    allowed="one column for each contrast",
                )
        return called, {contrast: columns[0] for contrast, columns in meant.items()}

    def _expect_one_domain_column(self) -> None:
        """UserError where several columns may be the domain, and none has exactly this name."""
        domain = usual_columns(self.columns).get("domain", ["domain"])
        if len(domain) > 1 and domain[0] != "domain":
            raise UserError(
                f"the columns {' and '.join(domain)} of {self.called} may both be the domain",
                where=self.where,
                remedy="rename the one that tells the kinds of image apart to domain",
            )

    def _expect_known_domain(self) -> None:
        """UserError where the column domain names none of the contrasts."""
        words = self.words
        del words[""]
        if words and not any(map(self.contrast_of, words)):
            shown = ", ".join(
                f"'{word}' ({count_noun(count, 'row')})"
                for word, count in words.most_common(MAX_QUOTED_CELLS)
            )
            names = [word for word in words if len(word) < 40]
            raise UserError(
                f"the column domain of {self.called} contains {shown}, but the recipe's domains are"
                f" {' and '.join(self.contrasts)}",
                where="data.domains",
                remedy=rename_or_map(names, [*self.contrasts]),
            )

    def _expect_right(self) -> None:
        """UserError that lists the wrong cells, the first of each mistake."""
        if not self.wrong:
            return
        cells_of: dict[str, list[str]] = defaultdict(list)
        for mistake, cell, line in self.wrong:
            cells_of[mistake].append(f"'{cell}' in line {line}")

        mistakes = []
        for mistake, cells in cells_of.items():
            quoted = join_first(cells, most=MAX_QUOTED_CELLS)
            mistakes.append(f"{quoted}{': each' if len(cells) > 1 else ''} {mistake}")
        rows = len({line for *_, line in self.wrong})
        first = "the first " if len(self.wrong) >= MAX_WRONG_CELLS else ""
        raise UserError(
            f"{rows} of {first}{self.count} rows of {self.called} are wrong: {'; '.join(mistakes)}",
            where=self.where,
            remedy="correct these rows, or remove them",
        )

    def _note(self, error: UserError, line: int) -> None:
        """Keep a wrong cell for the one error at the end."""
        self.wrong.append((error.what, str(error.where)[:80], line))

    def _rows_of(self, line: int, cells: dict[str, str]) -> list[Row]:
        """The rows of a line: one for its path, none if its domain is another one; or one for each
        contrast's path.
        """
        column_of = self.column_of
        if not column_of:
            contrast = self._contrast_of_line(line, cells)
            column_of = {contrast: self.own_names["path"]} if contrast else {}
        texts = {contrast: cells.get(column, "") for contrast, column in column_of.items()}
        if texts and not any(texts.values()):
            self._note(UserError("is empty", where=" and ".join(column_of.values())), line)

        rows: list[Row] = []
        for contrast, text in texts.items():
            if text:
                try:
                    rows.append(self._row(contrast, text, cells))
                except UserError as error:
                    self._note(error, line)
        for row in rows:
            row.line = line
            row.pair = cells.get("pair", "") or (self.key_of(rows[0]) if len(texts) > 1 else "")
            row.split = SPLIT_WORDS.get(cells.get("split", "").lower(), cells.get("split", ""))
        if rows and rows[0].split not in ("", *SETS):
            self._note(UserError(NO_SPLIT, where=rows[0].split), line)
        if rows and cells.get("mask"):
            try:
                self._set_mask(rows, cells["mask"])
            except UserError as error:
                self._note(error, line)
        return rows

    def _row(self, contrast: str, text: str, cells: Mapping[str, str]) -> Row:
        subject = cells.get(self.own_names.get("patient", ""), "")
        scan = self._scan(text)
        if number := cells.get(VOLUME, ""):
            if not re.fullmatch("[0-9]{1,4}", number):
                raise UserError("is not the number of a volume, from 0 on", where=number)
            scan = replace(scan, volume=int(number))
        row = Row(scan, contrast, subject)
        row.label = cells.get("label", "")
        row.slice = cells.get("position") or cells.get("slice", "")
        return row

    def _contrast_of_line(self, line: int, cells: Mapping[str, str]) -> str | None:
        """The contrast of a line; None for another one, or an unknown word, which is noted."""
        word = cells.get(self.own_names.get("domain", ""), "")
        self.words[word] += 1
        contrast = self.contrast_of(word)
        if contrast is None and not word:
            path = cells.get(self.own_names["path"], "")
            mistake = f"has no domain ({', '.join(self.contrasts)})"
            self._note(UserError(mistake, where=path), line)
        elif contrast is None and not contrasts_in(word):
            close = did_you_mean(word[:80], [name.lower() for name in self.contrasts])
            if close or len(self.contrasts) > 1:
                mistake = f"is not a valid domain ({', '.join(self.contrasts)})"
                mistake = f"{mistake}. {close}" if close else mistake
                self._note(UserError(mistake, where=word), line)
        return contrast

    def _contrast_of(self, word: str) -> str | None:
        """The contrast that a word of the column domain means; None for another one."""
        if not word:
            return next(iter(self.contrasts)) if len(self.contrasts) == 1 else None
        for contrast, other_word in self.contrasts.items():
            if word.lower() in (contrast.lower(), other_word):
                return contrast
        return known_contrast(word, self.contrasts)

    def _set_mask(self, rows: Sequence[Row], text: str) -> None:
        """Set the mask of a line's images: of those on the mask's grid, or of all where images are
        resampled.
        """
        mask = self._scan(text)
        if mask.is_series:
            raise UserError("is a folder, not a mask file", where=text)
        differ = [not self.resampled and io.difference(mask, row.scan) for row in rows]
        if all(differ):
            raise UserError(
                f"is a mask on another voxel grid than its image, {differ[0]}", where=text
            )
        for row, differs in zip(rows, differ, strict=True):
            row.mask = None if differs else mask.path

    def _scan(self, text: str) -> Scan:
        """The file or DICOM series that a cell names."""
        path = os.path.join(self.folder, text)
        mode = _mode(path)
        if "\\" in text and not mode:  # a table written on Windows
            path = os.path.join(self.folder, text.replace("\\", "/"))
            mode = _mode(path)
        if not mode:
            raise UserError("does not exist", where=text)

        place = Path(path)
        if stat.S_ISDIR(mode):
            series = io.scans(place, recursive=False)
            if len(series) != 1:
                images = count_noun(series, "image")
                raise UserError(f"is a folder of {images}, not of one DICOM series", where=text)
            return series[0]
        if not io.is_image(place) and not io.series_format(place):
            raise UserError("is not a readable image", where=text)
        return Scan(place)

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


def read_table(table: Path, contrasts: Sequence[str]) -> Catalog:
    """The images of these contrasts in a table, of several those of patients; each line is a visit
    where the table has a column for each contrast.
    """
    found = ImageTable(
        table, dict.fromkeys(contrasts, ""), every=False, resampled=True, where="INPUT"
    )
    catalog = found.read()
    for row in catalog:
        if found.column_of:
            row.session = f"line {row.line}"
            row.subject = row.subject or row.session
    if len(contrasts) > 1 and not all(row.subject for row in catalog):
        raise UserError(
            f"'{table}' does not say the patient of each image",
            where="INPUT",
            allowed="path, domain and patient, or a column for each of " + ", ".join(contrasts),
        )
    if not catalog.rows:
        raise UserError(
            f"'{table}' lists no image of {', '.join(contrasts)}",
            where="INPUT",
            allowed=contrasts,
        )
    return catalog


def kinds_in_table(path: Path) -> Counter[str]:
    """How many rows of a table are of each domain; without that column, its columns that name
    files; nothing for classes of one kind of image.

    UserError where a single column names the files and no row says a domain or a class.
    """
    table = ImageTable(path, {})
    own_names = usual_columns(table.columns)
    if "domain" in own_names:
        domain = own_names["domain"][0]
        words = Counter(cells[domain] for _, cells in table.lines() if cells.get(domain))
        if words:
            return _merge_spellings(words)

    # a column for each domain: those whose first cells are files, if any are
    known = {name for names in own_names.values() for name in names} | OTHER_COLUMNS
    others = [name for name in table.columns if name not in known]
    of_files = _columns_of_files(table, others)
    of_contrasts = [name for name in others if usual_contrast(OF_FILES.sub("", name))]
    kinds = Counter(OF_FILES.sub("", name) for name in of_files or of_contrasts)
    of_images = [*own_names.get("path", []), *of_files]
    if len(of_files) > 1 or not of_images or any(map(usual_contrast, kinds)):
        return kinds
    if any(cells.get("label") for _, cells in table.lines()):
        return Counter()
    raise no_domain(table.columns, of_images[0])


def _columns_of_files(table: ImageTable, columns: Sequence[str]) -> list[str]:
    """Of these columns those whose first cells name a file."""
    rows = [cells for _, cells in islice(table.lines(), 20)]
    return [
        column
        for column in columns
        if any(
            row.get(column) and (table.folder / row[column].replace("\\", "/")).exists()
            for row in rows
        )
    ]


def _merge_spellings(words: Counter[str]) -> Counter[str]:
    """Count each domain by its most frequent spelling: `T1` for T1, t1 and T1w; by the contrast's name
    where several words say it (`T1 nativ`).
    """
    merged: Counter[str] = Counter()
    spelling: dict[str, str] = {}
    for word, count in words.most_common():
        name = one_word(word)
        said = contrasts_in(word)
        if name not in CONTRASTS and len(said) == 1:
            (name,) = said
            word = name.upper()
        merged[spelling.setdefault(CONTRASTS.get(name, name), word)] += count
    return merged
