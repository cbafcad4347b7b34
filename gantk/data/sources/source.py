"""The base classes of data sources that read files and turn them into records, and the choice of a
source for a path.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

from gantk.catalog.catalog import Case, Catalog, Row, compose_text, encodable
from gantk.catalog.contrasts import contrast_names
from gantk.catalog.domains import NAME_DOMAINS, patient_of, regex_option, relative_to
from gantk.catalog.masks import expect_one_mask, masks_named
from gantk.catalog.question import rows_in_words
from gantk.catalog.scan import Asked, read_folder, rows_of_series
from gantk.catalog.tables import FILL_IN_TABLE
from gantk.data.preparation import Record
from gantk.data.sources.pairing import pair_rows
from gantk.data.sources.reader import FileImage, Reader
from gantk.errors import NothingFound, TooFewImages, UserError, join_first
from gantk.formats import files as io
from gantk.method import domain_letters
from gantk.plugin.spec import Onto

MAX_NAMED = 8  # files or folders in a message


class ImageSource:
    """A source of images, and what it says of them; a subclass sets what differs from these.

    Attributes:
        notes: sentences on images that were left out.
        doubts: what must be answered before a training.
        pairs_by: "names" of pictures alone suggest who is in both domains; or a "table" states the
            pairs.
        planes: the part of each volume whose slices are used, from start to end.
        rows: of the catalog, those of its records; none where images are computed.
        parts: the sources that it joins or wraps.
        drawn: whether images are alike without being copies.
        provenance: what environment.json records of images that it generates.
        layout_in_words: what said whose the images are, and what they show, with counts.
    """

    notes: Sequence[str] = ()
    doubts: Sequence[UserError] = ()
    pairs_by: Literal["", "names", "table"] = ""
    planes: tuple[float, float] = (0.0, 1.0)
    rows: Sequence[Row] = ()
    parts: Sequence[ImageSource] = ()
    drawn: bool = False
    provenance: Mapping[str, Any] = {}
    layout_in_words: str = ""

    @property
    def catalog(self) -> Catalog:
        """All that it found."""
        return Catalog([])

    def records(self) -> list[Record]:
        """The images."""
        raise NotImplementedError

    def nameless(self) -> str:
        """A sentence, if no name says the domains, so that they are called A and B; else ""."""
        return ""


class RecordSource(ImageSource):
    """A source of another package that says nothing but its records."""

    def __init__(self, source: Any):
        self.source = source

    def records(self) -> list[Record]:
        """The images."""
        return self.source.records()


class _Defaults(ImageSource):
    """Defaults for options that a source of files lacks."""

    read_by: str = ""  # what says whose the images are, and what they show, if no layout does
    layout: str | dict[str, str] = ""
    # contrast -> further words for it, of [data.words]
    own_words: Mapping[str, Sequence[str]] = {}
    onto: Onto = "none"
    patient: str = ""
    mask: str = ""
    a: str = ""
    b: str = ""


@dataclass
class FileSource(_Defaults):
    """A source of files: its fields are its options; its `catalog` is what it found, and the rows
    of its domains become records.

    A class method `accepts(path)`, which returns the options for that path, or None, makes it one
    of those that `source_for` tries.
    """

    domains: tuple[str, ...]
    dims: int
    size: tuple[int, ...]
    _: KW_ONLY
    path: str = ""  # folder that contains the images

    def __post_init__(self):
        kind = type(self).__name__.lower()
        if not self.path:
            raise UserError(
                f"the source '{kind}' has no path to its images",
                where="data.source.path",
                remedy=f'use --data PATH, or set for example source = {{ name = "{kind}", path = "data" }}',
            )

        self.root = Path(self.path)
        self.folder = self.root  # that keys and the rows of a run are relative to
        # of a run, which is resumed or evaluated: its rows as JSON
        self.recorded: Sequence[Mapping[str, Any]] | None = None
        self.pattern = regex_option(self.patient)
        self.names = dict(zip(domain_letters(self.domains), self.domains, strict=True))
        # the contrasts of each domain, one channel each
        self.contrasts = {x: contrast_names(name) for x, name in self.names.items()}
        self.wanted = [*dict.fromkeys(name for names in self.contrasts.values() for name in names)]
        self.several = any(len(names) > 1 for names in self.contrasts.values())
        self.reader = Reader(self.dims)

    def find_rows(self) -> list[Row]:
        """A row for each image of the recipe's domains, with its pair; UserError where a domain has
        none.
        """
        found = {row.contrast for row in self.catalog.of_kind("image")}
        lacking = [contrast for contrast in self.wanted if contrast not in found]
        if lacking:
            raise self._no_images(lacking)
        rows = self.rows_of_domains()
        if not self.several:
            self.set_pairs(rows)
        return rows

    def set_pairs(self, rows: Sequence[Row]) -> None:
        """Set the pairs: those that are known, on one grid."""
        pair_rows(rows, self.onto)

    def _no_images(self, lacking: Sequence[str]) -> NothingFound:
        """The error for contrasts without images, with what was found and what helps."""
        used = self.catalog.of_kind("image")
        rows = used or self.catalog.rows
        names = join_first([repr(self.key_of(row.path)) for row in rows], most=MAX_NAMED)
        found = f"{names} ({self.catalog.in_words})" if rows else "no images"
        what = (
            f"no file in '{self.root}' is named {' or '.join(map(repr, lacking))}. Found: {found}"
        )
        remedy = f"{NAME_DOMAINS}. {FILL_IN_TABLE}"
        if rows and self.layout and not used:
            what = f"the layout {self.layout} explains no image in '{self.root}', such as {names}"
            remedy = "correct the line, or leave it out, so that others are proposed"
        return NothingFound(
            what,
            where="data.source.path",
            allowed="files that a layout explains; `gantk list layout` has ours",
            remedy=remedy,
        )

    @cached_property
    def texts(self) -> dict[str, str]:
        """Contrast -> the word, folder or glob that the options a and b give."""
        found: dict[str, str] = {}
        for option, contrasts in zip("ab", self.contrasts.values(), strict=False):
            text = getattr(self, option)
            if not text:
                continue
            words = contrast_names(text) if len(contrasts) > 1 else (text,)
            if len(words) != len(contrasts):
                raise UserError(
                    f"'{text}' does not name {len(contrasts)} contrasts",
                    where=f"data.source.{option}",
                    allowed="words joined by +",
                )
            found |= zip(contrasts, words, strict=True)
        return found

    def option_of(self, contrast: str) -> str:
        """The option that names the images of a contrast."""
        return "a" if contrast in next(iter(self.contrasts.values())) else "b"

    def rows_of_domains(self) -> list[Row]:
        """A row for each image of the domains; where one has several contrasts, for each case."""
        if self.several:
            return self._rows_of_cases()
        return [
            self.row_of(letter, row)
            for row in self.catalog.of_kind("image")
            for letter, contrasts in self.contrasts.items()
            if row.contrast in contrasts
        ]

    def _rows_of_cases(self) -> list[Row]:
        """A row for each domain and case, with a channel for each contrast."""
        cases = self.catalog.cases(self.wanted, lambda row: row.pair or row.key)
        rows = []
        beside = Counter(case.folder for case in cases)
        for case in cases:
            files = {name: self._only(case, name) for name in self.wanted if name in case.rows}
            self._expect_one_grid([*files.values()])
            key = self._key_of_case(case, alone=beside[case.folder] == 1)
            pair = key if len(self.domains) > 1 else ""
            for letter, contrasts in self.contrasts.items():
                present = [files[name] for name in contrasts if name in files]
                if present:
                    scans = {
                        name: files[name].scan if name in files else None for name in contrasts
                    }
                    row = replace(present[0], letter=letter, key=key, pair=pair, contrasts=scans)
                    rows.append(row)
        return rows

    def _key_of_case(self, case: Case, alone: bool) -> str:
        """The folder of a case, and its name where it is not `alone` there."""
        place = relative_to(case.folder, self.folder.absolute())
        folder = "" if place == Path() else place.as_posix()
        key = folder if alone else f"{folder}/{case.name}".strip("/")
        return key or self.folder.resolve().name

    def _only(self, case: Case, contrast: str) -> Row:
        """The only image of a contrast of a case; UserError for two."""
        row, *others = case.rows[contrast]
        if others:
            raise UserError(
                f"'{row.path.parent}' contains two files of {contrast}: '{row.path.name}' and"
                f" '{others[0].path.name}'",
                where="data.source.path",
                remedy="remove one of them or, if one is a mask, set data.source.mask to a word of its"
                f" name. {FILL_IN_TABLE}",
            )
        return row

    def _expect_one_grid(self, rows: Sequence[Row]) -> None:
        """UserError for contrasts of a case on different grids."""
        first, *others = rows
        for row in others:
            if differs := io.grids_differ(first.outline, row.outline):
                raise UserError(
                    f"'{first.path}' and '{row.path}' are of one patient, but on different voxel grids:"
                    f" {differs}",
                    where="data.source.path",
                    remedy="first register and resample the files of each patient onto one grid",
                )

    def row_of(self, letter: str, row: Row) -> Row:
        """A row of the catalog as an image of a domain."""
        key = row.key or self.key_of(Path(row.scan.name if row.scan.is_series else row.path))
        return replace(row, letter=letter, key=key)

    def series_rows(self) -> list[Row]:
        """A row for each series of files below the root, filled from its header."""
        scans = [scan for scan in io.scans(self.root) if not io.is_image(scan.path)]
        return rows_of_series(scans, self.wanted)

    def set_patients(self, rows: Iterable[Row]) -> None:
        """Set the patients that the option `patient` finds in paths."""
        if self.pattern:
            for row in rows:
                key = compose_text(relative_to(row.scan.path, self.folder).as_posix())
                row.subject = patient_of(key, self.pattern)

    def known_rows(self) -> list[Row]:
        """The rows of a run whose files exist; of a new run those of `find_rows`."""
        if self.recorded is None:
            found = self.find_rows()
            self.layout_in_words = self.catalog.in_words
            if self.read_by:
                self.layout_in_words = self._in_words(found)
            return found
        rows = [Row.of_json(row, self.folder) for row in self.recorded]
        return [row for row in rows if all(map(os.path.exists, row.files_with_mask))]

    def describe_without(self, patients: Collection[str]) -> None:
        """Count in `layout_in_words` the images of other patients alone."""
        if self.layout_in_words:
            self.layout_in_words = self._in_words(self.rows, patients)

    def _in_words(self, used: Iterable[Row], gone: Collection[str] = ()) -> str:
        """What the catalog contains, of which rows are `used`, without patients who are `gone`."""
        rows = []
        for row in self.catalog:
            why = row.why
            if row.kind == "image" and row.subject in gone:
                why = "of data.leave_out"
            elif row.kind == "image" and not self.read_by and row.contrast not in self.wanted:
                why = row.contrast
            rows.append(replace(row, kind="left out", why=why) if why else row)
        pairs = Counter(row.pair for row in used if row.pair and row.subject not in gone)
        count = sum(images > 1 for images in pairs.values())
        return rows_in_words(self.read_by or self.catalog.layout, rows, count)

    def key_of(self, path: Path) -> str:
        """The key of a file: its path relative to the folder, if it is below it."""
        key = relative_to(path, self.folder).as_posix()
        return key if key != "." else self.folder.resolve().name

    def records(self) -> list[Record]:
        """One record for every row, or for every plane of it.

        The `position` of a picture is its index among those of the same domain, patient and split;
        whole volumes have none. UserError where a domain has fewer than two images, so that none
        can be held out.
        """
        records = []
        pictures: Counter[tuple[str, str, str]] = Counter()
        self.rows = self.known_rows()
        for row in self.rows:
            for plane in self.reader.planes(row, self.planes):
                position = row.position if plane is None else plane
                if position is None and not row.is_volume:
                    stack = (row.letter, row.subject, row.split)
                    position = row.position = pictures[stack]
                    pictures[stack] += 1
                records.append(self._record(row, plane, position))

        for letter, name in sorted(self.names.items()):
            self._expect_two([record.key for record in records if record.domain == letter], name)

        return records

    def _expect_two(self, keys: Sequence[str], name: str) -> None:
        """UserError where a domain has fewer than two images."""
        if len(keys) >= 2:
            return

        what = "only one image" if keys else "no images"
        remedy = (
            "add images: two or more of each domain are needed; of a single volume use all slices:"
            " --set data.source.planes=[0,1]"
        )
        of = f" of {name}" if name else ""
        what += f"{of} in '{self.root}'" + "".join(f": '{key}'" for key in keys)
        error = TooFewImages if keys else NothingFound
        raise error(what, where="data.source.path", allowed=io.readable(), remedy=remedy)

    def _record(self, row: Row, plane: int | None, position: float | None) -> Record:
        tail = "" if plane is None else f"/plane-{plane:03d}"
        file, *others = row.files_to_read
        key = encodable(row.key)
        return Record(
            domain=row.letter,
            subject=row.subject,
            key=key + tail,
            read=partial(self.reader.read, row, plane),
            pair=row.pair + tail if row.pair else None,
            position=None if position is None else float(position),
            path=file,
            others=tuple(others),
            split=row.split or None,
            label=row.label or None,
            mask=partial(self.reader.mask, row, plane) if row.mask else None,
            mask_files=(row.mask,) if row.mask else (),
            scan=None if plane is None else partial(self.reader.scan, row),
            scan_key="" if plane is None else key,
            missing=tuple(name for name, each in (row.contrasts or {}).items() if not each),
            file=FileImage(self.reader, row, plane),
        )


@dataclass
class VolumeSource(FileSource):
    """A source whose volumes can be sliced along any plane."""

    _: KW_ONLY
    # part of each volume whose slices 2-D networks use: start and end as shares of the stack
    planes: tuple[float, float] = (0.25, 0.75)

    def catalog_of_entities(self, masks: Sequence[Path]) -> Catalog:
        """The catalog by the entities of BIDS, without these masks."""
        paths = io.files_below(self.root, True, bool)
        images = [path for path in paths if io.is_image(path) and path not in masks]
        return read_folder(self.root, images, Asked(self.wanted, "BIDS", self.own_words), paths)

    def masks_among(self, images: Sequence[Path]) -> list[Path]:
        """The images with the name of masks; UserError where the option `mask` names none."""
        return masks_named(images, self.root, self.mask)

    def mask_of(self, image: Path, masks: Sequence[Path]) -> Path | None:
        """The only one of an image's masks; UserError for several, or for one on another grid where
        images stay on theirs.
        """
        expect_one_mask(masks, image)
        if not masks:
            return None
        if self.onto == "none" and (differs := io.difference(masks[0], image)):
            raise UserError(
                f"the mask '{masks[0]}' and its image '{image}' are on different voxel grids: {differs}",
                where="data.source.mask",
                remedy="resample the mask onto the grid of its image, or leave both out",
            )
        return masks[0]


def file_sources(source: ImageSource) -> Iterator[FileSource]:
    """The sources of files that a source is or, by its `parts`, joins or wraps."""
    if isinstance(source, FileSource):
        yield source
    for part in source.parts:
        yield from file_sources(part)


def source_for(path: Path, own: str | None = None, where: str = "--data") -> dict:
    """The registered source that reads `path`, as a recipe's table: `{"name": "files", "path": ...}`.

    The first that accepts `path`: the recipe's `own`, then those of other packages, then the
    bundled ones, `files` last. UserError where none does; `where` names the path.
    """
    from gantk.plugin.loader import registry

    def preference(entry: Any) -> tuple:
        return entry.name != own, entry.name == "files", entry.owner == "gantk", entry.name

    for entry in sorted(registry().of_kind("source"), key=preference):
        try:
            source = entry.load()
        except UserError:  # a plugin that fails to load must not hide the other sources
            continue
        accepts = getattr(source, "accepts", lambda path: None)
        try:
            if (options := accepts(path)) is not None:
                return {"name": entry.name, **options}
        except UserError:
            raise
        except Exception as error:
            warnings.warn(
                str(entry.refusal(f"is ignored, because accepts('{path}') failed", error)),
                stacklevel=2,
            )

    remedy = "run `gantk list source` to see which data can be used"
    if not path.exists():
        remedy = "check the spelling of the path"
    raise UserError(_nothing_fits(path), where=where, remedy=remedy)


def _nothing_fits(path: Path) -> str:
    """A sentence on why no data source accepts a path."""
    if not path.exists():
        return f"'{path}' does not exist"

    if path.is_file():
        return (
            f"'{path}' is a file, but data are given as a folder (unpack archives first) or as a CSV"
            " that lists the images"
        )

    kinds = Counter(io.suffix_of(file) or "no suffix" for file in io.files_below(path, True, bool))
    contents = ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common(6)) or "nothing"
    if kinds.keys() & {*io.ARCHIVES}:
        contents += ". Unpack the archives first"

    return f"'{path}' contains no readable images ({io.readable()}). It contains {contents}"
