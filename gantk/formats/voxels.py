"""What the formats of volumes share: SimpleITK, and results in the integer type of the source."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np

SLACK_BYTES = 2**20  # bytes that are read beyond the last volume


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
