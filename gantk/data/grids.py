"""Whether two files show the same voxels: told from their headers, before anything is decoded."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gantk.data.io import VOLUMES, suffix_of
from gantk.errors import UserError

TOLERANCE = 0.02  # mm: headers are rounded


def grid_of(path: Path) -> tuple[tuple[int, ...], np.ndarray | None]:
    """The sides of a file's image as it will be read, and its affine where it has one. Unreadable: UserError."""
    if suffix_of(path) in VOLUMES:
        from gantk.data.nifti import grid, upright_shape

        return upright_shape(path), np.asarray(grid(path)[1])
    import PIL.Image

    try:
        with PIL.Image.open(path) as picture:
            turned = picture.format in ("JPEG", "MPO") and picture.getexif().get(0x0112, 1) >= 5
            return (picture.size if turned else picture.size[::-1]), None
    except OSError as error:
        raise UserError(f"'{path}' cannot be read as a picture: {error}", remedy="leave the file out") from error


def difference(one: Path, other: Path) -> str | None:
    """How the grids of two files differ, in words; None where they are one grid."""
    (shape, affine), (other_shape, other_affine) = grid_of(one), grid_of(other)
    if shape != other_shape:
        return " against ".join(" x ".join(map(str, sides)) for sides in (shape, other_shape))
    if affine is not None and other_affine is not None and not np.allclose(affine, other_affine, atol=TOLERANCE):
        return "as many voxels, at other places (their affines differ)"
    return None
