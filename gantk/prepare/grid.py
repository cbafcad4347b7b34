"""Resamples volumes to a plane and spacing and back, or to the grid of another volume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Literal

import numpy as np
from torch import Tensor

from gantk.errors import UserError
from gantk.formats.image import Image, slabs, upright_affine
from gantk.prepare.module import axis_weights

FitMode = Literal["pad", "resize", "crop"]
Plane = Literal["axial", "coronal", "sagittal"]
# The upright axes (1 planes, 2 rows, 3 columns) that become stack, row and column; all but axial
# show heads upright.
PLANES = {"axial": (1, 2, 3), "coronal": (2, 1, 3), "sagittal": (3, 1, 2)}
MAX_RESAMPLED_VOXELS = 2**30  # voxels that a resampled volume may have: 4 GiB
MAX_IGNORED_SHIFT_VOXELS = (
    0.05  # voxels: an axis is not resampled if its outermost voxels would move by less
)


# (first, last) -> the planes from the first to before the last of (C, *spatial)
Planes = Callable[[int, int], np.ndarray]


@dataclass(frozen=True)
class SamplingGrid:
    """The plane of the slices, and the spacing in mm of (stack,) rows and columns, that networks
    see.

    Axial stacks run from inferior to superior, with rows from anterior down; coronal ones from
    anterior to posterior, with rows from superior down; both have the patient's right in the first
    column. Sagittal ones run from right to left, with rows from superior down and anterior in the
    first column.
    """

    plane: Plane = "axial"
    spacing: tuple[float, ...] | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the grid changes nothing: axial planes at the file's spacing."""
        return self.plane == "axial" and self.spacing is None

    def sides(self, native: tuple[int, ...], spacing: Sequence[float]) -> tuple[int, ...]:
        """The shape (D', H', W') on this grid of upright pixels (D, H, W) with that spacing in mm;
        (H, W) likewise.
        """
        return tuple(count for count, _ in self._grid(native, spacing))

    def resamples(self, image: Image) -> bool:
        """Whether the grid does more than turn an image."""
        return any(step != 1 for _, step in self._grid(image.pixels.shape[1:], image.spacing))

    def forward(self, image: Image) -> Image:
        """Resample an image to (C, stack, rows, columns) on this grid, about the same centre; it
        has no affine then.
        """
        if self.is_plain:
            return image

        turned = self.to_grid_order(image.pixels)
        if not self.resamples(image):
            return replace(image, pixels=turned, affine=None, header=None)

        sides = self.sides(image.pixels.shape[1:], image.spacing)
        pixels = np.empty((len(turned), *sides), np.float32)
        for part in slabs(sides):
            pixels[:, part] = self.from_voxels(image, part)

        return replace(image, pixels=pixels, affine=None, header=None)

    def from_voxels(self, image: Image, part: slice) -> np.ndarray:
        """A `part` of the planes of `forward(image)`, which it resamples."""
        turned = self.to_grid_order(image.pixels)
        grid = self._grid(image.pixels.shape[1:], image.spacing)
        return resample(lambda *ends: turned[:, slice(*ends)], turned.shape, grid, part)

    def to_voxels(self, planes: Planes, image: Image, part: slice) -> np.ndarray:
        """A `part` of the planes of `to_grid_order(image.pixels)`, resampled from this grid's."""
        native = image.pixels.shape[1:]
        grid = self._grid(native, image.spacing)
        shape = (image.channels, *(count for count, _ in grid))
        wanted = [native[axis - 1] for axis in self._axes(image.dims)[1:]]
        back = [(count, 1 / step) for count, (_, step) in zip(wanted, grid, strict=True)]
        return resample(planes, shape, back, part)

    def to_grid_order(self, pixels: np.ndarray) -> np.ndarray:
        """A view of upright pixels, (C, D, H, W) or (C, H, W), with axes in this grid's order."""
        turned = pixels.transpose(self._axes(pixels.ndim - 1))
        return turned[:, :, ::-1] if pixels.ndim == 4 and self.plane != "axial" else turned

    def _axes(self, dims: int) -> tuple[int, ...]:
        return (0, *PLANES[self.plane]) if dims == 3 else tuple(range(dims + 1))

    def _grid(self, native: tuple[int, ...], spacing: Sequence[float]) -> list[tuple[int, float]]:
        """For each axis of this grid: the number of voxels, and the step between two, in voxels of
        the file.
        """
        grid = []
        asked = self.spacing or ()
        as_in_file = (None,) * (len(native) - len(asked))
        wanted = (*as_in_file, *asked[-len(native) :])
        for axis, mm in zip(self._axes(len(native))[1:], wanted, strict=True):
            side = native[axis - 1]
            step = 1.0 if mm is None else mm / float(spacing[axis - 1])
            kept = side * abs(step - 1) < 2 * MAX_IGNORED_SHIFT_VOXELS
            grid.append(
                (side, 1.0)
                if kept
                else (max(1, int(np.ceil(side / step - 2 * MAX_IGNORED_SHIFT_VOXELS))), step)
            )

        if prod(float(count) for count, _ in grid) > max(MAX_RESAMPLED_VOXELS, prod(native)):
            raise UserError(
                f"at a spacing of {list(asked)} mm an image would have"
                f" {' x '.join(str(n) for n, _ in grid)} voxels, which is too many",
                where="data.spacing",
                remedy="choose a coarser spacing",
            )

        return grid


def resample(
    planes: Planes, shape: Sequence[int], grid: Sequence[tuple[int, float]], part: slice
) -> np.ndarray:
    """Resample an image of this shape, (C, *spatial), to `count` voxels, `step` apart, about the same
    centre, along each axis; of the first axis only this part.
    """
    (count, step), *in_plane = grid
    first, last, _ = part.indices(count)
    if step == 1:
        pixels = planes(first, last)
    else:
        begin, weights = axis_weights(shape[1], count, step, first, last)
        pixels = weighted_sums(planes(begin, begin + weights.shape[1]), 1, weights)

    shrinks = [count / side for (count, _), side in zip(in_plane, shape[2:], strict=True)]
    for axis in 2 + np.argsort(shrinks, kind="stable"):
        count, step = in_plane[axis - 2]
        if step != 1:
            begin, weights = axis_weights(shape[axis], count, step)
            pixels = weighted_sums(pixels, axis, weights, begin)

    return pixels


def weighted_sums(pixels: np.ndarray, axis: int, weights: Tensor, begin: int = 0) -> np.ndarray:
    """Weighted sums (places, pixels) along an axis of (C, *spatial), from pixel `begin` on, float32."""
    used = np.moveaxis(pixels, axis, 0)[begin : begin + weights.shape[1]]
    made = np.tensordot(weights.float().numpy(), used, 1)
    return np.ascontiguousarray(np.moveaxis(made, 0, axis))


def resample_onto(
    image: Image, reference: Image, order: int = 1, fill: float | None = None
) -> Image:
    """Resample a volume to the voxels of another by their affines; UserError if one has none and
    the sizes differ.

    Linear (order 1), or the nearest voxel (0) for labels. Voxels outside the image get `fill`, by
    default each channel's minimum (air). Equal grids give the pixels unchanged.
    """
    from scipy.ndimage import affine_transform

    kept = replace(image, affine=reference.affine, header=reference.header)
    if image.grid.same_as(reference.grid):
        return kept

    # from (plane, row, column) of the reference to those of the image
    change = np.linalg.solve(upright_affine(image), upright_affine(reference))[[2, 1, 0, 3]][
        :, [2, 1, 0, 3]
    ]
    out = np.empty((image.channels, *reference.pixels.shape[1:]), dtype=np.float32)
    for channel, done in zip(image.pixels, out, strict=True):
        affine_transform(
            channel,
            change[:3, :3],
            change[:3, 3],
            None,
            done,
            order,
            mode="nearest",
            prefilter=False,
        )
        outside = channel.min() if fill is None else fill
        axes = np.ogrid[tuple(map(slice, done.shape))]
        for row, start, side in zip(change[:3, :3], change[:3, 3], channel.shape, strict=True):
            place = (
                sum(step * axis.astype(np.float32) for step, axis in zip(row, axes, strict=True))
                + start
            )
            # The outermost voxels reach half a voxel beyond their centres.
            np.copyto(
                done,
                outside,
                where=(place < -0.5 - MAX_IGNORED_SHIFT_VOXELS)
                | (place > side - 0.5 + MAX_IGNORED_SHIFT_VOXELS),
            )

    return replace(kept, pixels=out)
