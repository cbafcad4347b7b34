"""The table of images below a folder: a row for each, whose cells say which rule filled them."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from gantk.catalog.tables import csv_text
from gantk.errors import UserError, count_noun
from gantk.files import write_output
from gantk.formats.files import is_volume, outline, series_format, unread_kind
from gantk.formats.image import Image, Scan, SeriesHeader

Kind = Literal["image", "mask", "version", "no scan", "other"]


@dataclass(slots=True, eq=False)
class Row:
    """One image and what is known of it; an empty cell is not known.

    Attributes:
        scan: what is read: a file, one volume of it, or a DICOM series.
        contrast: what it shows, such as "T1", or the name of a recipe's domain.
        subject: the patient; of one spelling, see `composed`.
        session: the visit of the patient.
        kind: "image"; "mask"; "version", made from or replaced by another image of the table;
            "no scan", such as a localizer or a template; "other", a file that is not used.
        split: "train", "validation" or "test", where folders say so.
        label: the class, such as "tumour".
        pair: images of one subject that share it show the same anatomy, if they share a grid.
        mask: the file of its lesion mask, where it is known.
        why: column -> the rule that filled the cell, or left it empty.
        place: the folders, without those of contrasts, splits and classes.
        stem: the name without suffix and contrast.
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
    split: str = ""
    label: str = ""
    pair: str = ""
    mask: Path | None = None
    why: dict[str, str] = field(default_factory=dict)
    place: tuple[str, ...] = ()
    stem: str = ""
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
        self.subject = composed(self.subject)

    def as_json(self, root: Path) -> dict[str, Any]:
        """What a run records of it, for `of_json`; files below `root` relative to it."""
        contrasts = self.contrasts or {}
        recorded = {
            "domain": self.letter,
            "files": _parts(self.scan, root),
            "key": self.key,
            "patient": self.subject,
            "split": self.split,
            "label": self.label,
            "mask": [_relative(self.mask, root)] if self.mask else [],
            "position": self.position,
            "pair": self.pair,
            "onto": _parts(self.onto, root),
            "contrasts": {name: _parts(scan, root) for name, scan in contrasts.items()},
        }
        return {name: value for name, value in recorded.items() if value not in (None, "", [], {})}

    @classmethod
    def of_json(cls, recorded: Mapping[str, Any], root: Path) -> Row:
        """The row that a run recorded, with the files below `root`."""
        row = cls(_scan_of(recorded["files"], root))
        row.letter = recorded["domain"]
        row.key = recorded["key"]
        row.subject = recorded.get("patient", "")
        row.split = recorded.get("split", "")
        row.label = recorded.get("label", "")
        row.position = recorded.get("position")
        row.pair = recorded.get("pair", "")
        row.mask = root / recorded["mask"][0] if "mask" in recorded else None
        row.onto = _scan_of(recorded["onto"], root) if "onto" in recorded else None
        if "volume" in recorded:  # of an earlier version; all volumes of `onto` have one grid
            row.scan = replace(row.scan, volume=recorded["volume"])
            row.onto = row.onto and replace(row.onto, volume=0)
        contrasts = recorded.get("contrasts", {})
        scans = {
            name: _scan_of(parts, root) if parts else None for name, parts in contrasts.items()
        }
        row.contrasts = scans or None
        return row

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
        name = os.path.relpath(self.path, root).replace(os.sep, "/")
        return replace(self.scan, name=name)

    def folders_below(self, root: Path) -> tuple[str, ...]:
        """The folders below `root` that its files lie in."""
        return self.path.parent.relative_to(root).parts

    @property
    def name(self) -> str:
        """What registered images of two contrasts share: place and stem."""
        return "/".join(filter(None, (*self.place, self.stem))) or "scan"

    @property
    def visit(self) -> str:
        """The folders, and the patient and visit where the folders do not contain them."""
        place = "/".join(self.place)
        own = [part for part in (self.subject, self.session) if part and part not in place]
        return "/".join(filter(None, (place, *own))) or "scan"

    @property
    def rules(self) -> dict[str, str]:
        """The rules that filled its cells, or left them empty, by column; none of a cell that nothing
        filled.
        """
        said = {}
        for column, rule in self.why.items():
            if getattr(self, column) or rule.startswith("empty"):
                said[column] = rule
        return said

    def fill(self, column: str, value: str, rule: str) -> None:
        """Set a cell and the rule that filled it."""
        setattr(self, column, composed(value))
        self.why[column] = rule


def composed(text: str) -> str:
    """The one of several spellings of a text in Unicode: `ü` as one letter, which a Mac writes as
    two. A pseudonym stays one.
    """
    if unicodedata.is_normalized("NFC", text):
        return text
    return unicodedata.normalize("NFC", text)


@dataclass
class Case:
    """The images of one subject and visit, by contrast."""

    name: str
    rows: dict[str, list[Row]]

    @property
    def folder(self) -> Path:
        """The folder that holds all files of the case."""
        folders = [row.path.parent for rows in self.rows.values() for row in rows]
        return Path(os.path.commonpath(folders))


class Catalog(Sequence[Row]):
    """Rows in the order of their names; `doubts` must be answered before a training."""

    def __init__(self, rows: Iterable[Row], doubts: Iterable[UserError] = ()):
        self.rows = list(rows)
        self.doubts = list(doubts)
        self.notes: list[str] = []
        # contrast -> the folders that were taken for it, where no name says a contrast
        self.groups: dict[str, list[str]] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

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

    def cases(self, contrasts: Sequence[str]) -> list[Case]:
        """The images of these contrasts by subject and visit, in the order of the rows.

        Several images of one contrast, in a folder whose names do not tell their partners, are one
        case.
        """
        rows = [row for row in self.of_kind("image") if row.contrast in contrasts]
        found: list[Case] = []
        for members in groups_of(rows):
            by_name: dict[str, list[Row]] = defaultdict(list)
            for row in members:
                by_name[row.name].append(row)
            if has_one_of_each(members) or not all(map(has_several, by_name.values())):
                by_name = {members[0].visit: members}
            for name, own in by_name.items():
                case = Case(name, defaultdict(list))
                for row in own:
                    case.rows[row.contrast].append(row)
                found.append(case)
        return found


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
    if path is None:
        return ""
    whole = path.absolute()
    folder = folder.absolute()
    return (whole.relative_to(folder) if whole.is_relative_to(folder) else whole).as_posix()


VOLUME = "volume_number"  # column of the volume of a file of several, counted from 0
# columns of a row that a table calls by another name
NAMES_OF_COLUMNS = {"contrast": "domain", "subject": "patient"}
# columns of a table -> the cell of a row, for a table in a folder
COLUMNS: dict[str, Callable[[Row, Path], str]] = {
    "path": lambda row, folder: _relative(row.scan.path, folder),
    "domain": lambda row, folder: row.contrast,
    "patient": lambda row, folder: row.subject,
    "split": lambda row, folder: row.split,
    "label": lambda row, folder: row.label,
    "mask": lambda row, folder: _relative(row.mask, folder),
    "pair": lambda row, folder: row.pair,
    VOLUME: lambda row, folder: "" if row.scan.volume is None else str(row.scan.volume),
    "why": lambda row, folder: "; ".join(
        f"{NAMES_OF_COLUMNS.get(column, column)}: {rule}" for column, rule in row.rules.items()
    ),
}


def unread_rows(files: Iterable[Path]) -> list[Row]:
    """A row of the kind "other" for each of these files that is an image which no format reads."""
    rows = []
    for file in files:
        kind = unread_kind(file)
        if kind is not None:
            rows.append(Row(Scan(file), kind="other", why={"kind": kind.name}))
    return rows


def unread_note(rows: Iterable[Row]) -> str:
    """A sentence on the images that no format reads; "" without any."""
    names = Counter(row.why["kind"] for row in rows if row.kind == "other")
    if not names:
        return ""
    shown = ", ".join(f"{name} ({count})" for name, count in names.most_common())
    files = count_noun(range(names.total()), "file")
    return f"{files} of kinds that gantk does not read: {shown}"


def groups_of(rows: Iterable[Row]) -> list[list[Row]]:
    """The rows of each subject, visit and folder."""
    groups: dict[tuple, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.subject, row.session, row.place].append(row)
    return list(groups.values())


def expect_one_volume_a_cell(rows: Iterable[Row]) -> None:
    """UserError where two volumes are of one split, patient, visit and contrast: which of them is
    meant, or whose the other one is, is asked.
    """
    cells: dict[tuple, Row] = {}
    for row in rows:
        if not (row.is_volume and row.subject and row.scan.volume is None):
            continue
        first = cells.setdefault((row.split, row.subject, row.session, row.contrast), row)
        if first is not row:
            visit = f", visit {row.session}," if row.session else ""
            raise UserError(
                f"the patient '{row.subject}'{visit} has two files of {row.contrast}:"
                f" '{first.path}' and '{row.path}'",
                where="data.source.path",
                allowed="one file of each contrast for each patient and visit",
                remedy=(
                    "remove the one that is not meant. If these are two patients or visits, write a"
                    " table: gantk data check SCANS --table scans.csv"
                ),
            )


def layout_in_words(rows: Sequence[Row], every: Iterable[Row]) -> str:
    """What a reading says of the images that are used, of all rows of a catalog: `T1 40, T2 40; 40
    patients; 40 pairs; 12 left out (8 masks, 4 versions)`.
    """
    contrasts = Counter(row.contrast for row in rows)
    patients = {row.subject for row in rows} - {""}
    visits = {(row.subject, row.session) for row in rows if row.subject}
    pairs = Counter(row.pair for row in rows if row.pair)
    parts = [", ".join(f"{name} {count}" for name, count in contrasts.most_common())]
    parts.append(count_noun(patients, "patient") if patients else "patients unknown")
    if len(visits) > len(patients):
        parts.append(count_noun(visits, "visit"))
    if len(contrasts) > 1:
        paired = [pair for pair, count in pairs.items() if count > 1]
        parts.append(count_noun(paired, "pair") if paired else "no pairs")

    used = {scan for row in rows for scan in (row.scan, *(row.contrasts or {}).values())}
    others = Counter(row.kind for row in every if row.scan not in used)
    if others:
        kinds = {"image": "of other contrasts", "other": "not readable"}
        named = ", ".join(f"{n} {kinds.get(kind, kind)}" for kind, n in others.most_common())
        parts.append(f"{others.total()} left out ({named})")
    return "; ".join(parts)


def has_one_of_each(rows: Iterable[Row]) -> bool:
    """Whether no two rows are of one contrast."""
    contrasts = [row.contrast for row in rows]
    return len(set(contrasts)) == len(contrasts)


def has_several(rows: Iterable[Row]) -> bool:
    """Whether the rows are of several contrasts."""
    return len({row.contrast for row in rows}) > 1
