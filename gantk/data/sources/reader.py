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

from gantk.data.preparation import Record, contrast_names, domain_letters
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
    contrasts: dict[str, Path | None] | None = None  # the files of its channels, where these are contrasts

    @property
    def shown(self) -> Path:
        """What messages call it: its file, or the folder of its series."""
        return self.source.path if isinstance(self.source, io.Scan) else self.source

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are read for it: its own first, then those of the grid it is resampled onto."""
        sources = (self.source, *(self.contrasts or {}).values(), self.onto)
        parts = (part.files if isinstance(part, io.Scan) else (part,) for part in sources if part)
        return tuple(dict.fromkeys(file for files in parts for file in files))

    @property
    def grid(self) -> Image:
        """The grid of its result, from headers; all volumes of a file of several lie on one."""
        if self.onto:
            return outline(self.onto, None if self.volume is None else 0)
        return outline(self.source, self.volume)


class Reader:
    """Reads images of `dims` axes under a view, and checks each against the first of its domain.

    The volumes read last are kept. Each is decoded once, even where several threads ask for it at the same time.
    """

    def __init__(self, dims: int, channels: int | None = None):
        self.dims, self.channels, self.view = dims, channels, SamplingGrid()
        self._first: dict[str, tuple[int, Path]] = {}  # domain -> channels of the first file read
        self._lock, self._turns = Lock(), defaultdict(Lock)
        self._kept: OrderedDict[Hashable, np.ndarray] = OrderedDict()

    def read(self, item: Item, plane: int | None = None) -> np.ndarray:
        """float32 (C, *spatial) of an item, or of one plane of its volume; UserError naming the file."""
        if item.contrasts:
            return self._stacked(item, lambda one: self.read(one, plane))
        # A plane is a copy: it outlives the volume in the cache without keeping it in memory.
        pixels = self._image(item) if plane is None else self._volume(item)[:, plane].copy()
        self._expect_dims(item.shown, pixels)
        return self._checked(item, pixels)

    def scan(self, item: Item) -> np.ndarray:
        """float32 (C, D, H, W): the whole volume of which `read` gives the planes; not to be written to."""
        if item.contrasts:
            return self._stacked(item, self.scan)
        return self._checked(item, self._volume(item))

    def _stacked(self, item: Item, read: Callable[[Item], np.ndarray]) -> np.ndarray:
        """float32 (contrasts, *spatial); NaN where the patient lacks one."""
        found = [file and read(replace(item, source=file, contrasts=None))[0] for file in item.contrasts.values()]
        nothing = np.full(next(one.shape for one in found if one is not None), np.nan, np.float32)
        return np.stack([nothing if one is None else one for one in found])

    def mask(self, item: Item, plane: int | None = None) -> np.ndarray:
        """float32 (1, *spatial) of an item's mask: 1 where it is above 0, whatever its labels.

        Under a view that resamples, where more than half of a voxel is.
        """
        if plane is None:
            pixels = self._mask(item)
        else:
            pixels = self._once((item.mask, item.onto, "mask", self.view), lambda: self._mask(item))[:, plane]
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
        return self._once((item.source, item.volume, item.onto, self.view), lambda: self._image(item))

    def _once(self, key: Hashable, read: Callable[[], np.ndarray]) -> np.ndarray:
        """What `read` returns, or returned when it was last called for this key; its errors are not kept."""
        with self._lock:
            turn = self._turns[key]
        with turn:  # who asks for the same volume waits, who asks for another does not
            value = self._kept.get(key)
            value = read() if value is None else value
            with self._lock:
                self._kept[key] = value
                self._kept.move_to_end(key)
                while len(self._kept) > 1 and sum(each.nbytes for each in self._kept.values()) > ROOM:
                    self._kept.popitem(last=False)
            return value

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

    kind = ""  # the name that recipes know it by
    one_contrast = False  # whether a domain such as "T1+FLAIR" is a mistake

    def set_up(
        self,
        domains: tuple[str, ...],
        dims: int,
        path: str,
        planes: tuple[float, float] = (0.0, 1.0),
        *,
        channels: Channels = None,
        onto: Onto = "none",
        patient: str = "",
        mask: str = "",
        asked: tuple = ("", ""),  # what the options `a` and `b` say
    ) -> None:
        """Keep the options that sources share; UserError where they are none."""
        if not path:
            remedy = f'for example source = {{ name = "{self.kind}", path = "data" }}, or --data PATH'
            what = f"'{self.kind}' does not know where its images are"
            raise UserError(what, where="data.source.path", remedy=remedy)
        several = next((name for name in domains if len(contrast_names(name)) > 1), None)
        if self.one_contrast and several:
            what = f"'{several}' is {len(contrast_names(several))} contrasts, and '{self.kind}' gives one per domain"
            raise UserError(what, where="data.domains", remedy='set data.source.name = "contrasts"')
        self.root, self.planes, self.onto, self.mask = Path(path), planes, onto, mask
        self.domains = dict(zip(domain_letters(domains), domains, strict=True))
        self.asked = dict(zip(("a", "b"), asked, strict=True)) | {"image": asked[0]}
        self.patient, self.reader = regex_option(patient), Reader(dims, channels)

    def nothing_of(self, letter: str, what: str, allowed: object, remedy: str = "") -> UserError:
        """That a domain has no files, and which option would say which they are."""
        where = f"data.source.{'a' if letter == 'image' else letter}"
        return UserError(what, where=where, allowed=allowed, remedy=remedy)

    def in_both(self, name: object) -> UserError:
        """That one image belongs to both domains."""
        what = f"'{name}' belongs to both domains, {' and '.join(self.domains.values())}"
        return UserError(what, where="data.source", remedy="make data.source.a and data.source.b more exact")

    def records_of(self, items: Sequence[Item]) -> list[Record]:
        """One record for every item, or for every plane of it; UserError where a domain has fewer than two."""
        return self.expect_several(self.planes_of(items))

    def planes_of(self, items: Sequence[Item]) -> list[Record]:
        """One record for every item, or for every plane of it.

        Pictures have as `position` their place among those of the same domain, patient and split; volumes have none.
        """
        found, stacks = [], Counter()
        for item in items:
            stack = (item.letter, item.subject, item.split)
            for plane in self.reader.planes(item, self.planes):
                tail = "" if plane is None else f"/plane-{plane:03d}"
                of_stack = plane is None and not item.contrasts and not is_volume(item.source)
                place = stacks[stack] if of_stack else plane
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
                    missing=tuple(name for name, file in (item.contrasts or {}).items() if not file),
                )
                found.append(record)
                stacks[stack] += 1
        return found

    def expect_several(self, records: list[Record]) -> list[Record]:
        """The records; UserError where a domain has no image, or one, from which nothing can be held out."""
        for letter, name in sorted(self.domains.items()):
            own = [record.key for record in records if record.domain == letter]
            if len(own) < 2:
                what = f"{'only one image' if own else 'no images'}{f' of {name}' if name else ''} in '{self.root}'"
                what += f": '{own[0]}'" if own else ""
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
            known = {"label": labels.get(path), "mask": masks.get(path), "pair": pairs.get(path)}
            items.append(Item(image.letter, path, key, subject, split=image.split, **known))
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
    studies: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        if item.study and item.letter in "ab":
            studies[item.study].append(item)
    changed: dict[tuple[str, str], Item] = {}
    for study, members in studies.items():
        members = sorted(members, key=lambda item: item.letter)
        if [item.letter for item in members] == ["a", "b"]:
            one, other = members
            grid = {"none": None, "a": one.source, "b": other.source}[onto]
            if grid is not None or difference(one.source, other.source, one.volume, other.volume) is None:
                changed |= {(item.letter, item.key): replace(item, pair=study, onto=grid) for item in members}
    alone = [replace(item, pair=f"alone/{item.letter}/{item.key}") for item in items] if changed else items
    return [changed.get((item.letter, item.key), item) for item in alone]


def planes_within(count: int, shares: tuple[float, float]) -> tuple[int, ...]:
    """The planes of a stack between two shares of its length, at least one."""
    low, high = shares
    if not 0 <= low < high <= 1:
        raise UserError(f"planes = {list(shares)} is no part of a volume", where="data.source.planes", allowed="0 to 1")
    return tuple(range(int(low * count), max(int(high * count), int(low * count) + 1)))


def is_volume(source: Source) -> bool:
    """Whether a source may hold three axes."""
    return isinstance(source, io.Scan) or io.is_volume(source) or bool(io.series_format(source)) or source.is_dir()


def patient_of(path: str, pattern: re.Pattern) -> str:
    """The patient that a pattern finds in a relative path, or in the file's name without suffix; else a UserError."""
    match = pattern.search(path) or pattern.search(io.stem_of(path))
    if not match:
        what = f"the pattern '{pattern.pattern}' finds no patient in '{path}'"
        remedy = "correct it; it is searched in the path below the folder, then in the file's name without its suffix"
        raise UserError(what, where="data.source.patient", remedy=remedy)
    return match["patient"] if "patient" in pattern.groupindex else match[1]


def regex_option(pattern: str, option: str = "patient") -> re.Pattern | None:
    """The regular expression of an option, None for ""; that of `patient` has one group, or one named `patient`."""
    if not pattern:
        return None
    try:
        found = re.compile(pattern, re.NOFLAG if option == "patient" else re.IGNORECASE)
    except re.error as error:
        raise UserError(f"'{pattern}' is no regular expression: {error}", where=f"data.source.{option}") from error
    if option == "patient" and found.groups != 1 and "patient" not in found.groupindex:
        allowed = "one group, or one that is named: (?P<patient>...)"
        raise UserError(f"'{pattern}' has {found.groups} groups", where="data.source.patient", allowed=allowed)
    return found
