"""Converts images of nibabel to gantk's `Image`, as if read from a file, and results back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gantk.errors import UserError
from gantk.formats.image import (
    UPRIGHT,
    Image,
    in_file_order,
    to_upright,
    unusable_words,
    upright_sides,
)

# converts a result to the type of the object that was given, on its grid
Back = Callable[[Image], Any]


def _image(voxels: np.ndarray, affine: np.ndarray, header: Any, name: str) -> Image:
    """An `Image` from voxels (i, j, k), turned upright; axes of one voxel are dropped, as when a
    file is read.
    """
    if voxels.dtype.kind not in "biuf":
        raise UserError(
            f"{name} holds values of type {voxels.dtype}",
            allowed="one integer or float per voxel",
        )

    if not voxels.size or sum(n > 1 for n in voxels.shape) < 2:
        raise UserError(
            f"{name} has the shape {voxels.shape}",
            allowed="two or three sides longer than 1",
        )

    with np.errstate(over="ignore"):
        upright = np.ascontiguousarray(to_upright(voxels, affine), dtype=np.float32)

    if wrong := unusable_words(upright):
        what = f"{name} contains {wrong}"
        raise UserError(what, remedy="replace them (NaN outside the head is usually 0)")

    pixels = upright.reshape(1, *(n for n in upright.shape if n > 1))
    return Image(pixels, affine, Path(name), voxels.dtype, header)


def _voxels(made: Image, shape: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
    """The voxels (i, j, k) of a result, float32; UserError if it has several channels."""
    if made.channels != 1:
        what = (
            f"a translation with {made.channels} channels does not fit into an image of this type"
        )
        raise UserError(what, remedy="translate an array instead")
    upright = made.pixels[0].reshape(upright_sides(shape, affine))
    return np.ascontiguousarray(in_file_order(upright, shape, affine), dtype=np.float32)


def from_nibabel(given: Any) -> tuple[Image, Back]:
    """An image of nibabel as an `Image`, and the conversion of results back."""
    import nibabel as nib

    name = given.get_filename() or "the nibabel image"
    if np.prod(given.shape[3:], dtype=int) != 1:
        count = int(np.prod(given.shape[3:]))
        what = f"{name} contains {count} volumes (shape {given.shape})"
        raise UserError(what, allowed="one volume", remedy="select one: image.slicer[..., 0]")

    shape = (*given.shape, 1, 1)[:3]
    affine = UPRIGHT if given.affine is None else np.asarray(given.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or np.linalg.matrix_rank(affine[:3, :3]) < 3:
        raise UserError(
            f"the affine of {name} is not invertible or not finite",
            remedy="set the true affine",
        )

    voxels = np.asanyarray(given.dataobj).reshape(shape)

    def back(made: Image) -> Any:
        kind = type(given) if getattr(type(given), "makeable", False) else nib.Nifti1Image
        header = given.header.copy() if kind is type(given) else None
        if header is not None:
            header.set_data_dtype(np.float32)

        data = _voxels(made, shape, affine).reshape(given.shape)
        done = kind(data, given.affine, header)
        if isinstance(done.header, nib.Nifti1Header):  # these fields described the input's values
            done.header["cal_min"] = done.header["cal_max"] = 0
            done.header.set_intent("none")

        return done

    return _image(voxels, affine, given.header, name), back
