"""NIfTI through nibabel: read upright, written back on the grid that it came from."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import io_orientation

from gantk.data.image import Image
from gantk.data.orientation import UPRIGHT, from_upright, to_upright, upright_sides
from gantk.errors import UserError


def read(path: Path) -> Image:
    """A NIfTI image as float32 (1, H, W) or (1, D, H, W), scaled by its header; axes of one voxel are dropped."""
    nifti, shape = _load(path)
    try:
        data = nifti.get_fdata(dtype=np.float32, caching="unchanged")
    except Exception as error:  # cut short, not gzip: nibabel and zlib each have their own errors
        raise _unreadable(path, error) from error
    upright = to_upright(data.reshape(shape), nifti.affine)
    spatial = tuple(n for n in upright.shape if n > 1)
    pixels = np.ascontiguousarray(upright.reshape(1, *spatial), dtype=np.float32)
    return Image(
        pixels=pixels, affine=nifti.affine, path=path, dtype=nifti.get_data_dtype(), header=nifti.header.copy()
    )


def upright_shape(path: Path) -> tuple[int, ...]:
    """(H, W) or (D, H, W) that `read` will give, from the header alone."""
    nifti, shape = _load(path)
    return tuple(side for side in upright_sides(shape, nifti.affine) if side > 1)


def grid(path: Path) -> tuple:
    """What two files on one grid share: shape and affine (to 0.01 mm), hashable."""
    nifti, shape = _load(path)
    return shape, tuple(np.round(nifti.affine, 2).ravel() + 0.0)


def _load(path: Path) -> tuple[nib.Nifti1Image, tuple[int, int, int]]:
    """The file's header, checked, and its three sides in the file's order."""
    try:
        nifti = nib.load(path)
    except Exception as error:
        raise _unreadable(path, error) from error
    stored = nifti.get_data_dtype()
    if not (np.issubdtype(stored, np.integer) or np.issubdtype(stored, np.floating)):
        raise UserError(f"'{path}' holds values of type {stored}", allowed="integers and floats, one value a voxel")
    shape = nifti.shape[:3] + tuple(n for n in nifti.shape[3:] if n > 1)
    if len(shape) > 3:
        raise UserError(
            f"'{path}' holds {shape[3]} volumes (shape {tuple(nifti.shape)})",
            allowed="one 2-D or 3-D image",
            remedy="choose a volume and save it as a file of its own",
        )
    shape = shape + (1,) * (3 - len(shape))
    if sum(n > 1 for n in shape) < 2:
        raise UserError(f"'{path}' is a line of voxels (shape {tuple(nifti.shape)})", allowed="2-D and 3-D images")
    if np.linalg.matrix_rank(nifti.affine[:3, :3]) < 3 or np.isnan(io_orientation(nifti.affine)).any():
        raise UserError(f"'{path}' has an affine that maps no volume", remedy="repair its sform or qform")
    return nifti, shape


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"'{path}' cannot be read as NIfTI: {error}", remedy="copy it again, or leave it out")


def write(path: Path, image: Image) -> None:
    """Write on the grid that the image came from: same affine, codes and zooms; float32, or the source's integers."""
    if image.pixels.shape[0] != 1:
        raise UserError(
            f"an image of {image.pixels.shape[0]} channels does not fit into NIfTI",
            allowed="one channel",
            remedy="write it as PNG",
        )
    affine = UPRIGHT if image.affine is None else np.asarray(image.affine)
    header = image.header if isinstance(image.header, nib.Nifti1Header) else None
    shape = _file_shape(image, header)
    data = from_upright(image.pixels[0], shape, affine)
    if header is not None:
        data = data.reshape(header.get_data_shape())
    data = _stored(data, image.dtype)
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    nifti = kind(data, affine, None if header is None else header.copy(), dtype=data.dtype)
    nifti.header.set_slope_inter(1, 0)
    nifti.header["cal_min"] = nifti.header["cal_max"] = 0  # the window of other intensities
    nib.save(nifti, path)


def _file_shape(image: Image, header: nib.Nifti1Header | None) -> tuple[int, ...]:
    """The three sides in the file's order: the header's own, or those of the pixels as they stand."""
    spatial = image.pixels.shape[1:]
    if header is None:
        return (*spatial[::-1], 1) if len(spatial) == 2 else spatial[::-1]
    shape = tuple(header.get_data_shape())[:3]
    shape = shape + (1,) * (3 - len(shape))
    if sorted(n for n in shape if n > 1) != sorted(spatial):
        raise UserError(
            f"pixels of {tuple(spatial)} do not fit the grid {shape} of '{image.path}'",
            remedy="bring them back to the input's size first",
        )
    return shape


def _stored(data: np.ndarray, dtype: np.dtype | None) -> np.ndarray:
    """The source's integers where they hold the values exactly, else float32."""
    if dtype is not None and np.issubdtype(dtype, np.integer) and np.array_equal(np.rint(data), data):
        limits = np.iinfo(dtype)
        if data.min() >= limits.min and data.max() <= limits.max:
            return data.astype(dtype.newbyteorder("=") if isinstance(dtype, np.dtype) else dtype)
    return data.astype(np.float32)
