"""Resampling: a volume's plane and spacing, one grid onto another, images to the networks' size; and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np

from gantk.errors import UserError
from gantk.formats.image import Image

# Which upright axis (1 planes, 2 rows, 3 columns) becomes stack, row and column; heads stand up in all but axial ones.
PLANES = {"axial": (1, 2, 3), "coronal": (2, 1, 3), "sagittal": (3, 1, 2)}
LARGEST = 2**30  # voxels that a resampled volume may have: 4 GiB
UNMOVED = 0.05  # of a voxel: where the outermost ones would move by less, nothing is resampled
APART = 0.1  # voxels, or mm of single slices: headers are rounded
SLAB = 2**22  # voxels of the result that are looked up at a time


@dataclass(frozen=True)
class SamplingGrid:
    """The plane whose slices come first, and the spacing in mm, that networks see of a volume.

    Axial stacks run from inferior to superior, with rows from anterior down; coronal ones from anterior to posterior,
    with rows from superior down; both have the patient's right in the first column. Sagittal ones run from right to
    left, with rows from superior down and anterior in the first column. `spacing` is that of stack, rows and columns,
    or of rows and columns alone; None: the file's own. Pictures and single slices have no plane to choose.
    """

    plane: str = "axial"
    spacing: tuple[float, ...] | None = None

    def __post_init__(self):
        if self.plane not in PLANES:
            raise UserError(f"there is no plane '{self.plane}'", where="data.plane", allowed=tuple(PLANES))
        if self.spacing is None:
            return
        object.__setattr__(self, "spacing", tuple(map(float, self.spacing)))
        if len(self.spacing) not in (2, 3) or not all(0 < mm < np.inf for mm in self.spacing):
            raise UserError(
                f"{list(self.spacing)} is no spacing",
                where="data.spacing",
                allowed="mm above 0 for stack, rows and columns, or for rows and columns alone",
            )

    @property
    def is_plain(self) -> bool:
        """Whether images stay as they are read."""
        return self.plane == "axial" and self.spacing is None

    def sides(self, native: tuple[int, ...], spacing: Sequence[float]) -> tuple[int, ...]:
        """(D', H', W') of the view of an upright grid (D, H, W) with that spacing in mm; the same for (H, W)."""
        return tuple(count for count, _ in self._grid(native, spacing))

    def forward(self, image: Image) -> Image:
        """An image as (C, stack, rows, columns) of this view, linear, and averaged where it shrinks.

        The grid keeps the middle of the file's and covers all of it; an image without an affine has 1 mm voxels. Where
        nothing is resampled the pixels are those of `image`, in another order and without a copy. The result has an
        affine where the plane is axial.
        """
        if self.is_plain:
            return image
        turned, grid = self._turned(image.pixels), self._grid(image.pixels.shape[1:], image.spacing)
        pixels = resampled(turned, grid)
        if image.dims == 3 and image.affine is not None and self.plane == "axial":
            affine = _coarser(upright_affine(image), turned.shape[1:], grid)
        else:
            affine = None
        same = pixels is image.pixels
        return image if same else replace(image, pixels=pixels, affine=affine, header=None)

    def inverse(self, pixels: np.ndarray, image: Image) -> np.ndarray:
        """(C', stack, rows, columns) of this view back on `image`'s own upright grid, (C', D, H, W).

        To the bit, and without a copy, where nothing is resampled.
        """
        native = image.pixels.shape[1:]
        grid = self._grid(native, image.spacing)
        counts = tuple(count for count, _ in grid)
        if pixels.shape[1:] != counts:
            raise ValueError(f"this view of {native} has {counts}, not {pixels.shape[1:]}")
        order = self._axes(len(native))
        back = [(native[axis - 1], 1 / step) for axis, (_, step) in zip(order[1:], grid, strict=True)]
        return self._turned_back(resampled(pixels, back))

    def _axes(self, dims: int) -> tuple[int, ...]:
        return (0, *PLANES[self.plane]) if dims == 3 else tuple(range(dims + 1))

    def _turned(self, pixels: np.ndarray) -> np.ndarray:
        axes = self._axes(pixels.ndim - 1)
        turned = pixels if axes == tuple(range(pixels.ndim)) else pixels.transpose(axes)
        return turned[:, :, ::-1] if axes[2] == 1 else turned

    def _turned_back(self, pixels: np.ndarray) -> np.ndarray:
        axes = self._axes(pixels.ndim - 1)
        turned = pixels[:, :, ::-1] if axes[2] == 1 else pixels
        return turned if axes == tuple(range(pixels.ndim)) else turned.transpose(np.argsort(axes))

    def _grid(self, native: tuple[int, ...], spacing: Sequence[float]) -> list[tuple[int, float]]:
        """For each axis of the view: how many voxels, and how many of the file's one step of them is."""
        order = [axis - 1 for axis in self._axes(len(native))[1:]]
        wanted = self.spacing or ()
        wanted = (None,) * (len(native) - len(wanted)) + wanted[-len(native) :]
        grid = [_axis(native[axis], float(spacing[axis]), mm) for axis, mm in zip(order, wanted, strict=True)]
        voxels = np.prod([float(count) for count, _ in grid])
        if voxels > max(LARGEST, np.prod(native)):
            sides = " x ".join(str(count) for count, _ in grid), " x ".join(map(str, native))
            raise UserError(
                f"at a spacing of {list(self.spacing)} mm an image of {sides[1]} voxels becomes one of {sides[0]}",
                where="data.spacing",
                remedy="choose a coarser one",
            )
        return grid


def _axis(side: int, native: float, wanted: float | None) -> tuple[int, float]:
    if wanted is None or side * abs(wanted / native - 1) < 2 * UNMOVED:
        return side, 1.0
    step = wanted / native
    return max(1, int(np.ceil(side / step - 2 * UNMOVED))), step


def resampled(pixels: np.ndarray, grid: Sequence[tuple[int, float]]) -> np.ndarray:
    """(C, *spatial) at (count, step) voxels for each axis, about the same middle; those that need nothing stay.

    A triangle as wide as the larger of the two voxels, its weights summing to 1 (linear; averaging where it shrinks).
    Plane by plane, so that little is needed beyond the result.
    """
    changed = [axis for axis, (count, step) in enumerate(grid) if (count, step) != (pixels.shape[axis + 1], 1.0)]
    flat = pixels.ndim == 3
    for axis in sorted(changed, key=lambda axis: grid[axis][0] / pixels.shape[axis + 1]):
        taken = _taps(pixels.shape[axis + 1], *grid[axis])
        channels = [_along(c[None] if flat else c, axis + flat, *taken) for c in pixels]
        pixels = np.stack([c[0] if flat else c for c in channels]) if len(channels) > 1 or flat else channels[0][None]
    return pixels


def _taps(side: int, count: int, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Which voxels each new one is made of (count, taps), and by what share."""
    reach = max(step, 1.0)
    centres = (side - 1) / 2 + (np.arange(count) - (count - 1) / 2) * step
    first = np.floor(centres - reach).astype(int)
    places = first[:, None] + np.arange(int(np.ceil(2 * reach)) + 2)
    weights = np.clip(1 - np.abs(places - centres[:, None]) / reach, 0, None) * ((places >= 0) & (places < side))
    weights /= weights.sum(axis=1, keepdims=True)
    used = weights.any(axis=0)
    return places.clip(0, side - 1)[:, used], weights[:, used].astype(np.float32)


def _along(volume: np.ndarray, axis: int, places: np.ndarray, weights: np.ndarray) -> np.ndarray:
    shape = list(volume.shape)
    shape[axis] = len(places)
    out = np.empty(shape, dtype=volume.dtype)
    if axis == 0:
        for k, (voxels, shares) in enumerate(zip(places, weights, strict=True)):
            out[k] = sum(volume[voxel] * share for voxel, share in zip(voxels, shares, strict=True) if share)
        return out
    shares = weights.T[:, :, None] if axis == 1 else weights.T[:, None]
    for plane, done in zip(volume, out, strict=True):
        done[...] = sum(plane.take(places[:, t], axis=axis - 1) * shares[t] for t in range(len(shares)))
    return out


def _coarser(affine: np.ndarray, native: Sequence[int], grid: Sequence[tuple[int, float]]) -> np.ndarray:
    """The affine of (column, row, plane) after `resampled`."""
    counts, steps = zip(*grid, strict=True)
    change = np.diag([*steps[::-1], 1.0])
    middle = [(side - 1) / 2 - (count - 1) / 2 * step for side, count, step in zip(native, counts, steps, strict=True)]
    change[:3, 3] = middle[::-1]
    return affine @ change


def upright_affine(image: Image) -> np.ndarray:
    """4x4: the indices (column, row, plane) of an upright volume's pixels to mm (right, anterior, superior)."""
    from nibabel.orientations import inv_ornt_aff  # not for pictures

    from gantk.formats.image import turn

    if image.dims != 3 or image.affine is None:
        what = "a single slice or picture" if image.dims != 3 else "an image without an affine"
        raise UserError(f"'{image.path}' is {what}: its place in the patient is not known", remedy="use volumes")
    orientation = turn(image.affine, (2, 2, 2))
    sides = image.pixels.shape[:0:-1]  # columns, rows, planes
    stored = tuple(sides[int(target)] for target in orientation[:, 0])
    return np.asarray(image.affine) @ inv_ornt_aff(orientation, stored)


def same_grid(image: Image, other: Image) -> bool:
    """Whether two images have as many voxels at the same places, to a tenth of a voxel."""
    if image.pixels.shape[1:] != other.pixels.shape[1:]:
        return False
    if image.affine is None or other.affine is None:
        return True
    if image.dims != 3:
        return np.allclose(image.affine, other.affine, atol=APART)
    change = np.linalg.solve(upright_affine(other), upright_affine(image))
    ends = np.array(image.pixels.shape[:0:-1]) - 1
    corners = np.array([[*(np.array(at) * ends), 1] for at in np.ndindex(2, 2, 2)], dtype=float).T
    return bool(np.abs(change @ corners - corners).max() < APART)


def resample_onto(image: Image, reference: Image, order: int = 1, fill: float | None = None) -> Image:
    """A volume on the voxels of another, found by the affines of both: any orientation, oblique or not.

    Linear (order 1), or the nearest voxel (0) for labels. What the image does not cover gets `fill`, by default each
    channel's minimum (air). Equal grids give the pixels unchanged. A picture, a single slice or an image without an
    affine is a UserError, unless it has as many pixels as the reference.
    """
    kept = replace(image, affine=reference.affine, header=reference.header)
    if same_grid(image, reference):
        return kept
    change = np.linalg.solve(upright_affine(image), upright_affine(reference))[[2, 1, 0, 3]][:, [2, 1, 0, 3]]
    out = np.empty((image.channels, *reference.pixels.shape[1:]), dtype=np.float32)
    for channel, done in zip(image.pixels, out, strict=True):
        _looked_up(channel, change, done, order, float(channel.min()) if fill is None else fill)
    return replace(kept, pixels=out)


def _looked_up(volume: np.ndarray, change: np.ndarray, out: np.ndarray, order: int, fill: float) -> None:
    """`out` at (d, h, w) becomes `volume` at change @ (d, h, w), a few planes at a time."""
    from scipy.ndimage import affine_transform

    planes = max(1, SLAB // (out.shape[1] * out.shape[2]))
    for first in range(0, len(out), planes):
        slab = out[first : first + planes]
        offset = change[:3, 3] + change[:3, 0] * first
        affine_transform(volume, change[:3, :3], offset, output=slab, order=order, mode="nearest", prefilter=False)
        axes = np.ogrid[tuple(map(slice, slab.shape))]
        for row, start, side in zip(change[:3, :3], offset, volume.shape, strict=True):
            place = sum(step * axis.astype(np.float32) for step, axis in zip(row, axes, strict=True)) + start
            # The outermost voxels reach half a voxel beyond their centres.
            np.copyto(slab, fill, where=(place < -0.5 - UNMOVED) | (place > side - 0.5 + UNMOVED))


def content_box(pixels: np.ndarray, margin: int = 0, threshold: float | None = None) -> tuple[slice, ...]:
    """The smallest box of (C, *spatial) outside of which all is background, grown by `margin` voxels: slices.

    Background differs from the median of the corners by no more than `threshold`, by default 2 % of the way to the
    99.5th percentile. An image that is all background is its own box.
    """
    corners = pixels[(slice(None), *[slice(None, None, max(1, side - 1)) for side in pixels.shape[1:]])]
    air = np.median(corners.reshape(len(pixels), -1), axis=1)
    some = pixels[(slice(None), *[slice(None, None, max(1, side // 64)) for side in pixels.shape[1:]])]
    top = np.percentile(some.reshape(len(pixels), -1), 99.5, axis=1)
    limits = np.abs(top - air) * 0.02 if threshold is None else np.full(len(pixels), threshold)
    filled = [np.zeros(side, dtype=bool) for side in pixels.shape[1:]]
    for channel, level, limit in zip(pixels, air, limits, strict=True):
        for number, plane in enumerate(channel):
            held = np.abs(plane - level) > limit
            filled[0][number] |= held.any()
            for axis in range(held.ndim):
                filled[axis + 1] |= held.any(axis=tuple(other for other in range(held.ndim) if other != axis))
    if not filled[0].any():
        return tuple(slice(0, side) for side in pixels.shape[1:])
    ends = [(int(line.argmax()), len(line) - int(line[::-1].argmax())) for line in filled]
    return tuple(slice(max(0, a - margin), min(len(f), b + margin)) for (a, b), f in zip(ends, filled, strict=True))


def put_back(part: np.ndarray, box: tuple[slice, ...], native: tuple[int, ...], fill: float) -> np.ndarray:
    """(C, *box) back at its place in (C, *native), surrounded by `fill`: what `pixels[(slice(None), *box)]` cut out."""
    whole = np.full((len(part), *native), fill, dtype=part.dtype)
    whole[(slice(None), *box)] = part
    return whole


Mode = Literal["pad", "stretch", "crop"]


class Resize:
    """Bring images of one native size to `size`, and bring results back onto the native grid.

    `pad` keeps the aspect: the image is resized to the largest that fits, centred, and surrounded by its background.
    `stretch` resizes each axis on its own. `crop` keeps the resolution: what is larger than `size` is cut about its
    centre, what is smaller is centred in its background. Resizing is linear, and averages where it shrinks (no
    aliasing); where nothing has to be resized the values stay exactly as they are, there and back.
    """

    def __init__(self, native: tuple[int, ...], size: tuple[int, ...], mode: Mode = "pad"):
        if len(native) != len(size) or min(*native, *size) < 1:
            raise ValueError(f"cannot fit images of {native} to {size}")
        self.native, self.size = tuple(native), tuple(size)
        smaller = tuple(min(side, to) for side, to in zip(native, size, strict=True))
        scale = min(to / side for side, to in zip(native, size, strict=True))
        rounded = tuple(max(1, min(to, round(side * scale))) for side, to in zip(native, size, strict=True))
        # what the image fills of `size`
        self.content = {"pad": rounded, "stretch": self.size, "crop": smaller}[mode]
        self.window = _centred(self.content, self.size)
        self.shown = _centred(smaller, self.native) if mode == "crop" else _centred(self.native, self.native)

    def forward(self, image: np.ndarray, fill: float | np.ndarray | None = None) -> np.ndarray:
        """(C, *native) -> (C, *size); the padding takes `fill`, by default each channel's own minimum (air).

        A `fill` for each channel is (C, 1, ...).
        """
        self._expect(image, self.native)
        fitted = resize(image[(slice(None), *self.shown)], self.content)
        return fitted if self.content == self.size else _placed(fitted, self.window, self.size, image, fill)

    def inverse(self, image: np.ndarray) -> np.ndarray:
        """(C, *size) -> (C, *native): the padding is cut off, the rest resized.

        What `crop` had cut off cannot come back: each channel's own minimum stands there.
        """
        self._expect(image, self.size)
        part = image[(slice(None), *self.window)]
        there = tuple(place.stop - place.start for place in self.shown)
        part = resize(part, there)
        return part if there == self.native else _placed(part, self.shown, self.native, image, None)

    @staticmethod
    def _expect(image: np.ndarray, shape: tuple[int, ...]) -> None:
        if image.shape[1:] != shape:
            raise ValueError(f"this fit takes images of {shape}, not {image.shape[1:]}")


def resize(image: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """(C, *spatial) -> (C, *size), linear, one axis after the other, in 2-D and 3-D alike.

    Not a matrix product, though it is one: the threads of NumPy's BLAS and those of torch wait for work by looking for
    it, and a training step beside a thread that reads images took five times as long.
    """
    for axis, to in enumerate(size, start=1):
        if image.shape[axis] != to:
            image = _resized(image, axis, *_pixel_taps(image.shape[axis], to))
    return np.ascontiguousarray(image)


def _resized(image: np.ndarray, axis: int, places: np.ndarray, weights: np.ndarray) -> np.ndarray:
    along = [-1 if other == axis else 1 for other in range(image.ndim)]
    parts = (image.take(place, axis) * weight.reshape(along) for place, weight in zip(places, weights, strict=True))
    total = next(parts)
    for part in parts:
        total += part
    return total.astype(image.dtype, copy=False)


def _centred(part: tuple[int, ...], whole: tuple[int, ...]) -> tuple[slice, ...]:
    starts = [(of - side) // 2 for side, of in zip(part, whole, strict=True)]
    return tuple(slice(start, start + side) for start, side in zip(starts, part, strict=True))


def _placed(
    part: np.ndarray,
    window: tuple[slice, ...],
    size: tuple[int, ...],
    image: np.ndarray,
    fill: float | np.ndarray | None,
) -> np.ndarray:
    """`part` at its place in (C, *size), surrounded by `fill`, by default the minimum of each channel of `image`."""
    if fill is None:
        fill = image.min(axis=tuple(range(1, image.ndim)), keepdims=True)
    canvas = np.empty((len(part), *size), dtype=part.dtype)
    canvas[:] = fill
    canvas[(slice(None), *window)] = part
    return canvas


@lru_cache(maxsize=64)
def _pixel_taps(side: int, to: int) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels make the new ones, and their weights, (taps, to) each: a triangle as wide as the larger of the two
    pixels, the weights of a new one summing to 1."""
    step = side / to
    reach = max(step, 1.0)
    centres = (np.arange(to) + 0.5) * step - 0.5
    distance = np.abs(np.arange(side)[None] - centres[:, None]) / reach
    weights = np.clip(1 - distance, 0, None)
    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    taps = int((weights > 0).sum(axis=1).max())
    first = np.minimum((weights > 0).argmax(axis=1), side - taps)
    places = first[:, None] + np.arange(taps)
    return places.T, np.take_along_axis(weights, places, axis=1).T


Fit, View = Resize, SamplingGrid  # their names in 0.1
