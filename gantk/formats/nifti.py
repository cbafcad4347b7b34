"""NIfTI-1 and -2 through nibabel: one file or a pair (.hdr, .img), gzipped or not, read upright and written back.

Reading: either byte order, integers and floats of any width, the header's scale applied in float64. What cannot be is
told from the header and the file's size, before memory is asked for. Pixels are float32, so whole numbers beyond
16,777,216 are rounded to its 24 bits.

Writing: on the grid, in the units and with the codes of the source; integers where the source held integers and the
values are still on their grid (`gantk.formats.voxels`), with the source's slope and intercept, else float32.
"""

from __future__ import annotations

import gzip
import logging
import struct
from pathlib import Path
from typing import Any

import numpy as np

from gantk.errors import UserError
from gantk.formats.files import chosen_volume, expect_room
from gantk.formats.image import UPRIGHT, Format, Image, in_file_order, upright_sides, zeros
from gantk.formats.voxels import Stored, as_integers

EXTENSIONS = 2**24  # bytes that may lie between a header and its voxels
KINDS = {  # nibabel's classes by the size that a header states first, and its mark
    (348, b"n+1"): "Nifti1Image",
    (348, b"ni1"): "Nifti1Pair",
    (540, b"n+2"): "Nifti2Image",
    (540, b"ni2"): "Nifti2Pair",
}
SILENT = logging.Logger("nibabel.silent", level=logging.CRITICAL + 1)  # what nibabel mends in a header is not told


class Nifti(Format):
    """NIfTI: one volume or slice, or one chosen of several, with its affine, scale and units."""

    name = "NIfTI"
    suffixes = (".nii", ".nii.gz", ".hdr")
    volumes = several = True

    def files(self, path: Path) -> list[Path]:
        """The file, or of a pair the header and its `.img`."""
        return list(dict.fromkeys((path, _voxels_of(path))))

    def read(self, path: Path, volume: int | None = None, values: bool = True) -> Image:
        """float32 (1, H, W) or (1, D, H, W), scaled by the header; axes of one voxel are dropped."""
        header, affine, stored = _opened(path, volume)
        sides = upright_sides(stored.shape, affine)
        upright = zeros(*sides)
        if values:
            expect_room(path, int(np.prod(stored.shape, dtype=object)))
            upright = np.empty(sides, np.float32)
            stored.decode(in_file_order(upright, stored.shape, affine))
        pixels = upright.reshape(1, *(n for n in sides if n > 1))
        return Image(pixels, affine, path, stored.dtype.newbyteorder("="), header)

    def write(self, path: Path, image: Image, description: str = "") -> None:
        """Write on the grid that the image came from: same affine, codes, units and zooms."""
        import nibabel as nib

        if image.channels != 1:
            what = f"an image of {image.channels} channels does not fit into NIfTI"
            raise UserError(what, allowed="one channel", remedy="write it as PNG")
        affine = UPRIGHT if image.affine is None else np.asarray(image.affine)
        header = image.header if isinstance(image.header, nib.Nifti1Header) else None
        shape = image.file_shape if header is None else header.get_data_shape()[:3]
        shape = tuple(int(n) for n in shape) + (1,) * (3 - len(shape))
        expect_grid(image, shape, affine)
        voxels = in_file_order(image.pixels[0], shape, affine)
        slope, inter = (None, None) if header is None else header.get_slope_inter()
        slope, inter = (1.0, 0.0) if slope is None else (slope, inter)
        data = as_integers(voxels, image.dtype, slope, inter)
        if data is None:
            data, slope, inter = voxels.astype(np.float32, copy=False), 1.0, 0.0
        if header is not None:
            data = data.reshape(header.get_data_shape())
        wide = isinstance(header, nib.Nifti2Header) or max(shape) > np.iinfo(np.int16).max
        mark = (b"ni" if path.suffix.lower() == ".hdr" else b"n+") + (b"2" if wide else b"1")
        kind = KINDS[540 if wide else 348, mark]
        nifti = getattr(nib, kind)(data, affine, header, dtype=data.dtype)
        nifti.header["cal_min"] = nifti.header["cal_max"] = 0  # what it said of other values: the window to show,
        nifti.header.set_intent("none")  # and the kind of map
        nifti.header.set_slope_inter(slope, inter)
        nifti.to_filename(path)


def expect_grid(image: Image, shape: tuple[int, int, int], affine: np.ndarray) -> None:
    """UserError where upright pixels have not the sides of a file of this shape (i, j, k)."""
    if [n for n in upright_sides(shape, affine) if n > 1] != [n for n in image.pixels.shape[1:] if n > 1]:
        what = f"pixels of {image.pixels.shape[1:]} do not fit the grid {shape} of '{image.path}'"
        raise UserError(what, remedy="bring them back to the input's size first")


def _voxels_of(path: Path) -> Path:
    """The file that holds the voxels: the file itself, or of a pair the `.img` beside the header."""
    if path.suffix.lower() != ".hdr":
        return path
    voxels = path.with_suffix(".IMG" if path.suffix.isupper() else ".img")
    if not voxels.is_file():
        raise UserError(f"'{path}' lacks its second file '{voxels.name}'", remedy="keep both in one folder")
    return voxels


def _opened(path: Path, volume: int | None) -> tuple[Any, np.ndarray, Stored]:
    """The header of one volume, its affine, and where its voxels lie, checked against the size of the file."""
    import nibabel as nib

    voxels = _voxels_of(path)
    stream = gzip.open if path.suffix.lower() == ".gz" else open
    with stream(path, "rb") as file:
        start = file.read(540)
    order = next((order for order in "<>" if start[:4] in (struct.pack(f"{order}i", size) for size, _ in KINDS)), "<")
    size = int.from_bytes(start[:4], "little" if order == "<" else "big")
    kind = KINDS.get((size, start[344:347] if size == 348 else start[4:7]))
    if kind is None or len(start) < size or kind.endswith("Pair") != (voxels != path):
        raise ValueError("it has no such header")
    header_class = getattr(nib, kind).header_class
    raw = header_class(start[:size], order, check=False)
    dtype, sides = raw.get_data_dtype(), tuple(int(n) for n in raw["dim"][1 : 1 + max(int(raw["dim"][0]), 0)])
    if not (np.issubdtype(dtype, np.integer) or np.issubdtype(dtype, np.floating)):
        kind = "colour (RGB)" if dtype.names else "complex numbers" if dtype.kind == "c" else f"type {dtype}"
        raise UserError(f"'{path}' holds values of {kind}", allowed="integers and floats, one value a voxel")
    if not sides or len(sides) > 7 or min(sides) < 1:
        raise ValueError(f"its header gives the sides {sides}")
    kept = sides[:3] + tuple(n for n in sides[3:] if n > 1)
    shape, count = kept[:3] + (1,) * (3 - len(kept)), int(np.prod(kept[3:], dtype=object))
    chosen = chosen_volume(path, volume, count, f"{count} volumes (shape {sides})")
    if sum(n > 1 for n in shape) < 2:
        raise ValueError(f"it is a line of voxels (shape {sides})")
    offset, low = float(raw["vox_offset"]), 0 if voxels != path else raw.single_vox_offset
    if not low <= offset <= low + EXTENSIONS:
        raise ValueError(f"its voxels start at byte {offset:g}")
    slope, inter = raw.get_slope_inter()
    scale = {} if slope is None else {"slope": slope, "inter": inter}
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    first, end = int(offset) + chosen * size, int(offset) + count * size
    stored = Stored(voxels, shape, dtype, first, end, "gzip" if path.suffix.lower() == ".gz" else "", **scale)
    stored.expect_whole()
    with stream(path, "rb") as file:
        header = header_class.from_fileobj(file, check=False)  # with its extensions
    header.check_fix(SILENT, error_level=40)
    if count > 1:
        header.set_data_shape(shape)
    header.set_slope_inter(slope, inter)
    affine = header.get_best_affine()
    steps = raw["pixdim"][1:4]
    wrong = [float(step) for step, n in zip(steps, shape, strict=True) if n > 1 and not 0 < abs(step) < np.inf]
    if wrong:
        raise ValueError(f"it has a spacing of {wrong[0]:g} mm; its header (pixdim) needs the true one")
    finite = np.isfinite(affine).all()
    if not finite or np.linalg.matrix_rank(affine[:3, :3]) < 3 or np.isnan(nib.io_orientation(affine)).any():
        raise ValueError("its affine (sform or qform) maps no volume")
    return header, affine, stored
