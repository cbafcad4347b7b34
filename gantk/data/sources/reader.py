"""Scans to records: whole, or plane by plane under a view; each volume is decoded once, whatever threads ask for it."""

from __future__ import annotations

import re
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import Literal

import numpy as np

from gantk.data.items import Record
from gantk.data.resample import SamplingGrid, resample_onto
from gantk.data.sources.file_names import Found, numbered
from gantk.errors import UserError
from gantk.formats import files as io
from gantk.formats.files import difference, outline
from gantk.formats.image import Image

Source = Path | io.Scan  # what a source names as one image: a file, or the files of a DICOM series
Onto = Literal["none", "a", "b"]  # whose grid a patient's other image is resampled onto
Channels = Literal[1, 3] | None  # what `channels` of a source may ask for

SMALLEST = 8  # pixels on each side
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
ROOM = 2**30  # bytes of decoded volumes that are kept while their planes are asked for


@dataclass(frozen=True)
class Item:
    """One scan or picture, and what its source knows of it."""

    letter: str  # "a", "b" or "image"
    source: Source
    key: str  # unique within its domain
    subject: str = ""
    study: str = ""  # an image of a and one of b that share it are a pair, if each is the only one; "": no pair
    split: str | None = None
    label: str | None = None
    mask: Path | None = None
    pair: str | None = None
    onto: Source | None = None  # whose grid it is resampled onto, with its mask
    volume: int | None = None  # which one of a file of several volumes, counted from 0

    @property
    def shown(self) -> Path:
        """What messages call it: its file, or the folder of its series."""
        return self.source.path if isinstance(self.source, io.Scan) else self.source

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are read for it: its own first, then those of the grid it is resampled onto."""
        parts = (part.files if isinstance(part, io.Scan) else (part,) for part in (self.source, self.onto) if part)
        return tuple(dict.fromkeys(file for files in parts for file in files))

    @property
    def grid(self) -> Image:
        """The grid of its result, from headers; all volumes of a file of several lie on one."""
        if self.onto:
            return outline(self.onto, None if self.volume is None else 0)
        return outline(self.source, self.volume)


class VolumeCache:
    """The volumes read last. Each is decoded once, even where several threads ask for it at the same time."""

    def __init__(self, room: int = ROOM):
        self.room, self._lock = room, Lock()
        self._turns: dict[Hashable, Lock] = {}
        self._kept: OrderedDict[Hashable, np.ndarray] = OrderedDict()

    def get(self, key: Hashable, read: Callable[[], np.ndarray]) -> np.ndarray:
        """What `read` returns, or returned when it was last called for this key; its errors are not kept."""
        with self._lock:
            turn = self._turns.setdefault(key, Lock())
        with turn:  # who asks for the same volume waits, who asks for another does not
            with self._lock:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    return self._kept[key]
            value = read()
            with self._lock:
                self._kept[key] = value
                while len(self._kept) > 1 and sum(each.nbytes for each in self._kept.values()) > self.room:
                    self._kept.popitem(last=False)
            return value


class Reader:
    """Reads images of `dims` axes under a view, and checks each against the first of its domain."""

    def __init__(self, dims: int, channels: int | None = None):
        self.dims, self.channels, self.view = dims, channels, SamplingGrid()
        self._first: dict[str, tuple[int, Path]] = {}  # domain -> channels of the first file read
        self._volumes = VolumeCache()

    def read(self, item: Item, plane: int | None = None) -> np.ndarray:
        """float32 (C, *spatial) of an item, or of one plane of its volume; UserError naming the file."""
        # A plane is a copy: it outlives the volume in the cache without keeping it in memory.
        pixels = self._image(item) if plane is None else self._volume(item)[:, plane].copy()
        self._expect_dims(item.shown, pixels)
        return self._checked(item, pixels)

    def scan(self, item: Item) -> np.ndarray:
        """float32 (C, D, H, W): the whole volume of which `read` gives the planes; not to be written to."""
        return self._checked(item, self._volume(item))

    def mask(self, item: Item, plane: int | None = None) -> np.ndarray:
        """float32 (1, *spatial) of an item's mask: 1 where it is above 0, whatever its labels.

        Under a view that resamples, where more than half of a voxel is.
        """
        if plane is None:
            pixels = self._mask(item)
        else:
            key = (item.mask, item.onto, "mask", self.view)
            pixels = self._volumes.get(key, lambda: self._mask(item))[:, plane]
        self._expect_dims(item.mask, pixels)
        return (pixels.max(axis=0, keepdims=True) > 0.5).astype(np.float32)

    def planes(self, item: Item, shares: tuple[float, float]) -> tuple[int | None, ...]:
        """The planes of an item between two shares of its stack; `(None,)` for what is read whole."""
        image = item.grid if self.dims == 2 and is_volume(item.source) else None
        if image is None or image.dims < 3:
            return (None,)
        return planes_within(self.view.sides(image.pixels.shape[1:], image.spacing)[0], shares)

    def _expect_dims(self, path: Path, pixels: np.ndarray) -> None:
        if pixels.ndim - 1 != self.dims:
            kind = "a volume" if pixels.ndim == 4 else "a picture"
            raise UserError(f"'{path}' is {kind}, and data.dims is {self.dims}", where="data.dims")

    def _checked(self, item: Item, pixels: np.ndarray) -> np.ndarray:
        """The pixels, gray or in colour as asked; UserError where they are too few, or unlike the domain's first."""
        if min(pixels.shape[1:]) < SMALLEST and self.dims == pixels.ndim - 1:
            shape = " x ".join(map(str, pixels.shape[1:]))
            raise UserError(f"'{item.shown}' is only {shape} pixels", allowed=f"{SMALLEST} or more on each side")
        if self.channels == 3 and len(pixels) == 1:
            pixels = np.repeat(pixels, 3, axis=0)
        elif self.channels == 1 and len(pixels) == 3:
            gray = np.array_equal(pixels[0], pixels[1]) and np.array_equal(pixels[0], pixels[2])
            pixels = pixels[:1] if gray else np.einsum("c,c...->...", LUMA, pixels)[None]
        channels, first = self._first.setdefault(item.letter, (len(pixels), item.shown))
        if len(pixels) != channels:
            what = f"'{item.shown}' has {len(pixels)} channels, while '{first}' has {channels}"
            raise UserError(what, where="data.source", remedy="set data.source.channels = 1 (gray) or 3 (colour)")
        return np.ascontiguousarray(pixels)

    def _volume(self, item: Item) -> np.ndarray:
        return self._volumes.get((item.source, item.volume, item.onto, self.view), lambda: self._image(item))

    def _image(self, item: Item) -> np.ndarray:
        image = io.read(item.source, item.volume)
        return self.view.forward(resample_onto(image, item.grid) if item.onto else image).pixels

    def _mask(self, item: Item) -> np.ndarray:
        """Shares of 0 to 1, in the view."""
        image = io.read(item.mask)
        image = resample_onto(image, item.grid, order=0) if item.onto else image
        return self.view.forward(replace(image, pixels=(image.pixels > 0).astype(np.float32))).pixels


class FileSource:
    """What sources of files share: from files to items, and from these to records."""

    root: Path
    domains: Mapping[str, str]  # letter -> human name
    reader: Reader
    planes: tuple[float, float] = (0.0, 1.0)  # which slices of a volume 2-D networks see

    def records_of(self, items: Sequence[Item]) -> list[Record]:
        """One record for every item, or for every plane of it; UserError where a domain has fewer than two.

        Pictures have as `position` their place among those of the same domain, patient and split; volumes have none.
        """
        found, stacks = [], Counter()
        for item in items:
            stack = (item.letter, item.subject, item.split)
            for plane in self.reader.planes(item, self.planes):
                tail = "" if plane is None else f"/plane-{plane:03d}"
                place = plane if plane is not None else None if is_volume(item.source) else stacks[stack]
                record = Record(
                    domain=item.letter,
                    subject=item.subject,
                    key=item.key + tail,
                    read=partial(self.reader.read, item, plane),
                    pair=None if item.pair is None else item.pair + tail,
                    position=None if place is None else float(place),
                    path=item.files[0],
                    others=item.files[1:],
                    split=item.split,
                    label=item.label,
                    mask=None if item.mask is None else partial(self.reader.mask, item, plane),
                    mask_files=() if item.mask is None else (item.mask,),
                    scan=None if plane is None else partial(self.reader.scan, item),
                    scan_key="" if plane is None else item.key,
                )
                found.append(record)
                stacks[stack] += 1
        return self.expect_several(found)

    def expect_several(self, records: list[Record]) -> list[Record]:
        """The records; UserError where a domain has no image, or one, from which nothing can be held out."""
        for letter, name in sorted(self.domains.items()):
            own = [record for record in records if record.domain == letter]
            if len(own) < 2:
                of = f" of {name}" if name else ""
                what = (
                    f"only one image{of} in '{self.root}': '{own[0].key}'" if own else f"no images{of} in '{self.root}'"
                )
                remedy = "two or more are needed"
                raise UserError(what, where="data.source.path", allowed=io.readable(), remedy=remedy)
        return records

    def items_of(
        self,
        found: Sequence[Found],
        patient: re.Pattern | None,
        pairs: Mapping[Path, str] = MappingProxyType({}),
        labels: Mapping[Path, str] = MappingProxyType({}),
        masks: Mapping[Path, Path] = MappingProxyType({}),
    ) -> list[Item]:
        """Files as items. A folder is a patient where most files lie in numbered ones: `patient07`, `BRATS_HG0006`."""
        by_folder = sum(bool(numbered(image.place)) for image in found) * 2 > len(found)
        items = []
        for image in found:
            path = image.path
            key = (path.relative_to(self.root) if path.is_relative_to(self.root) else path).as_posix()
            subject = patient_of(key, patient) if patient else "/".join(image.place) if by_folder else ""
            subject = subject or (image.name if is_volume(path) else "")  # a volume is a scan of somebody
            pair, label, mask = pairs.get(path), labels.get(path), masks.get(path)
            items.append(Item(image.letter, path, key, subject, split=image.split, label=label, mask=mask, pair=pair))
        return items


class VolumeSource(FileSource):
    """A source whose volumes can be sliced along any plane."""

    def sees(self, view: SamplingGrid) -> None:
        """Take the slices of volumes along this plane, at this spacing: asked for before `records`."""
        self.reader.view = view


def paired(items: Sequence[Item], onto: Onto = "none") -> list[Item]:
    """Items with their pairs: one of a and one of b of a study, on one grid, or brought onto one by their headers.

    What has no partner is a pair without it, for paired methods to complain of; where there are no pairs at all,
    nothing is a pair.
    """
    studies: dict[str, dict[str, list[Item]]] = defaultdict(lambda: {"a": [], "b": []})
    for item in items:
        if item.study and item.letter in "ab":
            studies[item.study][item.letter].append(item)
    changed: dict[tuple[str, str], Item] = {}
    for study, letters in studies.items():
        if [len(letters[letter]) for letter in "ab"] != [1, 1]:
            continue
        one, other = letters["a"][0], letters["b"][0]
        grid = {"none": None, "a": one.source, "b": other.source}[onto]
        if grid is None and difference(one.source, other.source, one.volume, other.volume) is not None:
            continue
        for item in (one, other):
            changed[item.letter, item.key] = replace(item, pair=study, onto=grid)
    if not changed:
        return list(items)
    return [
        changed.get((item.letter, item.key)) or replace(item, pair=f"alone/{item.letter}/{item.key}") for item in items
    ]


def planes_within(count: int, shares: tuple[float, float]) -> tuple[int, ...]:
    """The planes of a stack between two shares of its length, at least one."""
    low, high = shares
    if not 0 <= low < high <= 1:
        raise UserError(f"planes = {list(shares)} is no part of a volume", where="data.source.planes", allowed="0 to 1")
    return tuple(range(int(low * count), max(int(high * count), int(low * count) + 1)))


def is_volume(source: Source) -> bool:
    """Whether a source may hold three axes."""
    return isinstance(source, io.Scan) or io.is_volume(source) or io.suffix_of(source) in io.DICOM or source.is_dir()


def patient_of(path: str, pattern: re.Pattern) -> str:
    """The patient that a pattern finds in a relative path, or in the file's name without suffix; else a UserError."""
    match = pattern.search(path) or pattern.search(io.stem_of(path))
    if not match:
        raise UserError(
            f"the pattern '{pattern.pattern}' finds no patient in '{path}'",
            where="data.source.patient",
            remedy="correct the regular expression; it is searched in the path relative to the folder, "
            "then in the file's name without its suffix",
        )
    return match["patient"] if "patient" in pattern.groupindex else match[1]


def regex_option(pattern: str, option: str = "patient") -> re.Pattern | None:
    """The regular expression of an option, None for ""; that of `patient` has one group, or one named `patient`."""
    if not pattern:
        return None
    where = f"data.source.{option}"
    try:
        found = re.compile(pattern, re.NOFLAG if option == "patient" else re.IGNORECASE)
    except re.error as error:
        raise UserError(f"'{pattern}' is no regular expression: {error}", where=where) from error
    if option == "patient" and found.groups != 1 and "patient" not in found.groupindex:
        allowed = "one group, or one that is named: (?P<patient>...)"
        raise UserError(f"'{pattern}' has {found.groups} groups", where=where, allowed=allowed)
    return found


def needed_path(path: str, name: str) -> Path:
    """A source's `path`, which it cannot do without."""
    if not path:
        remedy = f'for example source = {{ name = "{name}", path = "data" }}, or --data PATH'
        raise UserError(f"'{name}' does not know where its images are", where="data.source.path", remedy=remedy)
    return Path(path)
