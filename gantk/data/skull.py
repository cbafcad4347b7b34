"""Tells a whole head from a skull-stripped one: below the bright rim of skin and fat lies dark bone.

Bone is dark in MR of every contrast. Figures: benchmarks/results/input-checks.md.
"""

from __future__ import annotations

import numpy as np

from gantk.data.masks import corner_levels, with_dark_background
from gantk.formats.image import Image

STEP_MM = 2.0  # distance of the voxels that are looked at, and thickness of the layers
AIR_SHARE = 0.08  # of the 99.5th percentile: what is darker is air
MIN_PLANE_SHARE = 0.6  # of the largest plane: smaller ones are the top or the bottom of a head
BONE_LAYERS = slice(3, 9)  # depths of 6 to 18 mm
BRAIN_DEPTH_MM = 25.0  # what is deeper is brain
MAX_BONE_SHARE = 0.75  # of the rim, or of the brain if that is darker: bone is below
MIN_LAYER_VOXELS = 50
FAR_MM = 1e6  # between planes, so that depths are those within a plane


def shows_skull(image: Image) -> bool | None:
    """Whether a volume of a head shows skin and skull; False for a skull-stripped one, whose
    background is masked. None where this cannot be told: without a position in space, where no
    plane is wider than twice BRAIN_DEPTH_MM, where pixels are larger than the layers, or where
    there is neither a skull nor a mask.
    """
    if image.dims != 3 or image.affine is None:
        return None

    layers = _layers(image)
    bone = layers[BONE_LAYERS]
    if np.isnan(bone).any():
        return None

    darkest = BONE_LAYERS.start + int(np.argmin(bone))
    rim = min(1.0, float(np.nanmax(layers[:darkest])))
    if layers[darkest] < MAX_BONE_SHARE * rim:
        return True
    return None if corner_levels(image.pixels) is None else False


def _layers(image: Image) -> np.ndarray:
    """The median of each layer of STEP_MM from the outside of a head inwards, over that of the
    brain; NaN for a layer of few voxels.

    Depths are measured in the upper half of the planes, where there is little but brain below the
    skull.
    """
    from scipy.ndimage import distance_transform_edt  # slow import

    strides = [max(1, round(STEP_MM / side)) for side in image.spacing]
    every = tuple(slice(None, None, stride) for stride in strides)
    values = with_dark_background(image.pixels)[0][every].astype(np.float32)
    values = np.maximum(values - np.percentile(values, 5), 0)  # some are darker than air
    sampling = [side * stride for side, stride in zip(image.spacing, strides, strict=True)][1:]

    head = _head(values)
    medians = np.full(BONE_LAYERS.stop, np.nan)
    areas = head.sum((1, 2))
    if not areas.any():
        return medians

    large = np.flatnonzero(areas > MIN_PLANE_SHARE * areas.max())
    upper = large[len(large) // 2 :]
    padded = np.pad(head[upper], [(0, 0), (1, 1), (1, 1)])
    depth = distance_transform_edt(padded, sampling=[FAR_MM, *sampling])[:, 1:-1, 1:-1]
    shown = values[upper]
    brain = shown[depth > BRAIN_DEPTH_MM]
    if brain.size < MIN_LAYER_VOXELS:
        return medians

    layers = np.ceil(depth / STEP_MM)  # from 1 on
    for number in range(len(medians)):
        found = shown[layers == number + 1]
        if found.size >= MIN_LAYER_VOXELS:
            medians[number] = np.median(found)
    return medians / max(float(np.median(brain)), 1e-9)


def _head(values: np.ndarray) -> np.ndarray:
    """The largest region (D, H, W) that is brighter than air, its planes without holes."""
    from scipy.ndimage import binary_fill_holes, label  # slow import

    bright = values > AIR_SHARE * np.percentile(values, 99.5)
    filled = np.stack([binary_fill_holes(plane) for plane in bright])
    regions, count = label(filled)
    if count < 2:
        return filled
    return regions == 1 + np.argmax(np.bincount(regions.ravel())[1:])
