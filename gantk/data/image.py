"""An image in memory: its pixels, and what is needed to write another one onto the same grid."""

from __future__ import annotations

from dataclasses import dataclass
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
