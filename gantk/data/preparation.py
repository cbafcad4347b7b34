"""Records, one image each, and how they become what networks see: brought to size once and cached, with neighbours."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gantk.data.cache import Cache, digest
from gantk.data.intensity import PerChannel, to_intensities, to_size
from gantk.data.resample import Resize
from gantk.errors import UserError
from gantk.formats.files import files_of

if TYPE_CHECKING:
    from gantk.recipe.tables import DataTable

FITTED = 256  # training images, or scans, that an intensity mapping looks at ...
FITTED_BYTES = 2**31  # ... and how much of them is in memory at a time


@dataclass(frozen=True)
class Record:
    """One image that is read when it is needed.

    `read` returns float32 (C, *spatial) in the native intensities and at the native size. What it gives of files
    depends on these, its key and the source's options alone: it is kept on disk (data.cache).
    """

    domain: str  # "a", "b", or "image" where the source has one domain
    subject: str  # patient; "" where unknown
    key: str  # unique within its domain: a relative path, or "subject-003/slice-042"
    read: Callable[[], np.ndarray]
    pair: str | None = None  # records of a and b with the same pair are registered with each other
    position: float | None = None  # order inside a stack of slices
    path: Path | None = None  # file behind it; None where it is computed
    split: str | None = None  # "train", "validation" or "test" where the folders themselves say so
    mask: Callable[[], np.ndarray] | None = None  # float32 (1, *spatial) of 0 and 1: lesions, where known
    label: str | None = None  # class, such as "tumour"; None where unknown
    missing: tuple[str, ...] = ()  # contrasts of the domain that this patient lacks; their channels are NaN
    others: tuple[Path, ...] = ()  # further files behind it: one for each contrast beyond the first
    scan: Callable[[], np.ndarray] | None = None  # the whole scan (C, D, H, W) of which this is a slice; None: `read`
    scan_key: str = ""  # names that scan within its domain; "" where this is no slice of one
    mask_files: tuple[Path, ...] = ()  # what `mask` reads, so that masks are kept in the cache too

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that `read` reads; none where the image is computed."""
        return (self.path, *self.others) if self.path is not None else ()


def domain_letters(domains: tuple[str, ...]) -> tuple[str, ...]:
    """`("a", "b")` for two domains, `("image",)` for one."""
    return ("image",) if len(domains) == 1 else ("a", "b")


def contrast_names(domain: str) -> tuple[str, ...]:
    """The contrasts of a domain's human name, one channel each: `"T1+FLAIR"` is `("T1", "FLAIR")`."""
    return tuple(name.strip() for name in domain.split("+") if name.strip()) or (domain,)


class Preparation:
    """How records become network images of `size`; safe to share between threads.

    With a `cache`, all records of one file (or of one set of files) are decoded and brought to size together, and kept
    as one entry: every later epoch and run maps it into memory. What is kept is native intensities, so that another
    intensity mapping needs no new decoding. Entries are named by the files' content, the records' keys, `size`, `fit`
    and `about`: whatever else decides what `Record.read` returns. Computed records (without files) are not kept.
    """

    def __init__(
        self,
        records: Sequence[Record],
        size: tuple[int, ...],
        fit: str,
        *,
        cache: Cache | None = None,
        about: Any = "",  # JSON: the source's options, plane and spacing, versions of the code that reads
        intensity: Any = "",  # JSON: the options of the intensity mapping, for what is measured of scans
    ):
        self.size, self.fit, self.cache, self.about, self.intensity = tuple(size), fit, cache, about, intensity
        groups: dict[Hashable, list[Record]] = defaultdict(list)
        for record in sorted(records, key=lambda one: one.key):
            if cache is not None and record.files:
                groups[record.domain, record.files].append(record)
        self._places = {_id(record): (group, row) for group in groups.values() for row, record in enumerate(group)}
        self._names: dict[Hashable, str | None] = {}  # of entries
        self._measured: dict[Hashable, Any] = {}
        self._shapes: dict[Hashable, tuple[int, ...]] = {}  # of native images, as far as known
        self.stacks: dict[Hashable, list[Record]] = {}  # the slices that a record's image consists of, see `stacked`

    def image(self, record: Record, intensity: Any) -> np.ndarray:
        """(C, *size) float32 in network intensities, by the own mapping of the record's scan where it has one."""
        return to_intensities(self.to_size(record), self.mapping(record, intensity))

    def to_size(self, record: Record) -> np.ndarray:
        """(C, *size) float32 in native intensities, neighbours as channels; a contrast that is not there is NaN."""
        return np.concatenate([self._to_size(one) for one in self.stacks.get(_id(record), [record])])

    def mask(self, record: Record) -> np.ndarray | None:
        """The record's mask (1, *size), from 0 to 1, 0 in the padding; None where it has none."""
        if record.mask is None:
            return None
        row = self.kept("masks", record, self._mask) if record.mask_files else None
        return self._mask(record) if row is None else row.astype(np.float32)

    def mapping(self, record: Record, intensity: Any) -> Any:
        """The intensity mapping of the scan that a record belongs to: its own where the recipe says so."""
        if getattr(intensity, "per", "set") != "volume":
            return intensity
        return intensity.own(self.measured(record, intensity))

    def measured(self, record: Record, intensity: Any) -> Any:
        """The figures of a record's scan that its mapping depends on, measured once and remembered."""
        scan = record.domain, record.scan_key or record.key
        if scan not in self._measured:
            read = record.scan or record.read
            self._measured[scan] = self.fact("measured", [record], scan, lambda: intensity.measure(read()))
        return self._measured[scan]

    def fact(self, what: str, records: Sequence[Record], which: Any, make: Callable[[], Any]) -> Any:
        """The JSON that `make` finds out about these records under the intensity options, remembered by their files."""
        contents = self._contents(file for record in records for file in record.files)
        if not contents or not all(record.files for record in records):
            return make()
        return self.cache.fact(digest(what, self.about, self.intensity, contents, which), make)

    def kept(self, kind: str, record: Record, make: Callable[[Record], np.ndarray]) -> np.ndarray | None:
        """The array that `make` returns for a record, from the entry that holds it for all records of its file.

        One-dimensional ones are filled up with zeros to the longest. None where nothing is kept of this record.
        """
        group, row = self._places.get(_id(record), (None, 0))
        if group is None:
            return None
        entry = kind, _id(group[0])
        if entry not in self._names:
            contents = self._contents((*record.files, *(record.mask_files if kind == "masks" else ())))
            keys = [[one.domain, one.key, one.missing] for one in group]
            self._names[entry] = contents and digest(kind, self.about, self.size, self.fit, contents, keys)
        name = self._names[entry]
        rows = self.cache.rows(name, lambda: _equally_long([make(one) for one in group])) if name else None
        return None if rows is None else np.array(rows[row])

    def _to_size(self, record: Record) -> np.ndarray:
        row = self.kept("images", record, self._read)
        return self._read(record) if row is None else row.astype(np.float32)

    def _contents(self, files: Iterable[Path]) -> list[str] | None:
        """The hash of every file; None without a cache, or where one cannot be read: reading the image will say so."""
        if self.cache is None:
            return None
        try:
            return [self.cache.content(file) for path in dict.fromkeys(files) for file in files_of(path)]
        except OSError:
            return None

    def _read(self, record: Record) -> np.ndarray:
        pixels = record.read()
        self._shapes[_id(record)] = pixels.shape[1:]
        return to_size(pixels, Resize(pixels.shape[1:], self.size, self.fit))

    def _mask(self, record: Record) -> np.ndarray:
        native, mask = self._shapes.get(_id(record)) or record.read().shape[1:], record.mask()
        if mask.shape != (1, *native):
            sides = " x ".join(map(str, mask.shape[1:])), " x ".join(map(str, native))
            raise UserError(f"the mask of '{record.key}' is {sides[0]}, and its image {sides[1]}", where="data.mask")
        return Resize(native, self.size, self.fit).forward(mask.astype(np.float32), fill=0.0)


def _id(record: Record) -> tuple[str, str]:
    return record.domain, record.key


def _equally_long(rows: list[np.ndarray]) -> np.ndarray:
    longest = max(len(row) for row in rows)
    return np.stack([np.pad(row, (0, longest - len(row))) if row.ndim == 1 else row for row in rows])


def version_of(target: Any) -> Any:
    """The version of a source's or mapping's code, part of the names of its entries: other code, other entries.

    That is its attribute `version`, to be raised when it gives other values for the same files. A plugin's part without
    one goes by a hash of its module, so that nobody who writes a source is shown images of its earlier self.
    """
    module = sys.modules[target.__module__]
    if hasattr(target, "version") or module.__name__.startswith("gantk."):
        return getattr(target, "version", 1)
    return hashlib.sha256(inspect.getsource(module).encode()).hexdigest()


def stacked(records: Sequence[Record], sets: Iterable[Sequence[Record]], neighbours: int) -> Mapping:
    """2.5-D: the 2k + 1 slices, the lowest first, that each record's image consists of, by domain and key.

    Which slice lies beside which is found among all `records`, within one domain, subject and folder, by `position`:
    slices between which some were left out are no neighbours. Where a neighbour is not in a record's own set, the slice
    nearest to it on the way stands in for it. Masks stay those of the middle slice.
    """
    without = [record for record in records if record.position is None]
    if without:
        what = f"{len(without)} of {len(records)} images have no place in a stack: the first is '{without[0].key}'"
        remedy = "set data.neighbours = 0, or use a source of volumes or of numbered slices"
        raise UserError(what, where="data.neighbours", remedy=remedy)
    stacks: dict[Hashable, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda one: one.position):
        stacks[record.domain, record.subject, record.key.rpartition("/")[0]].append(record)
    places = {_id(record): (name, k) for name, stack in stacks.items() for k, record in enumerate(stack)}
    found = {}
    for members in sets:
        there = {places[_id(record)]: record for record in members}
        for record in members:
            (name, place), below, above = places[_id(record)], [record], [record]
            for distance in range(1, neighbours + 1):
                below.append(there.get((name, place - distance), below[-1]))
                above.append(there.get((name, place + distance), above[-1]))
            found[_id(record)] = [*below[:0:-1], *above]
    return found


def fitted_mapping(
    table: DataTable, contrasts: tuple[str, ...], shown: list[Record], preparation: Preparation
) -> tuple[Any, int]:
    """The intensity mapping of a domain, fitted to these training images and to nothing else, and their channels."""
    if not shown:
        raise UserError(f"no training images of the domain '{'+'.join(contrasts)}'", where="data.split")
    mapping = table.intensity()
    if len(contrasts) > 1:
        mapping = PerChannel([table.intensity() for _ in contrasts], contrasts, table.dims)
    if getattr(mapping, "per", "set") == "volume":  # each scan once, whichever of its slices are trained on
        shown = list({record.scan_key or record.key: record for record in reversed(shown)}.values())[::-1]
    shown = _thinned(shown, FITTED)

    def learn() -> dict[str, Any]:
        channels = _fit(mapping, contrasts, shown, preparation)
        for record in shown if table.mask else ():  # one on another grid is an error now, not in the middle of training
            preparation.mask(record)
        return {"state": mapping.state(), "channels": channels}

    learnt = preparation.fact("fitted", shown, [contrasts, table.mask, [record.key for record in shown]], learn)
    return mapping_from(table, learnt["state"]), learnt["channels"]


def mapping_from(table: DataTable, state: dict[str, Any]) -> Any:
    """The fitted mapping of one domain that `state` describes, of one contrast or of several."""
    one = table.intensity.target.from_state
    return PerChannel.from_state(state, one) if "contrasts" in state else one(state)


def _fit(mapping: Any, contrasts: tuple[str, ...], shown: list[Record], preparation: Preparation) -> int:
    """Fit a mapping to images; their channels. UserError where they differ in these, or are not the domain's."""
    first, by_scan = shown[0].read(), getattr(mapping, "per", "set") == "volume"
    if len(contrasts) not in (1, len(first)):
        what = f"the domain '{'+'.join(contrasts)}' is {len(contrasts)} contrasts, and its images have "
        what += f"{len(first)} channel{'s' * (len(first) > 1)}"
        remedy = 'use the source "contrasts", which takes one file for each contrast'
        raise UserError(what, where="data.domains", remedy=remedy)
    counts, found = {}, []
    for record in shown if by_scan else _thinned(shown, max(1, FITTED_BYTES // first.nbytes)):
        image = record.read()
        counts.setdefault(len(image), record.key)
        found.append(preparation.measured(record, mapping) if by_scan else image)
    if len(counts) > 1:
        detail = ", ".join(f"{count} in '{key}'" for count, key in counts.items())
        what = f"the images of one domain have different numbers of channels: {detail}"
        raise UserError(what, where="data.source", remedy="set data.source.channels = 1 or 3")
    (mapping.fit_from if by_scan else mapping.fit)(found)
    return len(first)


def _thinned(records: list[Record], count: int) -> list[Record]:
    return records[:: max(1, -(-len(records) // count))]
