"""Warns of arrays whose axes seem not to be planes, rows and columns: nothing else notices them."""

from __future__ import annotations

import numpy as np

from gantk.inference.notes import Note

COMPARED_SIDE = 48  # about how many planes of each axis are compared with their mirror image
MIN_COMPARED_SIDE = 8
# correlation of a volume with its mirror image: 10 heads of 5 sets have 0.82 to 0.99 along the axis
# from left to right, and 0.13 to 0.44 less from inferior to superior
MIN_SYMMETRY = 0.5
SYMMETRY_GAIN = 0.1
HEAD_SHARE = 0.1  # of the way from air to the brightest tissue: what is brighter is the head
# an axial head on its side: its height over its width, and the gain in symmetry from top to bottom. Of
# 37 scans of 5 sets none is taken for one, and 34 are if turned; of 12 stacks of pictures none, and 3
MAX_SIDEWAYS_RATIO = 0.95
SIDEWAYS_GAIN = 0.05


def doubts_about_axes(volume: np.ndarray) -> list[Note]:
    """A warning where the axes of a volume seem not to be its planes, rows and columns."""
    if has_slices_last(volume):
        line = (
            "the array looks like (x, y, z), as of get_fdata(), but its axes are taken as slices,"
            " rows and columns: translate the nibabel image itself"
        )
    elif lies_sideways(volume):
        line = (
            "the head in the array seems to lie on its side: turn its slices nose up, as displayed,"
            " by np.rot90(array, axes=(1, 2)), or translate the nibabel image itself"
        )
    else:
        return []
    return [("warning", line)]


def has_slices_last(volume: np.ndarray) -> bool:
    """Whether a volume seems to have the axes (x, y, z), not (planes, rows, columns): its last axis is
    at most half as long as the others, or it is more like its mirror image along the first axis than
    along the last, as a head is from left to right.
    """
    if 2 * volume.shape[2] <= min(volume.shape[:2]):
        return True

    steps = (max(1, side // COMPARED_SIDE) for side in volume.shape)
    some = volume[tuple(slice(None, None, step) for step in steps)].astype(np.float64)
    if min(some.shape) < MIN_COMPARED_SIDE or not np.ptp(some) > 0:
        return False

    return symmetry(some, 0) > max(MIN_SYMMETRY, symmetry(some, 2) + SYMMETRY_GAIN)


def lies_sideways(volume: np.ndarray) -> bool:
    """Whether the head in a volume (planes, rows, columns) seems to be turned by a quarter: it is
    wider than high, and more symmetric from top to bottom than from left to right.
    """
    planes = max(1, len(volume) // COMPARED_SIDE)
    step = max(1, min(volume.shape[1:]) // COMPARED_SIDE)
    some = volume[::planes, ::step, ::step].astype(np.float64)
    air, brightest = np.percentile(some, [5, 99.5])
    bright = some > air + HEAD_SHARE * (brightest - air)
    rows = np.flatnonzero(bright.any((0, 2)))
    columns = np.flatnonzero(bright.any((0, 1)))
    if min(len(some), len(rows), len(columns)) < MIN_COMPARED_SIDE:
        return False

    head = some[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    if head.shape[1] >= MAX_SIDEWAYS_RATIO * head.shape[2]:
        return False
    return symmetry(head, 1) > symmetry(head, 2) + SIDEWAYS_GAIN


def symmetry(volume: np.ndarray, axis: int) -> float:
    """The correlation of a volume with its mirror image along an axis."""
    return float(np.corrcoef(volume.ravel(), np.flip(volume, axis).ravel())[0, 1])
