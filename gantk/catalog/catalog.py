"""The table of images below a folder: a row for each, whose cells say which rule filled them."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gantk.catalog.tables import csv_text
from gantk.errors import UserError, count_noun
from gantk.files import write_output
from gantk.formats.files import is_volume, unread_kind
from gantk.formats.image import Scan

Kind = Literal["image", "mask", "version", "other"]


@dataclass(slots=True, eq=False)
class Row:
    """One image and what is known of it; an empty cell is not known.

    Attributes:
        files: the file, or the files of a DICOM series.
        contrast: what it shows, such as "T1", or the name of a recipe's domain.
        subject: the patient.
        session: the visit of the patient.
        kind: "image"; "mask"; "version", made from or replaced by another image of the table;
            "other", a file that is not used.
        split: "train", "validation" or "test", where folders say so.
        label: the class, such as "tumour".
        volume: which one of a file of several volumes, counted from 0.
        pair: images of one subject that share it show the same anatomy, if they share a grid.
        mask: the file of its lesion mask, where it is known.
        why: column -> the rule that filled the cell, or left it empty.
        place: the folders, without those of contrasts, splits and classes.
        stem: the name without suffix and contrast.
        series: the DICOM series; None for a file.
        line: of the table that lists it.
    """

    files: tuple[Path, ...]
    contrast: str = ""
    subject: str = ""
    session: str = ""
    kind: Kind = "image"
    split: str = ""
    label: str = ""
    pair: str = ""
    mask: Path | None = None
    volume: int | None = None
    why: dict[str, str] = field(default_factory=dict)
    place: tuple[str, ...] = ()
    stem: str = ""
    series: Scan | None = None
    line: int = 0

    @property
    def path(self) -> Path:
        """The first file."""
        return self.files[0]

    @property
    def is_volume(self) -> bool:
        """Whether its file may hold three axes."""
        return self.series is not None or len(self.files) > 1 or is_volume(self.path)

    def scan_below(self, root: Path) -> Scan:
        """What `gantk.formats.files.read` reads, named by its path below `root`."""
        if self.series is not None:
            return self.series
        return Scan(self.path, self.files, os.path.relpath(self.path, root).replace(os.sep, "/"))

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
        """The rules that filled its cells, by the names of a table's columns."""
        names = {"contrast": "domain", "subject": "patient"}
        return {names.get(column, column): rule for column, rule in self.why.items()}

    def fill(self, column: str, value: str, rule: str) -> None:
        """Set a cell and the rule that filled it."""
        setattr(self, column, value)
        self.why[column] = rule


@dataclass
class Case:
    """The images of one subject and visit, by contrast."""

    name: str
    rows: dict[str, list[Row]]

    @property
    def is_numbered(self) -> bool:
        """Whether its name has a digit, as those of most patients have."""
        return any(map(str.isdigit, self.name))

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
        folder = table.absolute().parent
        names = list(columns)
        cells = [[COLUMNS[name](row, folder) for name in names] for row in self]
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


def _relative(path: Path | None, folder: Path) -> str:
    if path is None:
        return ""
    whole = path.absolute()
    return (whole.relative_to(folder) if whole.is_relative_to(folder) else whole).as_posix()


# columns of a table -> the cell of a row, for a table in a folder
COLUMNS: dict[str, Callable[[Row, Path], str]] = {
    "path": lambda row, folder: _relative(row.path, folder),
    "domain": lambda row, folder: row.contrast,
    "patient": lambda row, folder: row.subject,
    "split": lambda row, folder: row.split,
    "label": lambda row, folder: row.label,
    "mask": lambda row, folder: _relative(row.mask, folder),
    "pair": lambda row, folder: row.pair,
    "why": lambda row, folder: "; ".join(f"{name}: {rule}" for name, rule in row.rules.items()),
}


def unread_rows(files: Iterable[Path]) -> list[Row]:
    """A row of the kind "other" for each of these files that is an image which no format reads."""
    rows = []
    for file in files:
        kind = unread_kind(file)
        if kind is not None:
            rows.append(Row((file,), kind="other", why={"kind": kind.name}))
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


def has_one_of_each(rows: Iterable[Row]) -> bool:
    """Whether no two rows are of one contrast."""
    contrasts = [row.contrast for row in rows]
    return len(set(contrasts)) == len(contrasts)


def has_several(rows: Iterable[Row]) -> bool:
    """Whether the rows are of several contrasts."""
    return len({row.contrast for row in rows}) > 1
