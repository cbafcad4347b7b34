"""Masks of lesions, which are filled and drawn; and regions that are masked out of an image, found from its
corners.
"""

from __future__ import annotations

import numpy as np
from PIL import Image as Picture

# Tissue may be darker than a background of 0 by this share of the brightest tissue: interpolation
# leaves such values.
RINGING_SHARE = 0.05
# Where more of the tissue is darker than that, the background is not the black of a scan. Half of
# all z-scores are.
MIN_DARKER_SHARE = 0.1
# of what an image shows, in the mask of its lesions: larger ones are of the head or of tissues
MAX_LESION_SHARE = 0.75
MAX_GAP = 2  # pixels on each side of a gap that is closed
OUTLINE = (0, 255, 255)  # cyan: neither a gray nor a colour of the errors


def fill_enclosed(masks: np.ndarray) -> np.ndarray:
    """Masks, bool (..., H, W), with what they enclose in each plane, also through a gap of up to twice
    MAX_GAP pixels, as of a rim around necrosis.
    """
    from scipy.ndimage import (  # slow import, needed for masks only
        binary_dilation,
        binary_erosion,
        binary_fill_holes,
        generate_binary_structure,
    )

    cross = generate_binary_structure(2, 1)[None]  # in a plane
    planes = masks.reshape(-1, *masks.shape[-2:])
    margin = [(0, 0), (MAX_GAP, MAX_GAP), (MAX_GAP, MAX_GAP)]
    wide = binary_dilation(np.pad(planes, margin), cross, MAX_GAP)
    whole = binary_erosion(binary_fill_holes(wide, cross), cross, MAX_GAP)
    return whole[:, MAX_GAP:-MAX_GAP, MAX_GAP:-MAX_GAP].reshape(masks.shape)


def outline(picture: Picture.Image, lesion: np.ndarray) -> Picture.Image:
    """A picture with a line of one pixel around a lesion (1, H, W), which leaves its inside as it is."""
    from scipy.ndimage import binary_dilation  # slow import

    inside = lesion[0] > 0
    line = Picture.fromarray(binary_dilation(inside) & ~inside)
    drawn = picture.convert("RGB")
    drawn.paste(OUTLINE, mask=line)
    return drawn


def masked_out(pixels: np.ndarray) -> np.ndarray:
    """The region of an image (C, *spatial), bool (*spatial), that is connected to the border through
    faces of voxels and has the corners' value in each channel; nothing where the corners differ. A
    channel that is NaN throughout is a missing contrast: the others decide.

    Holes inside a head are left out; one with an opening of one voxel, or cut by the border, is
    included.
    """
    from scipy.ndimage import binary_fill_holes  # slow import, needed for masks only

    inside = np.zeros(pixels.shape[1:], bool)
    levels = corner_levels(pixels)
    if levels is None:
        return inside
    for channel, level in zip(pixels, levels, strict=True):
        if not np.isnan(level):
            inside |= channel != level
    filled = binary_fill_holes(inside.squeeze())  # all of a single slice is at its border
    return ~filled.reshape(inside.shape)


def with_dark_background(pixels: np.ndarray) -> np.ndarray:
    """An image (C, *spatial) whose masked background is as dark as its darkest tissue, for each
    channel by itself; the same array where it is already dark, or where nothing is masked out.

    Z-scores of the tissue alone have a mean of 0, and their background is mostly 0 too: as bright
    as the middle of the tissue.
    """
    done = pixels
    for number, channel in enumerate(pixels):
        dark = _darkest_tissue(channel)
        if dark is not None:
            done = pixels.copy() if done is pixels else done
            done[number][masked_out(channel[None])] = dark
    return done


def _darkest_tissue(channel: np.ndarray) -> float | None:
    """The value of the darkest tissue, where much of the tissue is darker than the masked
    background; None where it is not.
    """
    levels = corner_levels(channel[None])
    if levels is None or channel.min() >= levels[0]:
        return None

    level = levels[0]
    tissue = channel[channel != level]
    lowest, high = np.percentile(tissue, [0.01, 99.5])
    darker = np.count_nonzero(tissue < level - RINGING_SHARE * (high - level))
    if high <= level or darker < MIN_DARKER_SHARE * tissue.size:
        return None
    return float(lowest)


def corner_levels(pixels: np.ndarray) -> np.ndarray | None:
    """The value of all corners of each channel of (C, *spatial), (C,), NaN for a missing contrast;
    None where the corners of a channel differ: nothing is masked out.
    """
    ends = [slice(None, None, max(1, side - 1)) for side in pixels.shape[1:]]
    corners = pixels[:, *ends].reshape(len(pixels), -1)
    known = corners[~np.isnan(corners).all(axis=1)]
    if not known.size or not np.isfinite(known).all() or np.ptp(known, axis=1).any():
        return None
    return corners[:, 0]
