"""Regions that are masked out of an image: found from its corners, and filled in the results."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Tissue may be darker than a background of 0 by this share of the brightest tissue: interpolation
# leaves such values.
RINGING_SHARE = 0.05
# Where more of the tissue is darker than that, the background is not the black of a scan. Half of
# all z-scores are.
MIN_DARKER_SHARE = 0.1


@dataclass(frozen=True)
class Outside:
    """A region at an image's border, masked out with one value per channel."""

    level: np.ndarray  # (C,), NaN for a missing contrast
    planes: list[np.ndarray]  # the region in each plane (H, W), packed to bits

    def fill(self, image: np.ndarray, level: np.ndarray) -> None:
        """Set the region of an image (D, *spatial) to `level`, (D,), in place."""
        for plane, bits in zip(_planes(image), self.planes, strict=True):
            plane[:, _unpack_mask(bits, plane.shape[1:])] = level[:, None]


def outside_of(pixels: np.ndarray) -> Outside | None:
    """The region that is connected to the border and has the corners' common value per channel;
    None where the corners of (C, *spatial) differ. A channel that is NaN throughout is a missing
    contrast: the others decide.
    """
    levels = corner_levels(pixels)
    if levels is None:
        return None

    present = ~np.isnan(levels)
    planes = _planes(pixels)
    known = levels[present].reshape(-1, 1, 1)
    alike = [np.packbits((plane[present] == known).all(axis=0)) for plane in planes]
    region = from_border(alike, (len(planes), *planes.shape[2:]))
    return Outside(levels, region)


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
        outside.fill(done[number : number + 1], np.array([dark]))
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


def from_border(alike: list[np.ndarray], sides: tuple[int, int, int]) -> list[np.ndarray]:
    """The part of `alike`, bit-packed planes (H, W), that is connected to the border through faces
    of voxels.

    Holes inside a head are left out; one with an opening of one voxel, or cut by the border, is
    included. Planes are filled one by one, up and down until nothing changes, so that only bits of
    a volume are in memory.
    """
    from scipy.ndimage import label  # slow import, needed for masks only

    depth, *plane_sides = sides
    edge = np.zeros(plane_sides, bool)
    for axis in (0, 1):
        np.moveaxis(edge, axis, 0)[[0, -1]] |= plane_sides[axis] > 1

    border = np.packbits(edge)
    filled = [np.zeros_like(bits) for bits in alike]
    changed = True
    while changed:
        changed = False
        for k in [*range(depth), *reversed(range(depth))]:
            inner = 0 < k < depth - 1 or depth == 1
            seeds = border if inner else alike[k]
            if k > 0:
                seeds = seeds | filled[k - 1]
            if k + 1 < depth:
                seeds = seeds | filled[k + 1]

            starts = alike[k] & seeds & ~filled[k]
            if starts.any():
                regions, count = label(_unpack_mask(alike[k], plane_sides))
                reached = np.zeros(count + 1, bool)
                reached[regions[_unpack_mask(starts, plane_sides)]] = True
                filled[k] |= np.packbits(reached[regions])
                changed = True

    return filled


def _planes(pixels: np.ndarray) -> np.ndarray:
    """A view of an image (C, *spatial) as planes (planes, C, H, W); a picture has one plane."""
    return np.moveaxis(pixels if pixels.ndim == 4 else pixels[:, None], 1, 0)


def _unpack_mask(bits: np.ndarray, sides) -> np.ndarray:
    return np.unpackbits(bits, count=sides[0] * sides[1]).view(bool).reshape(sides)
