"""The table of images below a folder: a row for each image."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from gantk.catalog.domains import relative_to
from gantk.catalog.tables import csv_text
from gantk.errors import count_noun
from gantk.files import write_output
from gantk.formats.files import is_volume, outline, series_format, unread_kind
from gantk.formats.image import Image, Scan, SeriesHeader

Kind = Literal["image", "mask", "left out", "no scan", "other"]
# keys of a run's JSON -> the attributes of a row that they record as they are
RECORDED = {
    "domain": "letter",
    "key": "key",
    "patient": "subject",
    "split": "split",
    "label": "label",
    "position": "position",
    "pair": "pair",
}


@dataclass(slots=True, eq=False)
class Row:
    """One image and what is known of it; an empty cell is not known.

    Attributes:
        scan: what is read: a file, one volume of it, or a DICOM series.
        contrast: what it shows, such as "T1", or the name of a recipe's domain.
        subject: the patient; of one spelling, see `compose_text`.
        session: the visit of the patient.
        kind: "image"; "mask"; "left out", for a reason such as "template"; "no scan", such as a
            localizer; "other", a file that is not read.
        why: the reason why an image is left out.
        split: "train", "validation" or "test", where folders say so.
        label: the class, such as "tumour".
        pair: images of one subject that share it show the same anatomy, if they share a grid.
        mask: the file of its lesion mask, where it is known.
        slice: what tells it from other images of its patient and visit.
        header: what the header of the series says; None where it cannot be read.
        line: of the table that lists it.

    Of an image that a run uses:

        letter: of its domain: "a", "b" or "image".
        key: its name, unique in its domain.
        position: of a slice in its stack.
        contrasts: the scans of its channels, where these are contrasts.
        apart: a sentence on the image that would be its partner but for another grid.
        onto: the scan onto whose grid it and its mask are resampled.
        outlines: outlines of its scans that were read.
    """

    scan: Scan
    contrast: str = ""
    subject: str = ""
    session: str = ""
    kind: Kind = "image"
    why: str = ""
    split: str = ""
    label: str = ""
    pair: str = ""
    mask: Path | None = None
    slice: str = ""
    header: SeriesHeader | None = field(default=None, repr=False)
    line: int = 0
    letter: str = ""
    key: str = ""
    position: float | None = None
    contrasts: dict[str, Scan | None] | None = None
    apart: str = ""
    onto: Scan | None = None
    outlines: dict[Scan, Image] = field(default_factory=dict, repr=False)

    def __post_init__(self):
        self.subject = compose_text(self.subject)

    def as_json(self, root: Path) -> dict[str, Any]:
        """What a run records of it, for `of_json`; files below `root` relative to it."""
        contrasts = self.contrasts or {}
        recorded = {name: getattr(self, attribute) for name, attribute in RECORDED.items()}
        recorded |= {
            "files": _parts(self.scan, root),
            "mask": [_relative(self.mask, root)] if self.mask else [],
            "onto": _parts(self.onto, root),
            "contrasts": {name: _parts(scan, root) for name, scan in contrasts.items()},
        }
        return {name: value for name, value in recorded.items() if value not in (None, "", [], {})}

    @classmethod
    def of_json(cls, recorded: Mapping[str, Any], root: Path) -> Row:
        """The row that a run recorded, with the files below `root`."""
        row = cls(_scan_of(recorded["files"], root))
        for name in RECORDED.keys() & recorded.keys():
            setattr(row, RECORDED[name], recorded[name])
        row.mask = root / recorded["mask"][0] if "mask" in recorded else None
        row.onto = _scan_of(recorded["onto"], root) if "onto" in recorded else None
        contrasts = recorded.get("contrasts", {})
        scans = {
            name: _scan_of(parts, root) if parts else None for name, parts in contrasts.items()
        }
        row.contrasts = scans or None
        return row

    @property
    def facts(self) -> dict[str, str]:
        """What is known of it without reading it, as of `Image.facts`."""
        return {"contrast": self.contrast}

    @property
    def files(self) -> tuple[Path, ...]:
        """The file, or the files of a DICOM series."""
        return self.scan.files

    @property
    def path(self) -> Path:
        """The first file."""
        return self.files[0]

    @property
    def files_to_read(self) -> tuple[Path, ...]:
        """The files that are read for it: its own first, then those of the grid it is resampled
        onto.
        """
        scans = (self.scan, *(self.contrasts or {}).values(), self.onto)
        return tuple(dict.fromkeys(file for scan in scans if scan for file in scan.files))

    @property
    def files_with_mask(self) -> tuple[Path, ...]:
        """The files that are read for it and for its mask."""
        return (*self.files_to_read, self.mask) if self.mask else self.files_to_read

    @property
    def outline(self) -> Image:
        """Its image with zeros as pixels, see `gantk.formats.files.outline`; read once."""
        return self._outline_of(self.scan)

    @property
    def grid(self) -> Image:
        """The grid of its pixels, from headers."""
        return self._outline_of(self.onto or self.scan)

    def _outline_of(self, scan: Scan) -> Image:
        if scan not in self.outlines:
            self.outlines[scan] = outline(scan)
        return self.outlines[scan]

    @property
    def is_volume(self) -> bool:
        """Whether its file may hold three axes."""
        return bool(self.scan.is_series or is_volume(self.path) or series_format(self.path))

    def scan_below(self, root: Path) -> Scan:
        """Its scan, named by its path below `root`."""
        if self.scan.is_series:
            return self.scan
        name = encodable(os.path.relpath(self.path, root).replace(os.sep, "/"))
        return replace(self.scan, name=name)

    @property
    def anatomy(self) -> str:
        """What registered images of two contrasts share: split, patient, visit and slice; "" where no
        more than the split is known.
        """
        known = [*filter(None, (self.subject, self.session, self.slice))]
        return "/".join(filter(None, (self.split, *known))) if known else ""

    @property
    def cell(self) -> tuple[str, ...]:
        """What no two images share."""
        return self.split, self.subject, self.session, self.slice, self.contrast, self.label


def compose_text(text: str) -> str:
    """The one of several spellings of a text in Unicode: `ü` as one letter, which a Mac writes as
    two. A pseudonym stays one.
    """
    text = encodable(text)
    if unicodedata.is_normalized("NFC", text):
        return text
    return unicodedata.normalize("NFC", text)


def encodable(text: str) -> str:
    """A name as text of every encoding of Unicode: bytes of a path that are no text are escaped."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text


@dataclass
class Case:
    """The images of one subject and visit, by contrast."""

    name: str
    rows: dict[str, list[Row]]

    @property
    def folder(self) -> Path:
        """The folder that holds all files of the case."""
        folders = [row.path.parent.absolute() for rows in self.rows.values() for row in rows]
        return Path(os.path.commonpath(folders))


class Catalog(Sequence[Row]):
    """Rows in the order of their names.

    Attributes:
        layout: what the names were read by, such as `{patient}/*{contrast}*`; "" of what is not
            read from names.
        in_words: the layout and what it means, in a line.
    """

    def __init__(self, rows: Iterable[Row], layout: str = "", in_words: str = ""):
        self.rows = list(rows)
        self.layout = layout
        self.in_words = in_words

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]

    def write(self, table: Path, columns: Iterable[str]) -> None:
        """Write these columns of `COLUMNS` as a CSV from which a run reads the same images; paths
        are relative to it where they can be.
        """
        names = list(columns)
        cells = [[COLUMNS[name](row, table.parent) for name in names] for row in self]
        write_output(table, csv_text(names, cells).encode())

    def of_kind(self, kind: Kind) -> list[Row]:
        """The rows of a kind."""
        return [row for row in self.rows if row.kind == kind]

    def cases(
        self, contrasts: Sequence[str], name_of: Callable[[Row], str] = lambda row: row.anatomy
    ) -> list[Case]:
        """The images of these contrasts by their names, as a rule patient, visit and slice, in the
        order of the rows.
        """
        cases: dict[str, Case] = {}
        for row in self.of_kind("image"):
            if row.contrast in contrasts:
                name = name_of(row) or "scan"
                case = cases.setdefault(name, Case(name, defaultdict(list)))
                case.rows[row.contrast].append(row)
        return [*cases.values()]


def _parts(scan: Scan | None, root: Path) -> list[Any]:
    """A scan as JSON: a file, and the number of its volume; or the folder of a series, and its
    files.
    """
    if scan is None:
        return []
    paths = (scan.path, *scan.files) if scan.is_series else (scan.path,)
    volume = () if scan.volume is None else (scan.volume,)
    return [*(_relative(path, root) for path in paths), *volume]


def _scan_of(parts: Sequence[Any], root: Path) -> Scan:
    """The scan that `_parts` has written."""
    paths = [root / part for part in parts if isinstance(part, str)]
    if len(paths) > 1:
        return Scan(paths[0], tuple(paths[1:]), parts[0], is_series=True)
    return Scan(paths[0], volume=parts[1] if len(parts) > 1 else None)


def _relative(path: Path | None, folder: Path) -> str:
    """A file's path relative to a folder where it lies below; "" for none."""
    return relative_to(path.absolute(), folder.absolute()).as_posix() if path else ""


VOLUME = "volume_number"  # column of the volume of a file of several, counted from 0
# the columns of a table of images -> the cell of a row, for a table in a folder
COLUMNS: dict[str, Callable[[Row, Path], str]] = {
    "path": lambda row, folder: _relative(row.scan.path, folder),
    "domain": lambda row, folder: row.contrast,
    "patient": lambda row, folder: row.subject,
    "visit": lambda row, folder: row.session,
    "split": lambda row, folder: row.split,
    "label": lambda row, folder: row.label,
    "mask": lambda row, folder: _relative(row.mask, folder),
    "pair": lambda row, folder: row.pair,
    "position": lambda row, folder: row.slice,
    VOLUME: lambda row, folder: "" if row.scan.volume is None else str(row.scan.volume),
}


def unread_rows(files: Iterable[Path]) -> list[Row]:
    """A row of the kind "other" for each of these files that is an image which no format reads."""
    rows = []
    for file in files:
        kind = unread_kind(file)
        if kind is not None:
            rows.append(Row(Scan(file), kind="other", why=kind.name))
    return rows


def unread_note(rows: Iterable[Row]) -> str:
    """A sentence on the images that no format reads; "" without any."""
    names = Counter(row.why for row in rows if row.kind == "other")
    if not names:
        return ""
    shown = ", ".join(f"{name} ({count})" for name, count in names.most_common())
    files = count_noun(range(names.total()), "file")
    return f"{files} of kinds that gantk does not read: {shown}"
