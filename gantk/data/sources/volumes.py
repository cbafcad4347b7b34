"""Scans to records: planes or whole volumes under a view, decoded once however many planes and threads want them."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Literal

import numpy as np

from gantk.data.items import Record
from gantk.data.resample import SamplingGrid, resample_onto
from gantk.errors import UserError
from gantk.formats import files as io
from gantk.formats.files import difference, outline
from gantk.formats.image import Image

Source = Path | io.Scan  # what a source names as one image: a file, or the files of a DICOM series
Onto = Literal["none", "a", "b"]  # whose grid a patient's other image is resampled onto

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
        """The files that are read for it."""
        return tuple(dict.fromkeys(file for part in (self.source, self.onto) if part for file in files_of(part)))


def files_of(source: Source) -> tuple[Path, ...]:
    """The files of a path or of a DICOM series."""
    return source.files if isinstance(source, io.Scan) else (source,)


class Shelf:
    """The volumes read last. Each is decoded once, even where several threads ask for it at the same time."""

    def __init__(self, room: int = ROOM):
        self.room, self._used, self._lock = room, 0, Lock()
        self._kept: OrderedDict[Hashable, Future] = OrderedDict()

    def get(self, key: Hashable, read: Callable[[], np.ndarray]) -> np.ndarray:
        """What `read` gives, or gave when it was last called for this key."""
        with self._lock:
            future, mine = self._kept.get(key), key not in self._kept
            if mine:
                future = self._kept[key] = Future()
            self._kept.move_to_end(key)
        if mine:
            try:
                value = read()
            except BaseException as error:
                with self._lock:
                    del self._kept[key]  # the next one to ask tries again
                future.set_exception(error)
            else:
                self._keep(future, value)
        return future.result()

    def _keep(self, future: Future, value: np.ndarray) -> None:
        """Drop the oldest until there is room; never the newest, nor what is still being decoded."""
        with self._lock:
            future.set_result(value)
            self._used += value.nbytes
            for key, old in list(self._kept.items())[:-1]:
                if self._used <= self.room:
                    return
                if old.done():
                    self._used -= self._kept.pop(key).result().nbytes


class Reader:
    """Reads images of `dims` axes under a view, and checks each against the first of its domain."""

    def __init__(self, dims: int, channels: int | None = None, view: SamplingGrid = SamplingGrid()):  # noqa: B008
        self.dims, self.channels, self.view = dims, channels, view
        self._first: dict[str, tuple[int, Path]] = {}  # domain -> channels of the first file read
        self._shelf = Shelf()

    def read(self, item: Item, plane: int | None = None) -> np.ndarray:
        """float32 (C, *spatial) of an item, or of one plane of its volume; UserError naming the file."""
        # A plane is a copy: it outlives the volume on the shelf without keeping it in memory.
        pixels = self._image(item).pixels if plane is None else self._volume(item)[:, plane].copy()
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
            pixels = self._shelf.get(key, lambda: self._mask(item))[:, plane]
        self._expect_dims(item.mask, pixels)
        return (pixels.max(axis=0, keepdims=True) > 0.5).astype(np.float32)

    def planes(self, item: Item, shares: tuple[float, float]) -> tuple[int | None, ...]:
        """The planes of an item between two shares of its stack; `(None,)` for what is read whole."""
        if self.dims == 3 or not is_volume(item.source):
            return (None,)
        image = _grid_for(item) if item.onto else outline(item.source, item.volume)
        if image.dims < 3:
            return (None,)
        return planes_within(self.view.sides(image.pixels.shape[1:], image.spacing)[0], shares)

    def _expect_dims(self, path: Path, pixels: np.ndarray) -> None:
        if pixels.ndim - 1 != self.dims:
            kind = "a volume" if pixels.ndim == 4 else "a picture"
            raise UserError(f"'{path}' is {kind}, and data.dims is {self.dims}", where="data.dims")

    def _checked(self, item: Item, pixels: np.ndarray) -> np.ndarray:
        if min(pixels.shape[1:]) < SMALLEST and self.dims == pixels.ndim - 1:
            shape = " x ".join(map(str, pixels.shape[1:]))
            raise UserError(f"'{item.shown}' is only {shape} pixels", allowed=f"{SMALLEST} or more on each side")
        pixels = np.ascontiguousarray(self._as_asked(pixels))
        channels, first = self._first.setdefault(item.letter, (len(pixels), item.shown))
        if len(pixels) != channels:
            raise UserError(
                f"'{item.shown}' has {len(pixels)} channels, while '{first}' has {channels}",
                where="data.source",
                remedy="set data.source.channels = 1 (gray) or 3 (colour)",
            )
        return pixels

    def _as_asked(self, pixels: np.ndarray) -> np.ndarray:
        if self.channels == 3 and len(pixels) == 1:
            return np.repeat(pixels, 3, axis=0)
        if self.channels == 1 and len(pixels) == 3:
            gray = np.array_equal(pixels[0], pixels[1]) and np.array_equal(pixels[0], pixels[2])
            return pixels[:1] if gray else np.einsum("c,c...->...", LUMA, pixels)[None]
        return pixels

    def _volume(self, item: Item) -> np.ndarray:
        key = (item.source, item.volume, item.onto, self.view)
        return self._shelf.get(key, lambda: self._image(item).pixels)

    def _image(self, item: Item) -> Image:
        image = io.read(item.source, item.volume)
        return self.view.forward(resample_onto(image, _grid_for(item)) if item.onto else image)

    def _mask(self, item: Item) -> np.ndarray:
        """Shares of 0 to 1, in the view."""
        image = io.read(item.mask)
        image = resample_onto(image, _grid_for(item), order=0) if item.onto else image
        return self.view.forward(replace(image, pixels=(image.pixels > 0).astype(np.float32))).pixels


def _grid_for(item: Item) -> Image:
    """The grid onto which an item is brought; all volumes of a file of several lie on one."""
    return outline(item.onto, None if item.volume is None else 0)


def records(items: Sequence[Item], reader: Reader, planes: tuple[float, float]) -> list[Record]:
    """One record for every item, or for every plane of it between two shares of its stack.

    Pictures have as `position` their place among those of the same domain, patient and split; volumes have none.
    """
    found, stacks = [], Counter()
    for item in items:
        volume = is_volume(item.source)
        for plane in reader.planes(item, planes):
            tail = "" if plane is None else f"/plane-{plane:03d}"
            stack = (item.letter, item.subject, item.split)
            place = float(plane) if plane is not None else None if volume else float(stacks[stack])
            whole = partial(reader.scan, item) if plane is not None else None
            found.append(
                Record(
                    domain=item.letter,
                    subject=item.subject,
                    key=item.key + tail,
                    read=partial(reader.read, item, plane),
                    pair=None if item.pair is None else item.pair + tail,
                    position=place,
                    path=item.files[0],
                    others=item.files[1:],
                    split=item.split,
                    label=item.label,
                    mask=None if item.mask is None else partial(reader.mask, item, plane),
                    scan=whole,
                    scan_key=item.key if whole else "",
                )
            )
            stacks[stack] += 1
    return found


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
    alone = replace if changed else lambda item, pair: item
    return [
        changed.get((item.letter, item.key)) or alone(item, pair=f"alone/{item.letter}/{item.key}") for item in items
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
