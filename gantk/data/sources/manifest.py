"""The data source over a table of images: a CSV (or TSV) with a row for each image, or for each pair."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from gantk.data.items import Record, domain_letters
from gantk.data.resample import SamplingGrid
from gantk.data.sources.contrast_names import MEANING, contrast_in, plain, same_contrast
from gantk.data.sources.csv_rows import read_rows, split_named
from gantk.data.sources.reading import Channels, expected_records, needed_path
from gantk.data.sources.volumes import Item, Onto, Reader, Source, is_volume, paired
from gantk.errors import UserError, did_you_mean
from gantk.formats import files as io
from gantk.formats.files import difference

SHOWN = 5  # wrong rows that a message quotes
LONGEST = 80  # signs of a cell that a message quotes


class Manifest:
    """A CSV of images: a row for each, with the columns path and domain, or a column of paths for each domain.

    Paths are files, or folders of one DICOM series, relative to the CSV. Further columns, where there are any: patient,
    split (train, validation, test), label (a class), mask (a file), pair. Images that share a `pair`, that stand in one
    row, or that are their patient's only two, are registered pairs where they lie on one grid, or with `onto`. Rows of
    other domains are left alone.
    """

    def __init__(
        self,
        domains: tuple[str, ...],
        dims: int,
        size: tuple[int, ...],
        *,
        path: str = "",  # the CSV or TSV file
        onto: Onto = "none",  # resample a pair's other image onto the grid of this one, by their headers
        planes: tuple[float, float] = (0.25, 0.75),  # which slices of a volume 2-D networks see, as shares of its stack
        channels: Channels = None,  # turn all images to gray (1) or colour (3); None = as they are
    ):
        self.path, self.onto, self.planes = needed_path(path, "manifest"), onto, planes
        self.domains = dict(zip(domain_letters(domains), domains, strict=True))
        self.reader = Reader(dims, channels)

    @classmethod
    def accepts(cls, path: Path) -> dict | None:
        """`{"path": ...}` of a .csv or .tsv file."""
        return {"path": str(path)} if path.is_file() and path.suffix.lower() in (".csv", ".tsv") else None

    def sees(self, view: SamplingGrid) -> None:
        """Take the slices of volumes along this plane, at this spacing: asked for before `records`."""
        self.reader.view = view

    def records(self) -> list[Record]:
        """One record for every image, or for every plane of it; all wrong rows are one UserError with their lines."""
        if not self.path.is_file():
            raise UserError(f"the table '{self.path}' does not exist", where="data.source.path")
        columns, rows = read_rows(self.path)
        wide = {letter: self._column(name, letter, columns) for letter, name in self.domains.items()}
        items: list[Item] = []
        wrong: list[str] = []
        read = self._reading(columns, wide)
        taken: dict[tuple[str, str], int] = {}
        for line, row in rows:
            try:
                for item in read(row):
                    first = taken.setdefault((item.letter, item.key), line)
                    if first != line:
                        raise UserError(f"'{item.key}' stands in line {first} already")
                    items.append(item)
            except UserError as error:
                wrong.append(f"line {line}: {error}".rstrip("."))
        if wrong:
            more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
            what = f"{len(wrong)} of {len(rows)} rows of '{self.path}' are wrong: {'; '.join(wrong[:SHOWN])}{more}"
            raise UserError(what, where="data.source.path", remedy="correct these rows, or take them out")
        return expected_records(paired(items, self.onto), self.reader, self.planes, self.domains, self.path)

    @staticmethod
    def _column(domain: str, letter: str, columns: list[str]) -> str | None:
        """The column of a domain's paths, where each domain has one."""
        fitting = [name for name in columns if name == domain.lower()]
        fitting += [name for name in columns if same_contrast(plain(name), plain(domain))]
        fitting += [name for name in columns if name == letter]
        return fitting[0] if fitting else None

    def _reading(self, columns: list[str], wide: dict[str, str | None]) -> Callable[[dict[str, str]], list[Item]]:
        """How rows are read, by the table's columns."""
        if "path" in columns and (len(self.domains) == 1 or "domain" in columns):
            return self._of_image
        if all(wide.values()):
            return lambda row: self._of_pair(row, wide)
        names = " and ".join(f"'{name}'" for name in self.domains.values())
        raise UserError(
            f"'{self.path}' has the columns {', '.join(columns)}",
            where="data.source.path",
            allowed="path and domain, or a column of paths for each domain, here " + names
            if len(self.domains) == 2
            else f"path, or {names}",
        )

    def _of_image(self, row: dict[str, str]) -> list[Item]:
        """The item of a row with a path and a domain; none where it is of another domain."""
        letter = self._letter(row.get("domain", ""))
        if letter is None:
            return []
        item = self._item(row, letter, "path")
        study = row["pair"] if "pair" in row else row.get("patient", "")
        return self._with_mask(row, [replace(item, study=study)])

    def _of_pair(self, row: dict[str, str], wide: dict[str, str]) -> list[Item]:
        """The items of a row with a path for each domain, of which some may be empty."""
        items = [self._item(row, letter, column) for letter, column in wide.items() if row.get(column)]
        if not items:
            raise UserError(f"{' and '.join(wide.values())} are empty")
        pair = row.get("pair") or items[0].key
        return self._with_mask(row, [replace(item, study=pair, subject=items[0].subject) for item in items])

    def _item(self, row: dict[str, str], letter: str, column: str) -> Item:
        source, shown = self._source(row.get(column, ""), column)
        # Without a patient a volume is a scan of somebody, whom its name may tell.
        rest = contrast_in(io.stem_of(shown), set(map(plain, self.domains.values())))[1]
        somebody = (rest or Path(shown).parent.name or io.stem_of(shown)) if is_volume(source) else ""
        return Item(
            letter=letter,
            source=source,
            key=shown,
            subject=row.get("patient") or somebody,
            split=split_named(row.get("split", ""), "column split"),
            label=row.get("label") or None,
        )

    def _letter(self, said: str) -> str | None:
        """The domain that a row names; None: another one."""
        if len(self.domains) == 1 and not said:
            return "image"
        for letter, name in self.domains.items():
            if said.lower() in (name.lower(), letter):
                return letter
        word, names = plain(said), {letter: plain(name) for letter, name in self.domains.items()}
        alike = [letter for letter, name in names.items() if same_contrast(word, name)]
        if alike:
            return alike[0]
        close = did_you_mean(said, [name.lower() for name in self.domains.values()])
        if not said or (close and word not in MEANING):
            raise UserError(f"there is no domain '{said}'", allowed=self.domains.values(), remedy=close)
        return None

    def _source(self, text: str, column: str) -> tuple[Source, str]:
        """What a cell names, and how it is called: relative to the table where it lies below it."""
        if not text:
            raise UserError(f"{column} is empty")
        root = self.path.parent
        path = root / text
        try:
            path.stat()
        except (OSError, ValueError) as error:
            shown = text if len(text) < LONGEST else f"{text[:LONGEST]}..."
            reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be opened: {error.args[-1]}"
            raise UserError(f"'{shown}' {reason}") from error
        shown = (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()
        if path.is_dir():
            series = io.scans(path, recursive=False)
            if len(series) != 1:
                raise UserError(f"'{text}' is a folder of {len(series)} images", allowed="one DICOM series")
            return series[0], shown
        if not path.is_file():
            raise UserError(f"'{text}' is no file")
        if not is_volume(path) and not io.is_image(path):
            raise UserError(f"'{text}' is no image that can be read", allowed=io.readable())
        return path, shown

    def _with_mask(self, row: dict[str, str], items: list[Item]) -> list[Item]:
        """The items of a row with its mask: those on whose grid it lies, all where they are resampled."""
        if not row.get("mask"):
            return items
        mask, _ = self._source(row["mask"], "mask")
        if isinstance(mask, io.Scan):
            raise UserError(f"the mask '{row['mask']}' is a folder", allowed="a file")
        differ = [None if self.onto != "none" else difference(mask, item.source) for item in items]
        if all(differ):
            raise UserError(f"the mask '{row['mask']}' is on another grid than its image: {differ[0]}")
        return [item if differs else replace(item, mask=mask) for item, differs in zip(items, differ, strict=True)]
