"""Regions that are masked out of an image: found from its corners, and filled in the results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gantk.formats.image import slabs

# Tissue may be darker than a background of 0 by this share of the brightest tissue: interpolation
# leaves such values.
RINGING_SHARE = 0.05
# Where more of the tissue is darker than that, the background is not the black of a scan. Half of
# all z-scores are.
MIN_DARKER_SHARE = 0.1
# of what an image shows, in the mask of its lesions: larger ones are of the head or of tissues
MAX_LESION_SHARE = 0.75


@dataclass(frozen=True)
class Outside:
    """A region at an image's border, masked out with one value per channel."""

    level: np.ndarray  # (C,), NaN for a missing contrast
    bits: np.ndarray  # of the region, packed along the last axis
    width: int  # of the last axis

    @property
    def region(self) -> np.ndarray:
        """The region, (*spatial), bool."""
        return np.stack([*self.planes()])

    def planes(self) -> Iterator[np.ndarray]:
        """The region, one place of its first axis after the other, bool."""
        for plane in self.bits:
            yield np.unpackbits(plane, axis=-1, count=self.width).view(bool)


def outside_of(pixels: np.ndarray) -> Outside | None:
    """The region that is connected to the border and has the corners' common value per channel;
    None where the corners of (C, *spatial) differ. A channel that is NaN throughout is a missing
    contrast: the others decide.
    """
    levels = corner_levels(pixels)
    if levels is None:
        return None

    alike = np.ones(pixels.shape[1:], bool)
    for channel, level in zip(pixels, levels, strict=True):
        if not np.isnan(level):
            alike &= channel == level

    region = from_border(alike)
    return Outside(levels, np.packbits(region, axis=-1), region.shape[-1])


def with_dark_background(pixels: np.ndarray) -> np.ndarray:
    """An image (C, *spatial) whose masked background is as dark as its darkest tissue, for each
    channel by itself; the same array where it is already dark, or where nothing is masked out.

    Z-scores of the tissue alone have a mean of 0, and their background is mostly 0 too: as bright
    as the middle of the tissue.
    """
    done = pixels
    for number, channel in enumerate(pixels):
        dark = _darkest_tissue(channel)
        if dark is None:
            continue
        if done is pixels:
            done = pixels.copy()
        outside = outside_of(channel[None])
        assert outside is not None  # its corners are alike
        np.copyto(done[number], dark, where=outside.region)
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
    corner_places = np.ix_(*[[0, -1]] * (pixels.ndim - 1))
    corners = np.stack([channel[corner_places] for channel in pixels]).reshape(len(pixels), -1)
    known = corners[~np.isnan(corners).all(axis=1)]
    if not known.size or not np.isfinite(known).all() or np.ptp(known, axis=1).any():
        return None
    return corners[:, 0]


def from_border(alike: np.ndarray) -> np.ndarray:
    """`alike`, bool (*spatial), changed to its part that is connected to the border through faces of
    voxels.

    Holes inside a head are left out; one with an opening of one voxel, or cut by the border, is
    included.
    """
    from scipy.ndimage import label  # slow import, needed for masks only

    try:
        regions, count = label(alike, output=np.uint16)
    except RuntimeError:  # more regions than 16 bits can count
        regions, count = label(alike)
    reached = np.zeros(count + 1, bool)
    for axis, side in enumerate(alike.shape):
        if side > 1:
            reached[regions.take([0, -1], axis)] = True

    reached[0] = False  # the label of what is not alike
    for part in slabs(alike.shape):  # an index takes 8 bytes
        alike[part] = reached[regions[part]]
    return alike
