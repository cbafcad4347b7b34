"""The data source over a table of images: a CSV (or TSV) with a row for each image, or for each pair."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from gantk.data.preparation import Record
from gantk.data.sources.file_names import relative_to, split_of
from gantk.data.sources.reader import Item, Source, is_volume
from gantk.data.sources.source import Channels, Onto, VolumeSource
from gantk.errors import UserError, did_you_mean
from gantk.formats import files as io
from gantk.formats.contrasts import CONTRASTS, contrast_in, one_word, same_contrast

SHOWN = 5  # wrong rows that a message quotes


@dataclass(kw_only=True)
class Manifest(VolumeSource):
    """A CSV of images: a row for each, with the columns path and domain, or a column of paths for each domain.

    Paths are files, or folders of one DICOM series, relative to the CSV. Further columns, where there are any: patient,
    split (train, validation, test), label (a class), mask (a file), pair. Images that share a `pair`, that stand in one
    row, or that are their patient's only two, are registered pairs where they lie on one grid, or with `onto`. Rows of
    other domains are left alone.
    """

    path: str = ""  # the CSV or TSV file
    onto: Onto = "none"  # resample a pair's other image onto the grid of this one, by their headers
    channels: Channels = None  # turn all images to gray (1) or colour (3); None = as they are

    @classmethod
    def accepts(cls, path: Path) -> dict | None:
        """`{"path": ...}` of a .csv or .tsv file."""
        return {"path": str(path)} if path.is_file() and path.suffix.lower() in (".csv", ".tsv") else None

    def records(self) -> list[Record]:
        """One record for every image, or for every plane of it; all wrong rows are one UserError with their lines."""
        names, rows = read_rows(self.root)
        columns = self._columns(names)
        items: dict[tuple[str, str], tuple[int, Item]] = {}
        wrong: list[str] = []
        for line, row in rows:
            try:
                for item in self._items(row, columns):
                    first, _ = items.setdefault((item.letter, item.key), (line, item))
                    if first != line:
                        raise UserError(f"'{item.key}' stands in line {first} already")
            except UserError as error:
                wrong.append(f"line {line}: {error}".rstrip("."))
        if wrong:
            more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
            what = f"{len(wrong)} of {len(rows)} rows of '{self.root}' are wrong: {'; '.join(wrong[:SHOWN])}{more}"
            raise UserError(what, where="data.source.path", remedy="correct these rows, or take them out")
        return self.records_of([item for _, item in items.values()])

    def _columns(self, names: list[str]) -> dict[str, str] | None:
        """The column of each domain's paths; None where one column `path` holds them all."""
        if "path" in names and (len(self.names) == 1 or "domain" in names):
            return None
        columns = {}
        for letter, domain in self.names.items():
            alike = (name for name in names if same_contrast(one_word(name), one_word(domain)))
            columns[letter] = domain.lower() if domain.lower() in names else next(alike, letter)
        if not set(columns.values()) <= set(names):
            each = " and ".join(f"'{name}'" for name in self.domains)
            both = f"path and domain, or a column of paths for each domain, here {each}"
            allowed = both if len(self.domains) == 2 else f"path, or {each}"
            what = f"'{self.root}' has the columns {', '.join(names)}"
            raise UserError(what, where="data.source.path", allowed=allowed)
        return columns

    def _items(self, row: dict[str, str], columns: dict[str, str] | None) -> list[Item]:
        """The items of a row: of its path and domain, none where it is of another one; or of a path for each domain."""
        study, items = row.get("pair", ""), []
        if columns is None:
            letter = self._letter(row.get("domain", ""))
            columns = {letter: "path"} if letter else {}
            study = study if "pair" in row else row.get("patient", "")
        words = set(map(one_word, self.domains))
        for letter, column in columns.items():
            if row.get(column):
                source, key = self._source(row[column])
                subject = row.get("patient", "")
                if not subject and is_volume(source):  # a volume is a scan of somebody, whom its name may tell
                    subject = contrast_in(io.stem_of(key), words)[1] or Path(key).parent.name or io.stem_of(key)
                split = split_named(row.get("split", ""), "column split")
                items.append(Item(letter, source, key, subject, split=split, label=row.get("label") or None))
        if columns and not items:
            raise UserError(f"{' and '.join(columns.values())} {'is' if len(columns) == 1 else 'are'} empty")
        for item in items:
            item.subject = items[0].subject
            item.study = study or (items[0].key if len(columns) > 1 else "")
        if items and row.get("mask"):  # of the images on whose grid it lies, of all where they are resampled
            mask, _ = self._source(row["mask"])
            if isinstance(mask, io.Scan):
                raise UserError(f"the mask '{row['mask']}' is a folder", allowed="a file")
            differ = [self.onto == "none" and io.difference(mask, item.source) for item in items]
            if all(differ):
                raise UserError(f"the mask '{row['mask']}' is on another grid than its image: {differ[0]}")
            for item, differs in zip(items, differ, strict=True):
                item.mask = None if differs else mask
        return items

    def _letter(self, said: str) -> str | None:
        """The domain that a row names; None: another one."""
        if len(self.domains) == 1 and not said:
            return "image"
        exact = [letter for letter, name in self.names.items() if said.lower() in (name.lower(), letter)]
        alike = [letter for letter, name in self.names.items() if same_contrast(one_word(said), one_word(name))]
        close = did_you_mean(said, [name.lower() for name in self.domains])
        if not exact + alike and (not said or (close and one_word(said) not in CONTRASTS)):
            raise UserError(f"there is no domain '{said}'", allowed=self.domains, remedy=close)
        return next(iter(exact + alike), None)

    def _source(self, text: str) -> tuple[Source, str]:
        """What a cell names, and how it is called: relative to the table where it lies below it."""
        path = self.root.parent / text
        if not os.path.exists(path):
            raise UserError(f"'{text[:80]}' does not exist")
        shown = relative_to(path, self.root.parent).as_posix()
        if path.is_dir():
            series = io.scans(path, recursive=False)
            if len(series) != 1:
                raise UserError(f"'{text}' is a folder of {len(series)} images", allowed="one DICOM series")
            return series[0], shown
        if not is_volume(path) and not io.is_image(path):
            raise UserError(f"'{text}' is no image that can be read", allowed=io.readable())
        return path, shown


def read_rows(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The columns of a CSV or TSV, and its rows with their line numbers; names in lower case, values without blanks.

    Comma, semicolon or tab: whichever the header has most of. Empty rows are left out, and so is what a row has beyond
    the columns, or lacks. What is no text, or has no header, is a UserError.
    """
    try:
        text = path.read_text("utf-8-sig")
        header = next((line for line in text.splitlines() if line.strip()), "")
        reader = csv.reader(StringIO(text, newline=""), delimiter=max(",;\t", key=header.count), strict=True)
        table = [(reader.line_num, row) for row in reader if any(value.strip() for value in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"'{path}' cannot be read as a table: {why}", allowed="UTF-8 text, CSV or TSV") from error
    if not table:
        raise UserError(f"'{path}' is empty", allowed="a header, and a row for each image")
    columns = [name.strip().lower() for name in table[0][1]]
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise UserError(f"'{path}' has two columns '{twice[0]}'", remedy="rename or remove one")
    rows = [(line, dict(zip(columns, map(str.strip, values), strict=False))) for line, values in table[1:]]
    return [name for name in columns if name], rows


def split_named(value: str, where: str) -> str | None:
    """`train`, `validation` or `test` of a cell; None of an empty one (or n/a), a UserError of anything else."""
    if not value or value.lower() == "n/a":
        return None
    split = split_of((value,))
    if split is None:
        raise UserError(f"'{value}' is no split", where=where, allowed="train, validation, test")
    return split
