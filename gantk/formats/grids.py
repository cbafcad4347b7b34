"""Whether two files show the same voxels: told from their headers, before anything is decoded."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np

from gantk.data.resample import same_grid
from gantk.formats import files as io
from gantk.formats.image import Image

# What a source names as one image: a file, or the files of a DICOM series.
Source = Path | io.Scan


def outline(source: Source, volume: int | None = None) -> Image:
    """What `read` gives of a source, from headers alone: its grid, with zeros that take no memory for pixels.

    `volume` chooses one of a file of several, counted from 0. What cannot be read is a UserError.
    """
    files = source.files if isinstance(source, io.Scan) else (source,)
    suffix = io.suffix_of(files[0]) if len(files) == 1 and files[0].is_file() else ""
    if suffix in io.VOLUMES:
        return importlib.import_module(io.FORMATS[suffix]).outline(files[0], volume)
    if suffix in io.SUFFIXES:
        from gantk.formats import pictures as png

        return png.outline(files[0])
    if all(map(Path.is_file, files)) and volume is None:
        from gantk.formats import dicom

        return dicom.outline(files)
    image = io.read(source, volume)
    return Image(_zeros(image.pixels.shape[1:]), image.affine, image.path, image.dtype, image.header)


def difference(one: Source, other: Source, volume: int | None = None, other_volume: int | None = None) -> str | None:
    """How the grids of two sources differ, in words; None where they are one grid."""
    first, second = outline(one, volume), outline(other, other_volume)
    if first.pixels.shape[1:] != second.pixels.shape[1:]:
        return " against ".join(" x ".join(map(str, image.pixels.shape[1:])) for image in (first, second))
    return None if same_grid(first, second) else "as many voxels, at other places (their affines differ)"


def _zeros(sides: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(np.float32(0), (1, *sides))
