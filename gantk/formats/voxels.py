"""Decodes the voxels of files to float32, a few planes at a time, and converts results to the
integer type of the source.
"""

from __future__ import annotations

import gzip
import io
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from gantk.files import ANY_SIZE, regular_file
from gantk.formats.budget import CHUNK_BYTES, expect_held, spend
from gantk.formats.image import Image, in_file_order, three_sides, upright_sides, zeros

SLACK_BYTES = 2**20  # bytes that are read beyond the last volume


@dataclass(frozen=True)
class Stored:
    """Where the voxels (i, j, k) of one volume are stored, i fastest: in a file, or in a compressed
    stream inside it.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype  # with its byte order
    start: int = 0  # bytes of the stream before the volume
    end: int = 0  # bytes of the stream up to the end of the last volume
    packing: str = ""  # "" or "gzip"
    scale: tuple[float, float] | None = None  # slope and intercept; None: stored as they are

    def expect_whole(self) -> None:
        """Broken where the file is too small to hold the voxels, packed or not."""
        expect_held(
            self.end,
            regular_file(self.path, max_bytes=ANY_SIZE).stat().st_size,
            self.packing,
        )

    def image(
        self,
        path: Path,
        affine: np.ndarray,
        header: Any,
        values: bool,
        file: io.BufferedReader,
    ) -> Image:
        """The upright image of the volume, (1, D, H, W) or (1, H, W): axes of one voxel are dropped.
        Without `values` its pixels are zeros without memory. `file`: the stored one, which is open.
        """
        shape = three_sides(self.shape)
        sides = upright_sides(shape, affine)
        upright = zeros(*sides)
        if values:
            spend(values=int(np.prod(shape, dtype=object)))
            upright = np.empty(sides, np.float32)
            self._decode(self._unpack(file), in_file_order(upright, shape, affine))
        pixels = upright.reshape(1, *(n for n in sides if n > 1))
        return Image(pixels, affine, path, self.dtype.newbyteorder("="), header)

    def _decode(self, stream: io.BufferedIOBase, voxels: np.ndarray) -> None:
        """Fill a view (i, j, k) of float32, a few planes k at a time, scaled in float64; an error if
        the stream is truncated or damaged.
        """
        plane = int(np.prod(self.shape[:2])) * self.dtype.itemsize
        planes = max(1, CHUNK_BYTES // plane)
        stream.seek(self.start)
        for first in range(0, self.shape[2], planes):
            spend()
            count = min(planes, self.shape[2] - first)
            content = stream.read(count * plane)
            if len(content) < count * plane:
                raise ValueError(
                    f"it is truncated: its header declares {self.end} bytes of voxels, but"
                    " there are fewer"
                )

            slab = np.frombuffer(content, self.dtype).reshape(*self.shape[:2], count, order="F")
            if self.scale:
                slope, inter = self.scale
                slab = slab.astype(np.float64) * slope + inter
            voxels[:, :, first : first + count] = slab

        stream.read(SLACK_BYTES)  # padding, and after the last volume the stream's checksum

    def _unpack(self, file: io.BufferedIOBase) -> io.BufferedIOBase:
        if self.packing == "gzip":
            file.seek(0)
            return gzip.GzipFile(fileobj=file)
        return file


def simpleitk() -> ModuleType:
    """SimpleITK, which prints no warnings; imported late because it takes a third of a second."""
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    return SimpleITK


def name_for_itk(path: Path) -> str:
    """A path for SimpleITK, which ends the process where a name is not UTF-8: UnicodeEncodeError."""
    str(path).encode()
    return str(path)


def as_integers(
    voxels: np.ndarray, dtype: np.dtype | None, slope: float = 1.0, inter: float = 0.0
) -> np.ndarray | None:
    """The values (i, j, k) as stored integers of the source's type; None where one is not on
    their grid.
    """
    if dtype is None or not np.issubdtype(dtype, np.integer):
        return None

    limits = np.iinfo(dtype)
    step = abs(slope)
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
