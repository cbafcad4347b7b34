"""Voxels between files and memory: streamed into upright float32 by slabs, and back to the integers that they were.

The type that is written: where the source was stored as integers and every value lies on their grid, within 1e-3 of a
step, the file holds integers of that type. The grid is whole numbers, or stored * slope + intercept where the file has
these; the 1e-3 are what float32 arithmetic leaves of whole numbers, or 5e-7 of the largest value where that is more (up
to 0.05 of a step). All else is written as float32, also where the source held float64, since pixels are float32.
"""

from __future__ import annotations

import bz2
import gzip
import io
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from gantk.errors import UserError
from gantk.formats.limits import expect_held

CHUNK = 8 * 2**20  # bytes that are decoded at a time
SLACK = 2**20  # bytes that may follow the voxels, as padding or notes


@dataclass(frozen=True)
class Stored:
    """Where the voxels of one volume lie: (i, j, k), i fastest, in a stream that is a file's or packed in it."""

    path: Path
    shape: tuple[int, int, int]
    dtype: np.dtype  # with its byte order
    start: int = 0  # bytes of the stream before the volume
    end: int = 0  # bytes of the stream up to the end of the last volume
    packing: str = ""  # "", "gzip", "zlib" or "bzip2"
    opens: int = 0  # byte of the file at which the stream begins
    slope: float = 1.0
    inter: float = 0.0

    def expect_whole(self) -> None:
        """UserError where the file's size tells that it cannot be what its header declares."""
        held = self.path.stat().st_size - self.opens
        if self.packing != "bzip2":  # of which a byte can become any number
            expect_held(self.path, self.end, held, packed=bool(self.packing))
        if not self.packing and held > self.end + SLACK:
            raise self._longer()

    def decode(self, voxels: np.ndarray) -> None:
        """Fill a view (i, j, k) of float32, a few planes k at a time. Cut short, damaged, or longer: UserError."""
        try:
            with np.errstate(all="ignore"):
                self._decode(voxels)
        except (OSError, EOFError, zlib.error) as error:  # gzip, bzip2 and zlib each have their own
            what = f"the voxels of '{self.path}' cannot be unpacked: {error}"
            raise UserError(what, remedy="copy it again, or leave it out") from error

    def _decode(self, voxels: np.ndarray) -> None:
        plane = int(np.prod(self.shape[:2])) * self.dtype.itemsize
        planes = max(1, CHUNK // plane)
        buffer = bytearray(min(planes, self.shape[2]) * plane)
        with self.path.open("rb") as file:
            file.seek(self.opens)
            stream = _unpacked(file, self.packing)
            self._skip(stream, buffer)
            for first in range(0, self.shape[2], planes):
                count = min(planes, self.shape[2] - first)
                self._fill(stream, memoryview(buffer)[: count * plane])
                slab = np.frombuffer(buffer, self.dtype, count * plane // self.dtype.itemsize)
                if (self.slope, self.inter) != (1, 0):
                    slab = slab.astype(np.float64) * self.slope + self.inter
                voxels[:, :, first : first + count] = slab.reshape(*self.shape[:2], count, order="F")
            if self.packing and self.start + self.shape[2] * plane == self.end and _goes_on(stream):
                raise self._longer()

    def _fill(self, stream: BinaryIO, view: memoryview) -> None:
        while view:
            count = stream.readinto(view)
            if not count:
                what = f"'{self.path}' is cut short: its voxels end before the {self.end} bytes that it declares"
                raise UserError(what, remedy="copy it again, or leave it out")
            view = view[count:]

    def _skip(self, stream: BinaryIO, buffer: bytearray) -> None:
        if not self.packing:
            stream.seek(self.opens + self.start)
            return
        rest = self.start
        while rest:
            part = memoryview(buffer)[: min(rest, len(buffer))]
            self._fill(stream, part)
            rest -= len(part)

    def _longer(self) -> UserError:
        what = f"'{self.path}' goes on far beyond the {self.end} bytes of voxels that its header declares"
        return UserError(what, remedy="its header is wrong: copy it again, or leave it out")


def as_integers(
    voxels: np.ndarray, dtype: np.dtype | None, slope: float = 1.0, inter: float = 0.0
) -> np.ndarray | None:
    """The integers of the source's type that stand for the values (i, j, k), None where one lies off their grid."""
    if dtype is None or not np.issubdtype(dtype, np.integer):
        return None
    limits, step = np.iinfo(dtype), abs(slope)
    peak = max(abs(float(voxels.min())), abs(float(voxels.max())))
    near = min(max(1e-3 * step, 5e-7 * peak), 0.05 * step)
    stored = np.empty(voxels.shape, np.dtype(dtype).newbyteorder("="), order="F")
    for k in range(voxels.shape[2]):
        values = voxels[:, :, k].astype(np.float64)
        whole = np.rint((values - inter) / slope)
        back = whole * slope + inter
        exact = (np.abs(back - values) <= near) | (back.astype(np.float32) == voxels[:, :, k])
        if not exact.all() or whole.min() < limits.min or whole.max() >= float(limits.max) + 1:
            return None
        stored[:, :, k] = whole
    return stored


def _unpacked(file: BinaryIO, packing: str) -> BinaryIO:
    if packing == "zlib":
        return _Inflated(file)
    opener = {"gzip": gzip.GzipFile, "bzip2": bz2.BZ2File}.get(packing)
    return opener(filename=file) if packing == "bzip2" else opener(fileobj=file) if opener else file


def _goes_on(stream: BinaryIO) -> bool:
    """Whether more than a little follows; reading to the end also has a stream check its sum."""
    rest, buffer = 0, bytearray(2**16)
    while rest <= SLACK and (count := stream.readinto(buffer)):
        rest += count
    return rest > SLACK


class _Inflated(io.RawIOBase):
    """A zlib stream as a file, of which no more is inflated than is asked for."""

    def __init__(self, file: BinaryIO):
        self.file, self.inflater, self.packed = file, zlib.decompressobj(), b""

    def readable(self) -> bool:
        return True

    def readinto(self, view: memoryview) -> int:
        while not self.inflater.eof:
            packed = self.inflater.unconsumed_tail or self.file.read(2**16)
            plain = self.inflater.decompress(packed, len(view))
            if plain:
                view[: len(plain)] = plain
                return len(plain)
            if not packed:
                break
        return 0
