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
    black, white = ends

    def in_gray(image: np.ndarray) -> np.ndarray:
        share = np.clip((image - black) / (white - black), 0, 1)
        return np.repeat(share[..., None] * 255.0, 3, axis=2)

    left = in_gray(seen)
    middle = in_gray(made)
    middle[region & ~binary_erosion(region)] = OUTLINE
    strength = np.abs(found)
    top = np.percentile(strength, SATURATION_PERCENTILE) or strength.max() or 1.0
    share = np.clip(strength / top, 0, 1)[..., None]
    colour = np.where(found[..., None] > 0, RED, BLUE)
    right = (1 - share) * 0.7 * left + share * colour
    return np.concatenate([left, middle, right], axis=1).round().astype(np.uint8)


def png(pixels: np.ndarray) -> bytes:
    """Encode a picture as PNG bytes; small ones are enlarged to at least 256 pixels a side."""
    times = max(1, -(-256 // min(pixels.shape[0], pixels.shape[1] // 3)))
    file = BytesIO()
    Image.fromarray(pixels.repeat(times, 0).repeat(times, 1)).save(file, "PNG")
    return file.getvalue()
