"""Draws an explanation: input, translation with the region's outline, map over the input."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from PIL import Image
from scipy.ndimage import binary_erosion

RED = np.array([255, 40, 20])
BLUE = np.array([30, 90, 255])
OUTLINE = np.array([255, 210, 0])
SATURATION_PERCENTILE = 99.5  # percentile of the map's magnitudes above which colours are saturated


def panels(
    seen: np.ndarray, made: np.ndarray, found: np.ndarray, region: np.ndarray, ends: Sequence[float]
) -> np.ndarray:
    """Draw images (H, W) in network intensities, black and white at `ends`, a map and a region;
    uint8 (H, 3 W, 3).
    """
    gray = [
        np.clip((each - ends[0]) / (ends[1] - ends[0]), 0, 1)[..., None] * 255.0
        for each in (seen, made)
    ]
    left, middle = (np.repeat(each, 3, axis=2) for each in gray)
    middle[region & ~binary_erosion(region)] = OUTLINE
    top = np.percentile(np.abs(found), SATURATION_PERCENTILE) or np.abs(found).max() or 1.0
    share = np.clip(np.abs(found) / top, 0, 1)[..., None]
    right = (1 - share) * 0.7 * left + share * np.where(found[..., None] > 0, RED, BLUE)
    return np.concatenate([left, middle, right], axis=1).round().astype(np.uint8)


def png(pixels: np.ndarray) -> bytes:
    """Encode a picture as PNG bytes; small ones are enlarged to at least 256 pixels a side."""
    times = max(1, -(-256 // min(pixels.shape[0], pixels.shape[1] // 3)))
    file = BytesIO()
    Image.fromarray(pixels.repeat(times, 0).repeat(times, 1)).save(file, "PNG")
    return file.getvalue()
