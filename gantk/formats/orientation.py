"""How a volume lies in the patient: from the file's order of voxels to upright pixels, and back, without a loss."""

from __future__ import annotations

import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

UPRIGHT = np.diag([-1.0, -1.0, 1.0, 1.0])  # the affine of a picture that has none: left, posterior, superior


def to_upright(voxels: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Voxels (i, j, k), or more, in the file's order to (D, H, W): planes from inferior to superior, rows from anterior
    down, columns from the patient's right. A single slice that is not axial has its rows from superior down."""
    return apply_orientation(voxels, turn(affine, voxels.shape)).transpose(2, 1, 0)


def from_upright(pixels: np.ndarray, shape: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
    """Upright pixels, with or without axes of one voxel, back in the file's order; `shape` is the file's (i, j, k)."""
    upright = pixels.reshape(upright_sides(shape, affine)).transpose(2, 1, 0)
    back = ornt_transform(_codes(affine, shape), io_orientation(affine))
    return np.ascontiguousarray(apply_orientation(upright, back))


def upright_sides(shape: tuple[int, int, int], affine: np.ndarray) -> tuple[int, int, int]:
    """(D, H, W) that `to_upright` gives for a file of this shape."""
    sides = [0, 0, 0]
    for axis, target in enumerate(turn(affine, shape)[:, 0].astype(int)):
        sides[target] = shape[axis]
    return tuple(sides[::-1])


def turn(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """nibabel's orientation array (3, 2): where each axis of the file goes (columns, rows, planes), and its sign."""
    return ornt_transform(io_orientation(affine), _codes(affine, shape))


def _codes(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Left, posterior, superior; where the picture is no axial slice, its rows run from superior down instead."""
    axes = io_orientation(affine)[:, 0]
    flat = [axes[axis] for axis in range(3) if shape[axis] == 1]
    return axcodes2ornt(("L", "P", "I") if flat and 2 not in flat else ("L", "P", "S"))
