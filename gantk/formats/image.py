"""An image in memory: its pixels, and what is needed to write another one onto the same grid."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Image:
    """Pixels in native intensities, beside the file's own geometry.

    Pixels always stand upright, whatever the order in the file: rows from anterior (or the top) down, columns from
    the patient's right (or the left of the picture), planes from inferior to superior. Writers undo this.
    """

    pixels: np.ndarray  # float32 (C, *spatial): (C, H, W) or (C, D, H, W)
    affine: np.ndarray | None = None  # 4x4, the FILE's voxel indices (i, j, k) to mm (right, anterior, superior)
    path: Path | None = None
    dtype: np.dtype | None = None  # as stored in the file
    header: Any = None  # the format's own, kept for writing back

    @property
    def dims(self) -> int:
        """2 for a picture or slice, 3 for a volume."""
        return self.pixels.ndim - 1

    @property
    def channels(self) -> int:
        """1 for gray, 3 for colour."""
        return self.pixels.shape[0]

    @property
    def file_shape(self) -> tuple[int, int, int]:
        """Voxels along the FILE's axes (i, j, k), 1 where there is no such axis: as its header says, or by the affine.

        A slice without a header is taken to be one plane k, as in DICOM.
        """
        sides = tuple(int(n) for n in getattr(self.header, "get_data_shape", tuple)()[:3])
        spatial = self.pixels.shape[1:]
        if sides and sorted(n for n in sides if n > 1) == sorted(n for n in spatial if n > 1):
            return sides + (1,) * (3 - len(sides))
        if self.affine is None:
            return (*spatial[::-1], 1) if self.dims == 2 else spatial[::-1]
        return shape_in_file(spatial, self.affine)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Millimetres from one pixel to the next along each axis of the pixels: (H, W) or (D, H, W); 1.0 if unknown."""
        if self.affine is None:
            return (1.0,) * self.dims
        from gantk.formats.orientation import turn

        shape = self.file_shape
        steps, sides = np.ones(3), np.ones(3, int)
        for axis, target in enumerate(turn(self.affine, shape)[:, 0].astype(int)):
            steps[2 - target] = np.linalg.norm(self.affine[:3, axis])
            sides[2 - target] = shape[axis]
        return tuple(float(step) for step, side in zip(steps, sides, strict=True) if side > 1)

    @property
    def grid(self) -> Hashable:
        """What two images on one grid share: the sides of the pixels, and the affine to 0.01 mm; to be compared."""
        affine = None if self.affine is None else tuple(np.round(self.affine, 2).ravel() + 0.0)
        return self.pixels.shape[1:], affine


def shape_in_file(spatial: tuple[int, ...], affine: np.ndarray) -> tuple[int, int, int]:
    """The sides along (i, j, k) of a file with this affine whose upright pixels have the sides `spatial`."""
    from gantk.formats.orientation import upright_sides

    sides = (*spatial, *(1,) * (3 - len(spatial)))
    for shape in sorted(set(permutations(sides)), key=lambda shape: shape[2] != 1):
        if tuple(n for n in upright_sides(shape, affine) if n > 1) == tuple(n for n in spatial if n > 1):
            return shape
    raise ValueError(f"no file with the affine {affine} has upright sides {spatial}")


def in_file_order(upright: np.ndarray, shape: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
    """A view (i, j, k) in the file's order of an upright array (D, H, W); what is written into it stands upright."""
    from gantk.formats.orientation import turn

    axes = turn(affine, shape)
    view = upright.transpose(2, 1, 0).transpose(axes[:, 0].astype(int))
    return np.flip(view, [axis for axis in range(3) if axes[axis, 1] < 0])
