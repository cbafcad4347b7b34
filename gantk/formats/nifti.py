"""NIfTI through nibabel: read upright by slabs, written back on the grid that it came from.

Reading: NIfTI-1 and -2, in one file or as a pair (.hdr, .img), gzipped or not, either byte order, integers and floats
of any width, the header's scale applied in float64. What cannot be is told from the header and the file's size, before
memory is asked for; a stream is read in slabs, and refused where it ends early or goes on after its voxels.
Pixels are float32, so whole numbers beyond 16,777,216 are rounded to its 24 bits.

Writing: on the grid, in the units and with the codes of the source; integers where the source held integers and the
values are still on their grid (`gantk.formats.voxels`), with the source's slope and intercept, else float32. Nothing is
clipped, nothing rescaled.
"""

from __future__ import annotations

import gzip
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np
from nibabel.imageglobals import logger
from nibabel.orientations import io_orientation

from gantk.errors import UserError
from gantk.formats.image import Image, in_file_order, shape_in_file
from gantk.formats.limits import expect_room
from gantk.formats.orientation import UPRIGHT, upright_sides
from gantk.formats.voxels import Stored, as_integers

EXTENSIONS = 2**24  # bytes that may lie between a header and its voxels


@dataclass(frozen=True)
class Opened:
    """A file whose header was found in order."""

    header: nib.Nifti1Header  # of the one volume, with the file's slope and intercept
    affine: np.ndarray
    voxels: Stored


def read(path: Path, volume: int | None = None) -> Image:
    """A NIfTI image as float32 (1, H, W) or (1, D, H, W), scaled by its header; axes of one voxel are dropped.

    `volume` chooses one of a file of several, counted from 0; without it such a file is a UserError.
    """
    opened = _opened(path, volume)
    shape, affine, stored = opened.voxels.shape, opened.affine, opened.voxels.dtype
    expect_room(path, int(np.prod(shape, dtype=object)))
    upright = np.empty(upright_sides(shape, affine), np.float32)
    opened.voxels.decode(in_file_order(upright, shape, affine))
    spatial = tuple(n for n in upright.shape if n > 1)
    return Image(upright.reshape(1, *spatial), affine, path, stored.newbyteorder("="), opened.header)


def outline(path: Path, volume: int | None = None) -> Image:
    """What `read` gives, from the header alone: its grid, with zeros that take no memory for pixels."""
    opened = _opened(path, volume)
    sides = [side for side in upright_sides(opened.voxels.shape, opened.affine) if side > 1]
    stored = opened.voxels.dtype.newbyteorder("=")
    return Image(np.broadcast_to(np.float32(0), (1, *sides)), opened.affine, path, stored, opened.header)


def _opened(path: Path, volume: int | None) -> Opened:
    """The file's header, checked against the size of the file."""
    voxels = _voxels_of(path)
    with _told(path):
        raw = _raw_header(path)
        stored, sides = raw.get_data_dtype(), tuple(int(n) for n in raw["dim"][1 : 1 + max(int(raw["dim"][0]), 0)])
        offset = float(raw["vox_offset"])
    if not (np.issubdtype(stored, np.integer) or np.issubdtype(stored, np.floating)):
        kind = "colour (RGB)" if stored.names else "complex numbers" if stored.kind == "c" else f"type {stored}"
        raise UserError(f"'{path}' holds values of {kind}", allowed="integers and floats, one value a voxel")
    shape, count, chosen = _volumes(path, sides, volume)
    low = 0 if voxels != path else raw.single_vox_offset
    if not low <= offset <= low + EXTENSIONS:
        raise UserError(f"'{path}' is broken: its voxels start at byte {offset:g}", remedy="copy it again")
    with _told(path):
        slope, inter = raw.get_slope_inter()
        scale = {} if slope is None else {"slope": slope, "inter": inter}
    size = int(np.prod(shape, dtype=object)) * stored.itemsize
    start, end = int(offset) + chosen * size, int(offset) + count * size
    held = Stored(voxels, shape, stored, start, end, packing="gzip" if _packed(voxels) else "", **scale)
    held.expect_whole()
    with _told(path):
        nifti = _loaded(path)
        header = nifti.header.copy()
        if count > 1:
            header.set_data_shape(shape)
        header.set_slope_inter(slope, inter)
        affine = nifti.affine
    _expect_geometry(path, shape, raw["pixdim"][1:4], affine)
    return Opened(header, affine, held)


def _loaded(path: Path) -> nib.Nifti1Image:
    """nibabel's image of a file, its header mended; that it does so aloud is kept off the terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loud, logger.disabled = logger.disabled, True
        try:
            return nib.load(path)
        finally:
            logger.disabled = loud


def _raw_header(path: Path) -> nib.Nifti1Header:
    """The header as it stands in the file, before nibabel mends it; UserError where it is none of NIfTI's."""
    with _stream(path) as stream:
        start = stream.read(nib.Nifti2Header.sizeof_hdr)
    for order in "<>":
        size = struct.unpack(f"{order}i", start[:4])[0] if len(start) >= 4 else 0
        kinds = {348: (nib.Nifti1Header, b"n+1", b"ni1"), 540: (nib.Nifti2Header, b"n+2", b"ni2")}
        if size in kinds and len(start) >= size:
            kind, single, pair = kinds[size]
            header = kind(start[:size], order, check=False)
            if bytes(header["magic"])[:3] == (pair if path.name.lower().endswith(".hdr") else single):
                return header
    raise UserError(f"'{path}' cannot be read as NIfTI: it has no such header", remedy="copy it again, or leave it out")


def _voxels_of(path: Path) -> Path:
    """The file that holds the voxels: the file itself, or of a pair the `.img` beside the header."""
    if not path.name.lower().endswith(".hdr"):
        return path
    voxels = path.with_suffix(".IMG" if path.suffix.isupper() else ".img")
    if not voxels.is_file():
        raise UserError(f"'{path}' lacks its second file '{voxels.name}'", remedy="keep both in one folder")
    return voxels


def _volumes(path: Path, sides: tuple[int, ...], volume: int | None) -> tuple[tuple[int, int, int], int, int]:
    """The sides of one volume, how many volumes there are, and which of them is chosen."""
    if not sides or len(sides) > 7 or min(sides) < 1:
        raise UserError(f"'{path}' is broken: its header gives the sides {sides}", remedy="copy it again")
    kept = sides[:3] + tuple(n for n in sides[3:] if n > 1)
    shape, count = kept[:3] + (1,) * (3 - len(kept)), int(np.prod(kept[3:], dtype=object))
    if count > 1 and volume is None:
        raise UserError(
            f"'{path}' holds {count} volumes (shape {sides})",
            allowed="one 2-D or 3-D image",
            remedy=f"choose a volume with --volume N (0 to {count - 1}), or save it as a file of its own",
        )
    if not 0 <= (volume or 0) < count:
        raise UserError(f"'{path}' has no volume {volume}", allowed=f"0 to {count - 1}")
    if sum(n > 1 for n in shape) < 2:
        raise UserError(f"'{path}' is a line of voxels (shape {sides})", allowed="2-D and 3-D images")
    return shape, count, volume or 0


def _expect_geometry(path: Path, shape: tuple[int, int, int], steps: np.ndarray, affine: np.ndarray) -> None:
    """UserError where a spacing or the affine places no voxels."""
    wrong = [float(step) for step, n in zip(steps, shape, strict=True) if n > 1 and not 0 < abs(step) < np.inf]
    if wrong:
        remedy = "write the true distances into its header (pixdim)"
        raise UserError(f"'{path}' has a spacing of {wrong[0]:g} mm", allowed="finite, not 0", remedy=remedy)
    finite = np.isfinite(affine).all()
    if not finite or np.linalg.matrix_rank(affine[:3, :3]) < 3 or np.isnan(io_orientation(affine)).any():
        raise UserError(f"'{path}' has an affine that maps no volume", remedy="repair its sform or qform")


def _packed(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _stream(path: Path) -> BinaryIO:
    return gzip.open(path, "rb") if _packed(path) else path.open("rb")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Errors of the libraries as one UserError that names the file."""
    try:
        with np.errstate(all="ignore"):
            yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # cut short, not gzip, absurd fields: nibabel and zlib each have their own errors
        what = f"'{path}' cannot be read as NIfTI: {error or type(error).__name__}"
        raise UserError(what, remedy="copy it again, or leave it out") from error


def write(path: Path, image: Image) -> None:
    """Write on the grid that the image came from: same affine, codes, units and zooms; the module tells the type."""
    if image.pixels.shape[0] != 1:
        raise UserError(
            f"an image of {image.pixels.shape[0]} channels does not fit into NIfTI",
            allowed="one channel",
            remedy="write it as PNG",
        )
    affine = UPRIGHT if image.affine is None else np.asarray(image.affine)
    header = image.header if isinstance(image.header, nib.Nifti1Header) else None
    shape = _file_shape(image, header, affine)
    upright = image.pixels[0].reshape(upright_sides(shape, affine))
    voxels = in_file_order(upright, shape, affine)
    slope, inter = (1.0, 0.0) if header is None else header.get_slope_inter()
    slope, inter = (1.0, 0.0) if slope is None else (slope, inter)
    data = as_integers(voxels, image.dtype, slope, inter)
    if data is None:
        data, slope, inter = voxels.astype(np.float32, copy=False), 1.0, 0.0
    if header is not None:
        data = data.reshape(header.get_data_shape())
    wide = isinstance(header, nib.Nifti2Header) or max(shape) > np.iinfo(np.int16).max
    pair = path.name.lower().endswith(".hdr")
    kind = (nib.Nifti2Pair if pair else nib.Nifti2Image) if wide else (nib.Nifti1Pair if pair else nib.Nifti1Image)
    nifti = kind(data, affine, header, dtype=data.dtype)
    _forget_intensities(nifti.header)
    nifti.header.set_slope_inter(slope, inter)
    nifti.to_filename(path)


def _file_shape(image: Image, header: nib.Nifti1Header | None, affine: np.ndarray) -> tuple[int, int, int]:
    """The three sides in the file's order: the header's own, or those of the pixels as they stand."""
    spatial = tuple(n for n in image.pixels.shape[1:] if n > 1)
    if header is None:
        return image.file_shape if image.affine is not None else shape_in_file(image.pixels.shape[1:], affine)
    shape = tuple(int(n) for n in header.get_data_shape()[:3])
    shape = shape + (1,) * (3 - len(shape))
    if tuple(n for n in upright_sides(shape, affine) if n > 1) != spatial:
        raise UserError(
            f"pixels of {image.pixels.shape[1:]} do not fit the grid {shape} of '{image.path}'",
            remedy="bring them back to the input's size first",
        )
    return shape


def _forget_intensities(header: nib.Nifti1Header) -> None:
    """What a header says of the values that it came with, and not of others: the window to show, the kind of map."""
    header["cal_min"] = header["cal_max"] = 0
    header.set_intent("none")
