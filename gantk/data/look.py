"""What an image looks like in a few numbers, how its values are distributed, how far these are from
those of the training images, and where the content of an image is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from PIL import Image as Picture

from gantk.catalog.contrasts import usual_contrast

SIDE = 48  # pixels of the side to which the content of a slice is scaled
HEIGHTS = (0.4, 0.5, 0.6, 0.7)  # of the slices of a volume, as shares of its content
COARSE = 4  # every n-th pixel of a volume is enough to find its content
AIR_SHARE = 0.1  # of the range from black to white: what is darker is air
RINGS = 8  # from the middle of the content to its border
QUANTILE_BINS = 32  # equal shares of an image's values
QUANTILE_COUNT = QUANTILE_BINS + 2  # their middles, and the quantiles 1 % and 99 %
MAX_SAMPLED_IMAGES = 64  # images from which a domain's distribution is computed
MIN_PEOPLE = 4  # of fewer the usual distance is not known
NO_UNITS = "gray values, no Hounsfield units, also in generated CT"
MAX_AIR = -200  # Hounsfield units: an image without a lower value shows no air


class Plane(NamedTuple):
    """A picture, or an axial slice of a volume."""

    unit: np.ndarray  # (H, W) as of `scale_to_unit`
    background: float  # of `unit`, as of `background_level`
    box: list[tuple[float, float]]  # as of `content_box`

    def content(self) -> np.ndarray:
        """The content, or all where there is none, as SIDE x SIDE pixels."""
        is_empty = any(end - start < 1 for start, end in self.box)
        return self.scaled(SIDE, [(0, side) for side in self.unit.shape] if is_empty else self.box)

    def scaled(self, side: int, box: Sequence[tuple[float, float]]) -> np.ndarray:
        """A part of the picture, a range of each axis, as `side` x `side` pixels, averaged where it
        is larger.
        """
        (top, bottom), (left, right) = box
        picture = Picture.fromarray(np.ascontiguousarray(self.unit, dtype=np.float32))
        corners = (left, top, right, bottom)
        return np.asarray(picture.resize((side, side), Picture.Resampling.BILINEAR, box=corners))


def planes_of(pixels: np.ndarray) -> list[Plane]:
    """The plane of a picture (C, H, W), or the axial slices of a volume at HEIGHTS."""
    if pixels.ndim == 3:
        grays = [gray_of(pixels)]
    else:
        coarse = scale_to_unit(gray_of(pixels[:, :, ::COARSE, ::COARSE]))
        low, high = content_box(coarse, background_level(coarse))[0]
        places = [min(int(low + share * (high - low)), pixels.shape[1] - 1) for share in HEIGHTS]
        grays = [gray_of(pixels[:, place]) for place in places]
    planes = []
    for gray in grays:
        unit = scale_to_unit(gray)
        background = background_level(unit)
        planes.append(Plane(unit, background, content_box(unit, background)))
    return planes


def look_of(pixels: np.ndarray, planes: Sequence[Plane] = ()) -> list[float]:
    """Numbers from 0 to 1 of an image (C, *spatial) that do not depend on the scale of its
    intensities, its pixel size and its position: percentiles of the tissue, mean and spread of the
    brightness in rings, and how sharp it is. Those of a volume are the mean over its `planes`. []
    for an image without contrast.
    """
    looks = [look for look in map(_look_of_plane, planes or planes_of(pixels)) if look is not None]
    return [round(float(value), 4) for value in np.mean(looks, axis=0)] if looks else []


def surroundings_of(planes: Sequence[Plane]) -> float:
    """How bright an image is around its content, from 0 to 1: the border, or the corners of the
    content, whichever is brighter. About 0 for a head in air, not for a photograph, an inverted
    image, or one in a frame. The mean over its planes.
    """
    in_corners = _distances() >= RINGS + 1
    levels = [max(each.background, float(np.median(each.content()[in_corners]))) for each in planes]
    return float(np.mean(levels))


def clipped_share(pixels: np.ndarray) -> float:
    """The share of the pixels (C, *spatial) brighter than air that have the highest value; of a
    volume COARSE decides which are looked at.
    """
    gray = gray_of(pixels[:, :, ::COARSE, ::COARSE] if pixels.ndim == 4 else pixels)
    low, high = np.percentile(gray, [1, 99.5])
    tissue = int(np.count_nonzero(gray > low + AIR_SHARE * (high - low)))
    return int(np.count_nonzero(gray == gray.max())) / max(tissue, 1)


def gray_of(pixels: np.ndarray) -> np.ndarray:
    """The mean of the contrasts of (C, *spatial), float32; 0 where it is not known."""
    return np.nan_to_num(pixels.mean(axis=0, dtype=np.float32), copy=False)


def scale_to_unit(gray: np.ndarray) -> np.ndarray:
    """An image scaled so that its 1st percentile is 0 and its 99.5th is 1, and clipped."""
    low, high = np.percentile(gray, [1, 99.5])
    return ((gray - low) / max(high - low, 1e-9)).clip(0, 1)


@cache
def _distances() -> np.ndarray:
    """The distance of each of SIDE x SIDE pixels from the middle, in rings."""
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5 - SIDE / 2
    return np.hypot(rows, columns) * (2 * RINGS / SIDE)


def _look_of_plane(plane: Plane) -> np.ndarray | None:
    """The look of a plane; None where it shows no tissue."""
    small = plane.content()
    tissue = small > AIR_SHARE
    if not tissue.any():
        return None
    ring = _distances().astype(int)
    means = [small[ring == number].mean() for number in range(RINGS)]
    spreads = [small[ring // 2 == number].std() for number in range(RINGS // 2)]
    edges = np.hypot(*np.gradient(small))
    return np.array(
        [
            *np.percentile(small[tissue], np.arange(5, 100, 10)),
            *means,
            *spreads,
            *(2 * np.percentile(edges[tissue], [25, 50, 75, 95])),
        ]
    )


def looks_of(looks: Sequence[Sequence[float]], people: Sequence[str]) -> dict[str, Any]:
    """What a model keeps of its training images' looks, as JSON: the `looks`, and `look_near`, the
    distance to the nearest image of another person within which 95 % of them are. {} for fewer than
    MIN_PEOPLE people. Images without a look are left out.
    """
    known = [(look, person) for look, person in zip(looks, people, strict=True) if look]
    if len({person for _, person in known}) < MIN_PEOPLE:
        return {}
    nearest = []
    for look, person in known:
        others = [each for each, whose in known if whose != person]
        nearest.append(distance_to(look, others))
    return {
        "looks": [look for look, _ in known],
        "look_near": float(np.percentile(nearest, 95, method="higher")),
    }


def distance_to(look: Sequence[float], looks: Sequence[Sequence[float]]) -> float:
    """The root mean square difference from the nearest of `looks`."""
    return float(np.sqrt(np.square(np.array(looks) - look).mean(axis=1)).min())


def background_level(gray: np.ndarray) -> float:
    """The median of the pixels at the border of a picture or volume."""
    ends = [np.take(gray, end, axis).ravel() for axis in range(gray.ndim) for end in (0, -1)]
    return float(np.median(np.concatenate(ends)))


def content_box(gray: np.ndarray, background: float) -> list[tuple[float, float]]:
    """For each axis, the range in pixels with 98 % of what differs from the background, in an image
    from 0 to 1; not 100 %, since noise and letters at the border would move the ends.
    """
    differs = np.abs(gray - background)
    differs[differs < 0.1] = 0
    box = []
    for axis in range(gray.ndim):
        along = differs.sum(axis=tuple(other for other in range(gray.ndim) if other != axis))
        share = np.concatenate([[0], np.cumsum(along)]) / max(along.sum(), 1)
        low, high = np.interp([0.01, 0.99], share, np.arange(len(share))) if along.any() else (0, 0)
        box.append((float(low), float(high)))

    return box


def values_of(images: Sequence[np.ndarray]) -> dict[str, Any]:
    """Statistics of a domain's training images (C, *spatial), as JSON: `low`, `high`, whether all
    values are `whole` numbers, mean `quantiles` without air, and `near`, the distance to these that
    95 % of single images keep within.
    """
    images = [image[np.isfinite(image)] for image in images]
    tissue = [tissue_quantiles(image) for image in images[:: -(-len(images) // MAX_SAMPLED_IMAGES)]]
    middle = np.mean(tissue, axis=0)
    return {
        "low": float(min(image.min() for image in images)),
        "high": float(max(image.max() for image in images)),
        "whole": all(np.array_equal(image, np.rint(image)) for image in images),
        "quantiles": [float(f"{value:.5g}") for value in middle],
        "near": float(np.percentile([distance(each, middle) for each in tissue], 95)),
    }


def is_ct_without_units(name: str, values: Mapping[str, Any]) -> bool:
    """Whether a domain is CT, but its training images' `values` are no Hounsfield units."""
    return usual_contrast(name) == "ct" and values.get("low", MAX_AIR) > MAX_AIR


def tissue_quantiles(values: np.ndarray) -> np.ndarray:
    """Quantiles of the values that are not air: 1 %, the middles of QUANTILE_BINS equal shares, and
    99 %.
    """
    values = values[:: max(1, values.size // 200_000)]
    low, high = np.percentile(values, [1, 99.5])
    return np.quantile(
        values[values >= low + AIR_SHARE * (high - low)],
        [0.01, *(np.arange(QUANTILE_BINS) + 0.5) / QUANTILE_BINS, 0.99],
    )


def distance(quantiles: np.ndarray, middle: np.ndarray) -> float:
    """Mean distance of two distributions' quantiles, as a share of the second's width: of the
    values, or of the values scaled to 0 to 1 (the shape), whichever is larger.
    """
    width = max(float(middle[-1] - middle[0]), 1e-9)
    of_values = float(np.abs(quantiles - middle)[1:-1].mean()) / width
    shapes = [
        (each - each[0]) / max(float(each[-1] - each[0]), 1e-9) for each in (quantiles, middle)
    ]
    return max(of_values, float(np.abs(shapes[0] - shapes[1])[1:-1].mean()))
