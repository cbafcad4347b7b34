"""From a record to what the networks see: brought to size once, kept on disk, mapped by the scan it belongs to."""

from __future__ import annotations

import hashlib
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from gantk.data.cache import Cache, digest
from gantk.data.intensity import PerChannel, to_intensities, to_size
from gantk.data.items import Record
from gantk.data.resample import Resize
from gantk.data.sources.masks import fitted
from gantk.errors import UserError
from gantk.formats.files import files_of

if TYPE_CHECKING:
    from torch import Tensor

    from gantk.recipe.tables import DataTable

Key = tuple[str, str]  # a record's domain and key


class Preparation:
    """How records become network images of `size`; safe to share between threads.

    With a `cache`, all records of one file (or of one set of files) are decoded and brought to size together, and kept
    as one entry: every later epoch and run maps it into memory. What is kept is native intensities, so that another
    intensity mapping needs no new decoding. Entries are named by the files' content, the records' keys, `size`, `fit`
    and `about`: whatever else decides what `Record.read` gives. Computed records (without files) are not kept.
    """

    def __init__(
        self,
        records: Sequence[Record],
        size: tuple[int, ...],
        fit: str,
        *,
        cache: Cache | None = None,
        about: Any = "",  # JSON: the source's options, the view, the code
        intensity: Any = "",  # JSON: the options of the intensity mapping, for what is measured of scans
    ):
        self.size, self.fit, self.cache, self.about, self.intensity = tuple(size), fit, cache, about, intensity
        self._records: dict[Key, Record] = {(record.domain, record.key): record for record in records}
        groups: dict[tuple, list[Record]] = defaultdict(list)
        for record in sorted(records, key=lambda one: one.key):
            if cache is not None and record.files:
                groups[record.domain, record.files].append(record)
        self._group = {(record.domain, record.key): group for group in groups.values() for record in group}
        self._row = {(r.domain, r.key): row for group in groups.values() for row, r in enumerate(group)}
        self._names: dict[tuple, str | None] = {}
        self._stacked: dict[Key, Callable[[], np.ndarray]] = {}
        self._measured: dict[Key, Any] = {}
        self._shapes: dict[Key, tuple[int, ...]] = {}  # of native images, as far as known

    def with_neighbours(self, stacks: Stacks, records: Sequence[Record]) -> None:
        """From now on the images of these records, one set of a split, come with their neighbours as channels."""
        for record in stacks.of([replace(record, read=partial(self._to_size, record)) for record in records]):
            self._stacked[record.domain, record.key] = record.read

    def image(self, record: Record, intensity: Any) -> np.ndarray:
        """(C, *size) float32 in network intensities, by the own mapping of the record's scan where it has one."""
        return to_intensities(self.to_size(record), self.mapping(record, intensity))

    def to_size(self, record: Record) -> np.ndarray:
        """(C, *size) float32 in native intensities; a contrast that the patient lacks is NaN."""
        stacked = self._stacked.get((record.domain, record.key))
        return self._to_size(record) if stacked is None else stacked()

    def mask(self, record: Record) -> np.ndarray | None:
        """The record's mask (1, *size), from 0 to 1; None where it has none."""
        if record.mask is None:
            return None
        group = [one for one in self._group.get((record.domain, record.key), ()) if one.mask is not None]
        sources = [named_files(one.mask) for one in group]
        if group and all(sources):
            files = sorted({file for source in sources for file in source} | set(record.files))
            rows = self._rows("masks", group, files, self._mask)
            if rows is not None:
                return np.array(rows[[one.key for one in group].index(record.key)], dtype=np.float32)
        return self._mask(self._records.get((record.domain, record.key), record))

    def mapping(self, record: Record, intensity: Any) -> Any:
        """The intensity mapping of the scan that a record belongs to: its own where the recipe says so."""
        if getattr(intensity, "per", "set") != "volume":
            return intensity
        return intensity.own(self.measured(record, intensity))

    def measured(self, record: Record, intensity: Any) -> Any:
        """What of a record's scan decides about its mapping, measured once and remembered."""
        record = self._records.get((record.domain, record.key), record)
        scan = record.domain, record.scan_key or record.key
        if scan not in self._measured:
            self._measured[scan] = self.fact(
                "measured", [record], scan, lambda: intensity.measure((record.scan or record.read)())
            )
        return self._measured[scan]

    def fact(self, what: str, records: Sequence[Record], which: Any, make: Callable[[], Any]) -> Any:
        """What `make` learns of these records under the intensity options, JSON: remembered where they have files."""
        contents = self._contents(file for record in records for file in record.files)
        if self.cache is None or not contents or not all(record.files for record in records):
            return make()
        return self.cache.fact(digest(what, self.about, self.intensity, contents, which), make)

    def kept(self, kind: str, record: Record, make: Callable[[Record], np.ndarray]) -> np.ndarray | None:
        """What `make` gives for a record, from the entry that holds it for all records of its file.

        Rows are filled up with zeros to the longest. None where nothing is kept of this record.
        """
        key = record.domain, record.key
        group = self._group.get(key)
        rows = self._rows(kind, group, record.files, make) if group else None
        return None if rows is None else np.array(rows[self._row[key]])

    def _to_size(self, record: Record) -> np.ndarray:
        row = self.kept("images", record, self._read)
        if row is None:
            return self._read(self._records.get((record.domain, record.key), record))
        return row.astype(np.float32)

    def _rows(
        self, kind: str, group: list[Record], files: Iterable[Path], make: Callable[[Record], np.ndarray]
    ) -> np.ndarray | None:
        """The entry of a group, one row for each record; None where it cannot be kept."""
        place = kind, group[0].domain, group[0].key
        if place not in self._names:
            contents = self._contents(files)
            keys = [[record.domain, record.key, record.missing] for record in group]
            names = kind, self.about, self.size, self.fit, contents, keys
            self._names[place] = digest(*names) if contents else None
        name = self._names[place]
        return name and self.cache.rows(name, lambda: _stacked([make(record) for record in group]))

    def _contents(self, files: Iterable[Path]) -> list[str] | None:
        """The hash of every file, or None: one cannot be read, which reading the image will complain of."""
        if self.cache is None:
            return None
        try:
            return [self.cache.content(file) for path in dict.fromkeys(files) for file in files_of(path)]
        except OSError:
            return None

    def _read(self, record: Record) -> np.ndarray:
        pixels = record.read()
        self._shapes[record.domain, record.key] = pixels.shape[1:]
        return to_size(pixels, Resize(pixels.shape[1:], self.size, self.fit))

    def _mask(self, record: Record) -> np.ndarray:
        native = self._shapes.get((record.domain, record.key)) or record.read().shape[1:]
        return fitted(record.mask(), native, self.size, self.fit, record.key)


def _stacked(rows: list[np.ndarray]) -> np.ndarray:
    longest = max(len(row) for row in rows)
    return np.stack([np.pad(row, (0, longest - len(row))) if row.ndim == 1 else row for row in rows])


def named_files(reader: Callable) -> tuple[Path, ...]:
    """The files that one of this package's own readers reads, a `partial` that has them, or items with them, among its
    arguments; () for any other, of which nobody knows what it reads."""
    function = getattr(reader, "func", None)
    if not getattr(function, "__module__", "").startswith("gantk.data."):
        return ()
    found: list[Path] = []
    waiting = [*reader.args, *reader.keywords.values()]
    for value in waiting:
        if isinstance(value, Path):
            found.append(value)
        elif isinstance(value, tuple):
            waiting += value
        elif is_dataclass(value):
            waiting += [getattr(value, each.name) for each in fields(value)]
    return tuple(dict.fromkeys(found))


@lru_cache(maxsize=64)
def code_of(target: Callable) -> str:
    """A hash of the code that reads images: this package's, and that of the module (or package) which defines `target`.

    Changed code may read other pixels from the same file, so it makes entries of its own.
    """
    files = set(Path(__file__).parent.rglob("*.py"))
    module = getattr(sys.modules.get(getattr(target, "__module__", "")), "__file__", None)
    if module:
        inside = (Path(module).parent / "__init__.py").is_file()
        files |= set(Path(module).parent.glob("*.py")) if inside else {Path(module)}
    code = hashlib.sha256()
    for file in sorted(files):
        code.update(file.read_bytes())
    return code.hexdigest()


CACHE = 512 * 2**20  # bytes of slices that are kept for their neighbours


class Stacks:
    """Knows which slice lies beside which: within one domain, subject and folder, by `position`.

    Built of all slices before they are split, so that two slices between which some were left out are no neighbours.
    Slices without a position are a UserError.
    """

    def __init__(self, records: Sequence[Record], neighbours: int):
        without = [record for record in records if record.position is None]
        if without:
            raise UserError(
                f"{len(without)} of {len(records)} images have no place in a stack: the first is '{without[0].key}'",
                where="data.neighbours",
                remedy="set data.neighbours = 0, or use a source of volumes or of numbered slices",
            )
        self.neighbours = neighbours
        stacks: dict[tuple, list[Record]] = defaultdict(list)
        for record in records:
            stacks[record.domain, record.subject, record.key.rpartition("/")[0]].append(record)
        self._place: dict[tuple[str, str], tuple[tuple, int]] = {}
        for name, stack in stacks.items():
            for rank, record in enumerate(sorted(stack, key=lambda one: one.position)):
                self._place[record.domain, record.key] = (name, rank)
        self._slices = _Slices()

    def of(self, records: Sequence[Record]) -> list[Record]:
        """The records of one set with their neighbours: 2k + 1 slices, the first lowest, each with its own channels.

        Where a neighbour is not in the set, the slice nearest to it on the way stands in for it. Masks stay those of
        the middle slice.
        """
        there = {self._place[record.domain, record.key]: record for record in records}
        return [self._with_neighbours(record, there) for record in records]

    def _with_neighbours(self, record: Record, there: dict[tuple, Record]) -> Record:
        name, rank = self._place[record.domain, record.key]
        below, above = [record], [record]
        for distance in range(1, self.neighbours + 1):
            below.append(there.get((name, rank - distance), below[-1]))
            above.append(there.get((name, rank + distance), above[-1]))
        return replace(record, read=partial(self._read, tuple([*below[:0:-1], record, *above[1:]])))

    def _read(self, slices: tuple[Record, ...]) -> np.ndarray:
        """float32 ((2k + 1) C, H, W)."""
        images = [self._slices.read(record) for record in slices]
        if len({image.shape for image in images}) > 1:
            shapes = ", ".join(f"{image.shape} in '{record.key}'" for record, image in zip(slices, images, strict=True))
            raise UserError(f"neighbouring slices differ in size: {shapes}", where="data.neighbours")
        return np.concatenate(images)


class _Slices:
    """The slices read last: each is wanted by all its neighbours. Safe to share between threads."""

    def __init__(self):
        self._kept: OrderedDict[tuple[str, str], np.ndarray] = OrderedDict()
        self._room, self._lock = CACHE, Lock()

    def read(self, record: Record) -> np.ndarray:
        key = (record.domain, record.key)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        image = record.read()
        with self._lock:
            if key not in self._kept:
                self._kept[key] = image
                self._room -= image.nbytes
            while self._room < 0:
                self._room += self._kept.popitem(last=False)[1].nbytes
        return image


def middle(images: Tensor, neighbours: int) -> Tensor:
    """The middle slice's channels of (N, C, *size) images that carry so many neighbours on each side."""
    return images.chunk(2 * neighbours + 1, dim=1)[neighbours]


FITTED = 256  # training images, or scans, that an intensity mapping looks at ...
FITTED_BYTES = 2**31  # ... and how much of them is held in memory


def fitted_mapping(
    table: DataTable, contrasts: tuple[str, ...], shown: list[Record], preparation: Preparation
) -> tuple[Any, int]:
    """The intensity mapping of a domain, fitted to these training images, and their channels."""
    if not shown:
        raise UserError(f"no training images of the domain '{'+'.join(contrasts)}'", where="data.split")
    mapping = table.intensity()
    if len(contrasts) > 1:
        mapping = PerChannel([table.intensity() for _ in contrasts], contrasts, table.dims)
    if getattr(mapping, "per", "set") == "volume":  # each scan once, whichever of its slices are trained on
        shown = list({record.scan_key or record.key: record for record in reversed(shown)}.values())[::-1]
    shown = _thinned(shown, FITTED)
    names = [contrasts, table.mask, [record.key for record in shown]]
    learnt = preparation.fact("fitted", shown, names, lambda: _learnt(table, contrasts, mapping, shown, preparation))
    one = table.intensity.target.from_state
    state = learnt["state"]
    return (PerChannel.from_state(state, one) if "contrasts" in state else one(state)), learnt["channels"]


def _learnt(
    table: DataTable, contrasts: tuple[str, ...], mapping: Any, shown: list[Record], preparation: Preparation
) -> dict[str, Any]:
    """The state of a mapping once it is fitted to these images, and their channels; UserError where they do not fit."""
    first = shown[0].read()
    if getattr(mapping, "per", "set") == "volume":
        _expect_contrasts(contrasts, len(first))
        counts, measured = {}, []
        for record in shown:
            counts.setdefault(len(record.read()), record.key)
            measured.append(preparation.measured(record, mapping))
        _expect_one_count(counts)
        mapping.settle(measured)
    else:
        shown = _thinned(shown, max(1, FITTED_BYTES // first.nbytes))
        images = [record.read() for record in shown]
        _expect_one_count({len(image): record.key for image, record in zip(images, shown, strict=True)})
        _expect_contrasts(contrasts, len(first))
        mapping.fit(images)
    for record in shown if table.mask else ():
        preparation.mask(record)
    return {"state": mapping.state(), "channels": len(first)}


def _expect_contrasts(contrasts: tuple[str, ...], count: int) -> None:
    if len(contrasts) in (1, count):
        return
    what = f"the domain '{'+'.join(contrasts)}' is {len(contrasts)} contrasts, and its images have {count}"
    raise UserError(
        what + (" channels" if count > 1 else " channel"),
        where="data.domains",
        remedy='use the source "contrasts", which takes one file for each contrast',
    )


def _expect_one_count(counts: dict[int, str]) -> None:
    """UserError where images of one domain differ in their channels; `counts` has an example of each."""
    if len(counts) > 1:
        detail = ", ".join(f"{count} in '{key}'" for count, key in counts.items())
        what = f"the images of one domain have different numbers of channels: {detail}"
        raise UserError(what, where="data.source", remedy="set data.source.channels = 1 or 3")


def _thinned(records: list[Record], count: int) -> list[Record]:
    step = max(1, -(-len(records) // count))
    return records[::step]
