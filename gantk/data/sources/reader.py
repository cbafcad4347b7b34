"""Reads the pixels of rows, whole or plane by plane on a sampling grid. Each volume is decoded
once for all threads.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from gantk.catalog.catalog import Row
from gantk.catalog.contrasts import contrast_names
from gantk.data.masks import fill_enclosed
from gantk.errors import UserError, count_noun
from gantk.formats import files as io
from gantk.formats.image import Image, Scan, in_channels
from gantk.prepare.grid import SamplingGrid, resample_onto

MIN_SIDE_PIXELS = 8  # pixels on each side
MAX_CACHED_BYTES = 2**30  # of decoded images that are kept for the next reader


class KeptImages:
    """Reads images and keeps the last ones, so that each is decoded once, even if several threads
    read it at the same time. Their pixels cannot be changed.
    """

    def __init__(self) -> None:
        self._images: OrderedDict[Hashable, Image] = OrderedDict()
        self._bytes = 0
        self._locks: dict[Hashable, Lock] = {}
        self._lock = Lock()

    def read(self, scan: Scan, volume: int | None = None) -> Image:
        """What `gantk.formats.files.read` returns for a scan."""
        return self.get((scan.files, scan.volume, volume), partial(io.read, scan, volume))

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


class Reader:
    """Reads images of `dims` axes on the sampling grid `view`, and checks each against the first of
    its domain.
    """

    def __init__(self, dims: int):
        self.dims = dims
        self.channels: int | None = None  # that all images are converted to
        self.view = SamplingGrid()
        self.fill_masks = False  # whether what masks enclose is lesion too
        self._first: dict[str, tuple[int, Path]] = {}  # domain -> channels of the first file read
        self.kept = KeptImages()
        self.inspected: dict[Scan, Any] = {}  # what `data check` has found in the files

    def read(self, row: Row, plane: int | None = None) -> np.ndarray:
        """Read a row, or one plane of its volume, as float32 (C, *spatial); a UserError names the
        file.
        """

        def pixels(one: Row) -> np.ndarray:
            # A copy of the plane: a view would keep the whole volume in memory.
            whole = self._on_view(one)
            found = (whole if plane is None else whole[:, plane]).copy()
            self._expect_dims(one.scan.path, found)
            return found

        return self._channels_of(row, pixels)

    def scan(self, row: Row) -> np.ndarray:
        """Read the whole volume, whose planes `read` returns, as float32 (C, D, H, W); it must not
        be changed.
        """
        return self._channels_of(row, self._on_view)

    def mask(self, row: Row, plane: int | None = None) -> np.ndarray:
        """Read a row's mask as float32 (1, *spatial): 1 where any label is above 0, else 0.

        On a view that resamples: 1 where more than half of a voxel is inside the mask.
        """
        file = row.mask
        assert file is not None
        key = "mask", file, row.onto, self.view
        shares = self.kept.get(key, partial(self._mask, row, file)).pixels
        if plane is not None:
            shares = shares[:, plane]

        self._expect_dims(file, shares)
        return (shares.max(axis=0, keepdims=True) > 0.5).astype(np.float32)

    def planes(self, row: Row, shares: tuple[float, float]) -> tuple[int | None, ...]:
        """The indices of a row's planes between two shares of its stack, one at least; `(None,)`
        if read whole.
        """
        image = row.grid if self.dims == 2 and row.is_volume else None
        if image is None or image.dims < 3:
            return (None,)

        low, high = shares
        if not 0 <= low < high <= 1:
            raise UserError(
                f"planes = {list(shares)} is not a valid part of a volume",
                where="data.source.planes",
                allowed="[start, end] with 0 <= start < end <= 1",
            )

        count = self.view.sides(image.pixels.shape[1:], image.spacing)[0]
        return tuple(range(int(low * count), max(int(high * count), int(low * count) + 1)))

    def _channels_of(self, row: Row, read: Callable[[Row], np.ndarray]) -> np.ndarray:
        """float32 (C, *spatial): the checked result of `read`, or a channel for each contrast, NaN
        if missing.
        """
        if not row.contrasts:
            return self._fit_channels(row, read(row))

        channels = {
            name: self._fit_channels(row, read(replace(row, scan=scan, contrasts=None)))[0]
            for name, scan in row.contrasts.items()
            if scan is not None
        }
        missing = np.full_like(next(iter(channels.values())), np.nan)
        return np.stack([channels.get(name, missing) for name in row.contrasts])

    def _expect_dims(self, path: Path, pixels: np.ndarray) -> None:
        if pixels.ndim - 1 != self.dims:
            raise UserError(
                f"'{path}' has {pixels.ndim - 1} axes, but data.dims is {self.dims}",
                where="data.dims",
                allowed="volumes (NIfTI, NRRD or DICOM series) for 3; pictures, or volumes that can"
                " be cut into slices, for 2",
                remedy=f"use a recipe with data.dims = {pixels.ndim - 1}",
            )

    def _fit_channels(self, row: Row, pixels: np.ndarray) -> np.ndarray:
        """The pixels in gray or colour, as set; UserError for too few, or other channels than the
        domain's first.
        """
        if min(pixels.shape[1:]) < MIN_SIDE_PIXELS and self.dims == pixels.ndim - 1:
            shape = " x ".join(map(str, pixels.shape[1:]))
            raise UserError(
                f"'{row.scan.path}' has only {shape} pixels",
                allowed=f"at least {MIN_SIDE_PIXELS} pixels on each side",
            )

        if self.channels == 3 and len(pixels) == 1:
            image = self.kept.read(row.scan)
            # no file of another kind holds the colours that a model would make of it
            if image.affine is not None or image.dtype != np.uint8:
                raise UserError(
                    f"'{row.scan.path}' is gray and no picture of 8 bits, so it cannot be made a"
                    " colour picture",
                    where="data.channels",
                    remedy="--set data.channels=1",
                )
        pixels = in_channels(pixels, self.channels)
        channels, first = self._first.setdefault(row.letter, (len(pixels), row.scan.path))
        if len(pixels) != channels:
            raise UserError(
                f"'{row.scan.path}' has {count_noun(pixels, 'channel')}, but '{first}' has {channels}",
                where="data.source",
                remedy="choose gray or colour: --set data.channels=1, or 3",
            )

        return np.ascontiguousarray(pixels)

    def on_grid(self, image: Image, row: Row) -> Image:
        """An image on the grid of a row's file, as this reader samples it."""
        return self.view.forward(resample_onto(image, row.grid) if row.onto else image)

    def _on_view(self, row: Row) -> np.ndarray:
        """The pixels (C, D, H, W), or (C, H, W), of a row on the view; they cannot be changed."""
        if self.view.is_plain and not row.onto:
            return self.kept.read(row.scan).pixels

        def sample() -> Image:
            return self.on_grid(self.kept.read(row.scan), row)

        return self.kept.get((row.scan, row.onto, self.view), sample).pixels

    def _mask(self, row: Row, file: Path) -> Image:
        """The share of each voxel that is inside the mask, 0 to 1, on the view's grid."""
        image = self.lesions(file)
        return self.view.forward(resample_onto(image, row.grid, order=0) if row.onto else image)

    def lesions(self, file: Path) -> Image:
        """A mask of lesions as its file has it, float32 of 0 and 1."""
        image = io.read(file)
        marked = image.pixels > 0
        if self.fill_masks:
            marked = fill_enclosed(marked)
        return replace(image, pixels=marked.astype(np.float32))


@dataclass(frozen=True, slots=True)
class FileImage:
    """The image in the file or files of a record, and the record's part of it."""

    reader: Reader
    row: Row
    plane: int | None  # of the record in the stack of `on_grid`; None: all of it

    @property
    def scans(self) -> Mapping[str, Scan | None]:
        """The scan of each contrast, None for a missing one; "" where there is only one."""
        return self.row.contrasts or {"": self.row.scan}

    def read(self, scan: Scan | None = None) -> Image:
        """The image of one of `scans`, or of the only one, as its file holds it. It is kept for the
        next call, so its pixels cannot be changed.
        """
        return self.reader.kept.read(scan or self.row.scan)

    def images(self, domain: str) -> dict[str, Image]:
        """The images in its files by the contrasts of its domain, without the missing ones; by the
        `domain` the only one.
        """
        names = contrast_names(domain) if len(self.scans) > 1 else [domain]
        scans = zip(names, self.scans.values(), strict=True)
        return {name: self.read(scan) for name, scan in scans if scan}

    def on_grid(self, image: Image) -> np.ndarray:
        """An image on the grid of the file as the records sample it: (C, D, H, W) or (C, H, W)."""
        return self.reader.on_grid(image, self.row).pixels
