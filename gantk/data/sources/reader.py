"""Reads the pixels of items, whole or plane by plane on a sampling grid. Each volume is decoded
once for all threads.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from gantk.catalog.domains import relative_to
from gantk.data.resample import SamplingGrid, resample_onto
from gantk.errors import UserError, count_noun
from gantk.formats import files as io
from gantk.formats.image import Image, Scan

Source = Path | Scan  # what a source names as one image: a file, or the files of a DICOM series

MIN_SIDE_PIXELS = 8  # pixels on each side
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
MAX_CACHED_BYTES = 2**30  # of decoded images that are kept for the next reader
ALONE = "alone/"  # start of the pair of an image without a partner
# of the ratio of two pictures' aspect ratios: 1 % at each edge
ASPECT_TOLERANCE = 0.02


@dataclass(slots=True)
class Item:
    """One scan or picture, with everything that its source knows about it."""

    letter: str  # "a", "b" or "image"
    source: Source
    key: str = ""  # unique within its domain
    subject: str = ""
    # an image of a and one of b that share it are a pair, if each is the only one; "": no pair
    study: str = ""
    split: str | None = None
    label: str | None = None
    mask: Path | None = None
    position: float | None = None  # of a slice in its stack, if a table has it
    pair: str | None = None
    onto: Source | None = None  # the image onto whose grid it and its mask are resampled
    volume: int | None = None  # which one of a file of several volumes, counted from 0
    # the files of its channels, where these are contrasts
    contrasts: dict[str, Path | None] | None = None
    # its folders, without those of domain and split: a patient's, if there are several
    place: tuple[str, ...] = ()
    stem: str = ""  # its file's name without suffix and without the domain's name
    # outlines of `source` and `onto` that were read
    outlines: dict[Source, Image] = field(default_factory=dict, compare=False, repr=False)

    def row(self, root: Path) -> dict[str, Any]:
        """What is known of it as JSON, for `of_row`; files below `root` relative to it."""
        contrasts = self.contrasts or {}
        row = {
            "domain": self.letter,
            "files": _texts(self.source, root),
            "key": self.key,
            "patient": self.subject,
            "split": self.split,
            "label": self.label,
            "mask": _texts(self.mask, root),
            "position": self.position,
            "pair": self.pair,
            "onto": _texts(self.onto, root),
            "volume": self.volume,
            "contrasts": {name: _texts(file, root) for name, file in contrasts.items()},
        }
        return {name: value for name, value in row.items() if value not in (None, "", [], {})}

    @classmethod
    def of_row(cls, row: Mapping[str, Any], root: Path) -> Item:
        """The item of a row, with the files below `root`."""
        item = cls(row["domain"], _source_of(row["files"], root), row["key"])
        item.subject = row.get("patient", "")
        item.split = row.get("split")
        item.label = row.get("label")
        item.position = row.get("position")
        item.pair = row.get("pair")
        item.volume = row.get("volume")
        item.mask = root / row["mask"][0] if "mask" in row else None
        item.onto = _source_of(row["onto"], root) if "onto" in row else None
        for name, files in row.get("contrasts", {}).items():
            item.contrasts = (item.contrasts or {}) | {name: root / files[0] if files else None}
        return item

    @property
    def name(self) -> str:
        """The name that registered images of two domains share: place and stem."""
        return "/".join(filter(None, (*self.place, self.stem))) or "scan"

    @property
    def display_path(self) -> Path:
        """Its file, or the folder of its series."""
        return self.source.path if isinstance(self.source, Scan) else self.source

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are read for it: its own first, then those of the grid it is resampled
        onto.
        """
        files: list[Path] = []
        for source in (self.source, *(self.contrasts or {}).values(), self.onto):
            if isinstance(source, Scan):
                files += source.files
            elif source:
                files.append(source)

        return tuple(dict.fromkeys(files))

    @property
    def files_with_mask(self) -> tuple[Path, ...]:
        """The files that are read for it and for its mask."""
        return (*self.files, self.mask) if self.mask else self.files

    @property
    def outline(self) -> Image:
        """Its image with zeros as pixels, see `gantk.formats.files.outline`; read once."""
        return self._outline_of(self.source, self.volume)

    @property
    def grid(self) -> Image:
        """The grid of its pixels, from headers; all volumes of one file have the same."""
        if self.onto:
            return self._outline_of(self.onto, None if self.volume is None else 0)
        return self.outline

    def _outline_of(self, source: Source, volume: int | None) -> Image:
        if source not in self.outlines:
            self.outlines[source] = io.outline(source, volume)
        return self.outlines[source]


class KeptImages:
    """Reads images and keeps the last ones, so that each is decoded once, even if several threads
    read it at the same time. Their pixels cannot be changed.
    """

    def __init__(self) -> None:
        self._images: OrderedDict[Hashable, Image] = OrderedDict()
        self._bytes = 0
        self._locks: dict[Hashable, Lock] = {}
        self._lock = Lock()

    def read(self, source: Source, volume: int | None = None) -> Image:
        """What `gantk.formats.files.read` returns for a file or a series."""
        return self.get((_scan_of(source).files, volume), partial(io.read, source, volume))

    def get(self, key: Hashable, make: Callable[[], Image]) -> Image:
        """The image that `make()` returns, or returned for this key before; errors are not kept."""
        # one lock for each key: other images need not wait
        with self._locks.setdefault(key, Lock()):
            image = self._images.get(key) or make()
            image.pixels.flags.writeable = False
            with self._lock:
                if key not in self._images:
                    self._bytes += image.pixels.nbytes
                self._images[key] = image
                self._images.move_to_end(key)
                while len(self._images) > 1 and self._bytes > MAX_CACHED_BYTES:
                    _, oldest = self._images.popitem(last=False)
                    self._bytes -= oldest.pixels.nbytes

            return image


def _texts(source: Source | None, root: Path) -> list[str]:
    """The paths of a source: a file; or the folder of a series, and its files."""
    if source is None:
        return []
    paths = (source.path, *source.files) if isinstance(source, Scan) else (source,)
    return [relative_to(path, root).as_posix() for path in paths]


def _source_of(texts: list[str], root: Path) -> Source:
    """The source that `_texts` has written."""
    place, *files = (root / text for text in texts)
    return Scan(place, tuple(files), texts[0]) if files else place


class Reader:
    """Reads images of `dims` axes on the sampling grid `view`, and checks each against the first of
    its domain.
    """

    def __init__(self, dims: int, channels: int | None = None):
        self.dims = dims
        self.channels = channels
        self.view = SamplingGrid()
        self._first: dict[str, tuple[int, Path]] = {}  # domain -> channels of the first file read
        self.kept = KeptImages()
        self.inspected: dict[Scan, Any] = {}  # what `data check` has found in the files

    def read(self, item: Item, plane: int | None = None) -> np.ndarray:
        """Read an item, or one plane of its volume, as float32 (C, *spatial); a UserError names the
        file.
        """

        def pixels(one: Item) -> np.ndarray:
            # A copy of the plane: a view would keep the whole volume in memory.
            whole = self._sampled(one)
            found = (whole if plane is None else whole[:, plane]).copy()
            self._expect_dims(one.display_path, found)
            return found

        return self._channels_of(item, pixels)

    def scan(self, item: Item) -> np.ndarray:
        """Read the whole volume, whose planes `read` returns, as float32 (C, D, H, W); it must not
        be changed.
        """
        return self._channels_of(item, self._sampled)

    def mask(self, item: Item, plane: int | None = None) -> np.ndarray:
        """Read an item's mask as float32 (1, *spatial): 1 where any label is above 0, else 0.

        On a view that resamples: 1 where more than half of a voxel is inside the mask.
        """
        file = item.mask
        if file is None:
            raise ValueError(f"'{item.key}' has no mask")

        key = "mask", file, item.onto, self.view
        shares = self.kept.get(key, partial(self._mask, item, file)).pixels
        if plane is not None:
            shares = shares[:, plane]

        self._expect_dims(file, shares)
        return (shares.max(axis=0, keepdims=True) > 0.5).astype(np.float32)

    def planes(self, item: Item, shares: tuple[float, float]) -> tuple[int | None, ...]:
        """The indices of an item's planes between two shares of its stack, one at least; `(None,)`
        if read whole.
        """
        image = item.grid if self.dims == 2 and is_volume(item.source) else None
        if image is None or image.dims < 3:
            return (None,)

        low, high = shares
        if not 0 <= low < high <= 1:
            what = f"planes = {list(shares)} is not a valid part of a volume"
            allowed = "[start, end] with 0 <= start < end <= 1"
            raise UserError(what, where="data.source.planes", allowed=allowed)

        count = self.view.sides(image.pixels.shape[1:], image.spacing)[0]
        return tuple(range(int(low * count), max(int(high * count), int(low * count) + 1)))

    def _channels_of(self, item: Item, read: Callable[[Item], np.ndarray]) -> np.ndarray:
        """float32 (C, *spatial): the checked result of `read`, or a channel for each contrast, NaN
        if missing.
        """
        if not item.contrasts:
            return self._fit_channels(item, read(item))

        channels: list[np.ndarray | None] = []
        for file in item.contrasts.values():
            if file is None:
                channels.append(None)
            else:
                pixels = read(replace(item, source=file, contrasts=None))
                channels.append(self._fit_channels(item, pixels)[0])

        shape = next(one.shape for one in channels if one is not None)
        missing = np.full(shape, np.nan, np.float32)
        return np.stack([missing if one is None else one for one in channels])

    def _expect_dims(self, path: Path, pixels: np.ndarray) -> None:
        if pixels.ndim - 1 != self.dims:
            kind = "a volume" if pixels.ndim == 4 else "a picture"
            what = f"'{path}' is {kind}, but data.dims is {self.dims}"
            needed = (
                "pictures, or volumes that can be cut into slices",
                "volumes: NIfTI, NRRD or DICOM series",
            )
            remedy = f"use a recipe with data.dims = {pixels.ndim - 1} for {kind[2:]}s"
            raise UserError(what, where="data.dims", allowed=needed[self.dims - 2], remedy=remedy)

    def _fit_channels(self, item: Item, pixels: np.ndarray) -> np.ndarray:
        """The pixels in gray or colour, as set; UserError for too few, or other channels than the
        domain's first.
        """
        if min(pixels.shape[1:]) < MIN_SIDE_PIXELS and self.dims == pixels.ndim - 1:
            shape = " x ".join(map(str, pixels.shape[1:]))
            raise UserError(
                f"'{item.display_path}' has only {shape} pixels",
                allowed=f"at least {MIN_SIDE_PIXELS} pixels on each side",
            )

        if self.channels == 3 and len(pixels) == 1:
            pixels = np.repeat(pixels, 3, axis=0)
        elif self.channels == 1 and len(pixels) == 3:
            gray = np.array_equal(pixels[0], pixels[1]) and np.array_equal(pixels[0], pixels[2])
            pixels = pixels[:1] if gray else np.einsum("c,c...->...", LUMA, pixels)[None]

        channels, first = self._first.setdefault(item.letter, (len(pixels), item.display_path))
        if len(pixels) != channels:
            what = f"'{item.display_path}' has {count_noun(pixels, 'channel')}, but '{first}' has {channels}"
            raise UserError(
                what,
                where="data.source",
                remedy="set data.channels = 1 (gray) or 3 (colour)",
            )

        return np.ascontiguousarray(pixels)

    def on_grid(self, image: Image, item: Item) -> Image:
        """An image on the grid of an item's file, as this reader samples it."""
        return self.view.forward(resample_onto(image, item.grid) if item.onto else image)

    def _sampled(self, item: Item) -> np.ndarray:
        """The pixels (C, D, H, W), or (C, H, W), of an item on the view; they cannot be changed."""
        if self.view.is_plain and not item.onto:
            return self.kept.read(item.source, item.volume).pixels

        def sample() -> Image:
            return self.on_grid(self.kept.read(item.source, item.volume), item)

        return self.kept.get((item.source, item.volume, item.onto, self.view), sample).pixels

    def _mask(self, item: Item, file: Path) -> Image:
        """The share of each voxel that is inside the mask, 0 to 1, on the view's grid."""
        image = io.read(file)
        image = resample_onto(image, item.grid, order=0) if item.onto else image
        return self.view.forward(replace(image, pixels=(image.pixels > 0).astype(np.float32)))


@dataclass(frozen=True, slots=True)
class FileImage:
    """The image in the file or files of a record, and the record's part of it."""

    reader: Reader
    item: Item
    plane: int | None  # of the record in the stack of `on_grid`; None: all of it

    @property
    def scans(self) -> tuple[Scan | None, ...]:
        """The scan of each contrast; None for a missing one."""
        if not self.item.contrasts:
            return (_scan_of(self.item.source),)
        files = self.item.contrasts.values()
        return tuple(None if file is None else _scan_of(file) for file in files)

    @property
    def volume(self) -> int | None:
        """The volume of a file that holds several."""
        return self.item.volume

    def read(self, scan: Scan | None = None) -> Image:
        """The image of one of `scans`, or of the only one, as its file holds it. It is kept for the
        next call, so its pixels cannot be changed.
        """
        return self.reader.kept.read(scan or self.item.source, self.item.volume)

    def on_grid(self, image: Image) -> np.ndarray:
        """An image on the grid of the file as the records sample it: (C, D, H, W) or (C, H, W)."""
        return self.reader.on_grid(image, self.item).pixels


def _scan_of(source: Source) -> Scan:
    if isinstance(source, Scan):
        return source
    return Scan(source, (source,), source.name)


def is_volume(source: Source) -> bool:
    """Whether a source may hold three axes."""
    if isinstance(source, Scan):
        return True
    return io.is_volume(source) or bool(io.series_format(source))


def mismatch(one: Item, other: Item) -> str:
    """How the grids of two images differ, in words; of pictures, their aspect ratios. "" where they
    can be a registered pair. UserError where a header cannot be read.
    """
    differs = io.grids_differ(one.outline, other.outline) or ""
    if differs and not (is_volume(one.source) or is_volume(other.source)):
        (rows, columns), (other_rows, other_columns) = (
            each.outline.pixels.shape[1:] for each in (one, other)
        )
        if abs(rows * other_columns / (columns * other_rows) - 1) <= ASPECT_TOLERANCE:
            return ""
    return differs
