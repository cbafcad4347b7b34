"""`Record`, which describes one image, and `Preparation`, which reads, resizes and caches images
and maps them to network intensities.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gantk.data.cache import Cache, digest
from gantk.data.intensity import IntensityMapping
from gantk.errors import UserError, count_noun
from gantk.files import sha256_of
from gantk.formats.files import files_of
from gantk.prepare.grid import FitMode

# raise it when the same file gives other pixels, or other intensities: part of the cache's keys
VERSION = 6


RecordId = tuple[str, str]  # domain and key, which identify a record


@dataclass(frozen=True, slots=True)
class Record:
    """One image of a data source, which is read on demand.

    Attributes:
        domain: "a" or "b", or "image" if the source has one domain.
        subject: name of the patient; "" if it is unknown.
        key: name of the image, unique in its domain, such as a relative path or
            "subject-003/slice-042".
        read: returns the image, float32 (C, *spatial) in the units of the file, at its own size.
        pair: name that registered records of `a` and `b` share.
        position: order in a stack of slices.
        path: the file; None if the image is computed.
        split: "train", "validation" or "test", if the folders define it.
        mask: returns the lesion mask, float32 (1, *spatial) of 0 and 1.
        label: class, such as "tumour"; None if it is unknown.
        missing: contrasts of the domain that the patient lacks. Their channels are NaN.
        others: further files of the image, one for each contrast after the first.
        scan: returns the whole scan (C, D, H, W) of this slice; None: `read` does.
        scan_key: name of that scan, unique in its domain; "" if this is not a slice.
        mask_files: the files that `mask` reads.
        for_training: whether methods train on it. False for real images that generated ones replace.
        for_scores: whether scores count it as a real image. False for generated images.
        file: the image in its file, as `gantk translate` reads it: a
            `gantk.data.sources.reader.FileImage`; None if it is not a whole file, or computed.

    What `read` returns depends only on the files, the key and the options of the source.
    """

    domain: str  # "a", "b", or "image" where the source has one domain
    subject: str  # patient; "" where unknown
    key: str  # unique within its domain: a relative path, or "subject-003/slice-042"
    # float32 (C, *spatial) in native intensities, at the native size
    read: Callable[[], np.ndarray]
    pair: str | None = None  # records of a and b with the same pair are registered with each other
    position: float | None = None  # order inside a stack of slices
    path: Path | None = None  # file behind it; None where it is computed
    split: str | None = None  # "train", "validation" or "test" where the folders themselves say so
    # float32 (1, *spatial) of 0 and 1: lesions, where known
    mask: Callable[[], np.ndarray] | None = None
    label: str | None = None  # class, such as "tumour"; None where unknown
    # contrasts of the domain that this patient lacks; their channels are NaN
    missing: tuple[str, ...] = ()
    others: tuple[Path, ...] = ()  # further files behind it: one for each contrast beyond the first
    # reads the whole scan (C, D, H, W) of this slice; None: `read`
    scan: Callable[[], np.ndarray] | None = None
    scan_key: str = ""  # names that scan within its domain; "" if this is not a slice
    mask_files: tuple[Path, ...] = ()  # what `mask` reads, so that masks are kept in the cache too
    for_training: bool = True  # False: a real image that generated ones replace in training
    for_scores: bool = True  # False: a generated image, which scores must not take for a real one
    # the image in its file, a FileImage; None where `read` is all there is
    file: Any = field(default=None, compare=False, repr=False)

    @property
    def id(self) -> RecordId:
        """What identifies it."""
        return self.domain, self.key

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that `read` reads; none where the image is computed."""
        return (self.path, *self.others) if self.path is not None else ()


Pair = dict[str, Record]  # by domain, "a" and "b"


def patients_of(records: Iterable[Record]) -> set[str]:
    """The names of the patients, without the empty name of an unknown one."""
    return {record.subject for record in records} - {""}


def letter_of(key: Any, letters: Mapping[str, str]) -> str | None:
    """The letter of the domain that a key names, by name or letter; None where it names none.
    `letters`: the names of the domains by their letters.
    """
    name_or_letter = str(key).lower()
    for letter, name in letters.items():
        if name_or_letter == name.lower():
            return letter
    if len(letters) == 1 and name_or_letter in ("a", "image", "images"):
        return "image"
    return name_or_letter if name_or_letter in letters else None


@dataclass(eq=False)
class Preparation:
    """Turns records into network images of `size`; thread-safe.

    With a `cache`, all records of one file (or of one set of files) are decoded and resized
    together, and stored as one entry, in native intensities. An entry's name is a hash of the files
    (path, size, times, inode), the records' keys, `size`, `fit` and `about`, all else that affects
    `Record.read`. Records without files are not cached.
    """

    records: InitVar[Sequence[Record]]
    size: tuple[int, ...]
    fit: FitMode
    cache: Cache | None = None
    # JSON: the source's options, plane and spacing, versions of the code that reads
    about: Any = ""
    intensity: Any = ""  # JSON: the options of the intensity mapping, for the figures of scans
    # domains of label maps, which are resized to the nearest pixel
    nearest: Sequence[str] = ()

    def __post_init__(self, records: Sequence[Record]):
        # the slices of a record's image, see `neighbouring_slices`
        self.stacks: dict[RecordId, list[Record]] = {}
        groups = defaultdict(list)
        for record in sorted(records, key=lambda one: one.key):
            if self.cache is not None and record.files:
                groups[record.domain, record.files].append(record)

        self._places = {
            record.id: (group, row) for group in groups.values() for row, record in enumerate(group)
        }
        self._names: dict[Hashable, str | None] = {}  # of cache entries
        self._measured: dict[Hashable, Any] = {}
        self._hashes: dict[Path, str] = {}

    def image(self, record: Record, intensity: IntensityMapping) -> np.ndarray:
        """(C, *size) float32 in network intensities, by the mapping of the record's scan if it has
        its own.
        """
        from gantk.prepare.module import image_intensities  # imports PyTorch, as listing does not

        return image_intensities(self.to_size(record), self.mapping(record, intensity))

    def to_size(self, record: Record) -> np.ndarray:
        """(C, *size) float32 in native intensities, neighbours as channels; a missing contrast is
        NaN.
        """
        return np.concatenate(
            [
                self._load_or_make("images", r, self._read)
                for r in self.stacks.get(record.id, [record])
            ]
        )

    def mask(self, record: Record) -> np.ndarray | None:
        """The record's mask (1, *size), from 0 to 1, 0 in the padding; None where it has none."""
        if record.mask is None:
            return None
        if record.mask_files:
            return self._load_or_make("masks", record, self._mask)
        return self._mask(record)

    def mapping(self, record: Record, intensity: IntensityMapping) -> Any:
        """The intensity mapping of the scan that a record belongs to: its own where the recipe says
        so.
        """
        if intensity.per != "volume":
            return intensity
        return intensity.for_scan(self.scan_figures(record, intensity))

    def scan_figures(self, record: Record, intensity: IntensityMapping) -> Any:
        """The figures of a record's scan that its mapping depends on; measured once."""
        scan = record.domain, record.scan_key or record.key
        if scan not in self._measured:
            read = record.scan or record.read
            self._measured[scan] = self.fact(
                "measured", [record], scan, lambda: intensity.measure(read())
            )
        return self._measured[scan]

    def fact(self, kind: str, records: Sequence[Record], key: Any, make: Callable[[], Any]) -> Any:
        """The JSON value of `make` for these records and the intensity options, cached by the
        records' files.
        """
        if not all(record.files for record in records):
            return make()
        files = (file for record in records for file in record.files)
        return self._remember(files, (kind, self.about, self.intensity, key), make)

    def sha256(self, files: Iterable[Path]) -> dict[Path, str]:
        """The SHA-256 of each file, read once; cached until one of the files changes."""
        wanted = set(files)
        new = sorted(wanted - self._hashes.keys())
        about = "sha256", [*map(str, new)]
        hashes = self._remember(new, about, lambda: [*map(sha256_of, new)])
        self._hashes |= zip(new, hashes, strict=True)
        return {file: self._hashes[file] for file in wanted}

    def _remember(
        self, files: Iterable[Path], about: Sequence[Any], make: Callable[[], Any]
    ) -> Any:
        """The JSON value of `make`, cached by these files and what else it is `about`."""
        stamps = self._stamps(files)
        if self.cache is None or not stamps:
            return make()
        return self.cache.fact(digest(*about, stamps), make)

    def _load_or_make(
        self, kind: str, record: Record, make: Callable[[Record], np.ndarray]
    ) -> np.ndarray:
        """The array that `make` returns for a record, from the cache entry of all records of its
        file, if there is one.
        """
        if record.id not in self._places:
            return make(record)

        group, row = self._places[record.id]
        entry = kind, group[0].id
        if entry not in self._names:
            stamps = self._stamps((*record.files, *(record.mask_files if kind == "masks" else ())))
            keys = [[*member.id, member.missing] for member in group]
            named = [kind, self.about, self.size, self.fit, stamps, keys]
            self._names[entry] = digest(*named) if stamps else None

        name = self._names[entry]
        rows = None
        if self.cache is not None and name is not None:
            rows = self.cache.rows(name, lambda: np.stack([make(member) for member in group]))
        return make(record) if rows is None else np.array(rows[row], np.float32)

    def _stamps(self, files: Iterable[Path]) -> list[list] | None:
        """Path, size, times and inode of each file; None without a cache, or if one is missing
        (`read` reports it).
        """
        if self.cache is None:
            return None

        try:
            stats = {file: file.stat() for path in files for file in files_of(path)}
        except OSError:
            return None

        return [
            [str(file.absolute()), s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino]
            for file, s in stats.items()
        ]

    def _read(self, record: Record) -> np.ndarray:
        return self._resize(record.read(), nearest=record.domain in self.nearest)

    def _mask(self, record: Record) -> np.ndarray:
        assert record.mask is not None
        return self._resize(record.mask(), fill=0.0)

    def _resize(
        self, image: np.ndarray, fill: float | None = None, nearest: bool = False
    ) -> np.ndarray:
        from gantk.prepare.module import size_image

        return size_image(image, self.size, self.fit, fill, nearest)


def code_of(parts: Iterable[Any]) -> str:
    """A hash of the code that reads and maps: of VERSION for gantk's own, of the modules of a
    plugin's package.
    """
    names = {each.__module__ for part in parts for each in getattr(part, "__mro__", [part])}
    code = set()
    for name in names:
        file = getattr(sys.modules[name], "__file__", None)
        if file and not name.startswith("gantk."):
            code |= set(Path(file).parent.glob("*.py")) if "." in name else {Path(file)}

    return digest(VERSION, [path.read_text("utf-8") for path in sorted(code)])


def neighbouring_slices(
    records: Sequence[Record], sets: Iterable[Sequence[Record]], neighbours: int
) -> dict[RecordId, list[Record]]:
    """2.5-D: by record id, the 2k + 1 slices of its image, the lowest first.

    Neighbours are found among all `records` of one domain, subject and folder by `position`. A
    neighbour outside the record's own set is replaced by the nearest slice before it that is
    inside. An image that is alone needs no position.
    """

    def stack_of(record: Record) -> Hashable:
        return record.domain, record.subject, record.key.rpartition("/")[0]

    sizes = Counter(map(stack_of, records))
    unplaced = [
        record for record in records if record.position is None and sizes[stack_of(record)] > 1
    ]
    if unplaced:
        raise UserError(
            f"neighbouring slices are needed, but the position of {len(unplaced)} of"
            f" {count_noun(records, 'image')} is not known. The first is '{unplaced[0].key}'",
            where="data.neighbours",
            remedy="use volumes or numbered slices, or train with data.neighbours = 0",
        )

    heights: Counter[Hashable] = Counter()
    places = {}
    for record in sorted(records, key=lambda record: record.position or 0.0):
        stack = stack_of(record)
        places[record.id] = stack, heights[stack]
        heights[stack] += 1

    slices = {}
    for members in sets:
        own = {places[record.id]: record for record in members}
        for record in members:
            stack, place = places[record.id]
            below = [record]
            above = [record]
            for distance in range(1, neighbours + 1):
                below.append(own.get((stack, place - distance), below[-1]))
                above.append(own.get((stack, place + distance), above[-1]))
            slices[record.id] = [*below[:0:-1], *above]

    return slices
