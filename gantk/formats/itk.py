"""NRRD (.nrrd, .nhdr) and MetaImage (.mha, .mhd) through SimpleITK: read upright, written back with the same header.

SimpleITK reads the headers, after `gantk.formats.itk_headers` has looked at them. The voxels are streamed by
`gantk.formats.voxels`, since ITK reads damaged compressed ones without a word. Two axes are a picture, with three
values in each voxel in colour; a fourth axis, or the values of a volume, are several volumes of which one has to be
chosen.

Writing: same origin, direction, spacing and metadata, compressed where the source was; integers where the source held
integers and the values are such (`gantk.formats.voxels`), else float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from gantk.errors import UserError
from gantk.formats.image import Image, in_file_order
from gantk.formats.itk_headers import AXES, Voxels, voxels_of
from gantk.formats.limits import expect_room
from gantk.formats.orientation import UPRIGHT, upright_sides
from gantk.formats.voxels import Stored, as_integers

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK counts millimetres to the left and to posterior
KINDS = {  # SimpleITK's names of pixels
    "8-bit unsigned integer": "u1",
    "8-bit signed integer": "i1",
    "16-bit unsigned integer": "u2",
    "16-bit signed integer": "i2",
    "32-bit unsigned integer": "u4",
    "32-bit signed integer": "i4",
    "64-bit unsigned integer": "u8",
    "64-bit signed integer": "i8",
    "32-bit float": "f4",
    "64-bit float": "f8",
}


@dataclass(frozen=True)
class ItkHeader:
    """What ITK says of an image, in its own order (x, y, z) and its own LPS millimetres."""

    size: tuple[int, ...]  # of the one volume: two or three axes
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]  # row by row
    metadata: dict[str, str] = field(default_factory=dict)
    compressed: bool = False

    def get_data_shape(self) -> tuple[int, ...]:
        """The sides of the file's axes, as nibabel's headers tell them."""
        return self.size

    @property
    def shape(self) -> tuple[int, int, int]:
        """The same with three axes."""
        return self.size + (1,) * (3 - len(self.size))

    @property
    def affine(self) -> np.ndarray:
        """4x4, voxel indices (i, j, k) to RAS millimetres; what a picture lacks is as in one plane at 0."""
        n, affine = len(self.size), np.eye(4)
        affine[:n, :n] = np.reshape(self.direction, (n, n)) * self.spacing
        affine[:n, 3] = self.origin
        return LPS_TO_RAS @ affine


def read(path: Path, volume: int | None = None) -> Image:
    """float32 (1, D, H, W), (1, H, W), or (3, H, W) of a colour picture; axes of one voxel are dropped.

    `volume` chooses one of several, counted from 0; without it a file of several is a UserError.
    """
    voxels = voxels_of(path)
    size, header, dtype = _opened(path, voxels)
    chosen, shape = _channels(path, voxels, size, volume), header.shape
    expect_room(path, int(np.prod(size[:3] if voxels.values is None else voxels.sides, dtype=object)))
    every = None if voxels.values is None else _every_value(voxels, dtype)
    pixels = np.empty((len(chosen), *upright_sides(shape, header.affine)), np.float32)
    for upright, number in zip(pixels, chosen, strict=True):
        view = in_file_order(upright, shape, header.affine)
        if every is not None:
            view[:] = every[..., number].reshape(shape)
        else:
            _stored(voxels, dtype, shape, number).decode(view)
    pixels = pixels.reshape(len(pixels), *(n for n in pixels.shape[1:] if n > 1))
    return Image(pixels, header.affine, path, dtype.newbyteorder("="), header)


def outline(path: Path, volume: int | None = None) -> Image:
    """What `read` gives, from the header alone: its grid, with zeros that take no memory for pixels."""
    voxels = voxels_of(path)
    size, header, dtype = _opened(path, voxels)
    channels = _channels(path, voxels, size, volume)
    sides = [side for side in upright_sides(header.shape, header.affine) if side > 1]
    zeros = np.broadcast_to(np.float32(0), (len(channels), *sides))
    return Image(zeros, header.affine, path, dtype.newbyteorder("="), header)


def _opened(path: Path, voxels: Voxels) -> tuple[tuple[int, ...], ItkHeader, np.dtype]:
    """The sides, what the header says of one volume, and the stored type; UserError where it cannot be."""
    sitk = simpleitk()
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("NrrdImageIO" if _is_nrrd(path) else "MetaImageIO")
    with _told(path):
        reader.ReadImageInformation()
        kind = sitk.GetPixelIDValueAsString(reader.GetPixelID()).removeprefix("vector of ")
    size = tuple(int(n) for n in reader.GetSize())
    if kind not in KINDS:
        raise UserError(f"'{path}' holds values of kind '{kind}'", allowed="integers and floats")
    spatial = tuple(n for axis, n in enumerate(voxels.sides) if axis != voxels.values)
    parts = int(np.prod(voxels.sides, dtype=object)) // int(np.prod(spatial, dtype=object))
    if spatial != size or parts != reader.GetNumberOfComponents() or len(size) not in AXES or len(voxels.sides) > 4:
        raise UserError(f"'{path}' has axes of the sides {voxels.sides}", allowed="2, 3 or 4, of space and then time")
    if sum(n > 1 for n in size[:3]) < 2:
        raise UserError(f"'{path}' is a line of voxels (sides {size})", allowed="2-D and 3-D images")
    dtype = np.dtype(KINDS[kind]).newbyteorder(">" if voxels.big_endian else "<")
    _stored(voxels, dtype, (1, 1, 1)).expect_whole()
    return size, _header(path, reader, size, bool(voxels.packing)), dtype


def _header(path: Path, reader: Any, size: tuple[int, ...], compressed: bool) -> ItkHeader:
    """What is kept of the header, of one volume."""
    n, axes = min(len(size), 3), len(size)
    spacing, origin = reader.GetSpacing()[:n], reader.GetOrigin()[:n]
    direction = np.reshape(reader.GetDirection(), (axes, axes))[:n, :n]
    wrong = [step for step, side in zip(spacing, size, strict=False) if not 0 < step < np.inf]
    if wrong:
        raise UserError(f"'{path}' has a spacing of {wrong[0]:g} mm", allowed="above 0", remedy="correct its header")
    if not np.isfinite([*direction.ravel(), *origin]).all() or abs(np.linalg.det(direction)) < 1e-6:
        raise UserError(f"'{path}' has directions that map no volume", remedy="correct its header")
    with _told(path):
        metadata = {key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()}
    kept = {key: _utf8(text) for key, text in metadata.items() if not key.startswith("ITK_") and "[" not in key}
    return ItkHeader(size[:n], tuple(spacing), tuple(origin), tuple(direction.ravel().tolist()), kept, compressed)


def _utf8(text: str) -> str:
    """A remark of a header in Latin-1, as older programs write it, told by its not being UTF-8."""
    return (
        text.encode("utf-8", "surrogateescape").decode("latin-1")
        if any("\ud800" <= letter <= "\udfff" for letter in text)
        else text
    )


def _stored(voxels: Voxels, dtype: np.dtype, shape: tuple[int, int, int], number: int = 0) -> Stored:
    """One of the parts of this shape that lie one after the other in the file."""
    start, end = (number * int(np.prod(shape, dtype=object)), int(np.prod(voxels.sides, dtype=object)))
    size = dtype.itemsize
    return Stored(voxels.path, shape, dtype, start * size, end * size, voxels.packing, voxels.opens)


def _every_value(voxels: Voxels, dtype: np.dtype) -> np.ndarray:
    """Every value of a file with several in each voxel: (i, j, k, values), or (i, j, values)."""
    first, second, *others = voxels.sides
    flat = np.empty((first, second, int(np.prod(others))), np.float32, order="F")
    _stored(voxels, dtype, flat.shape).decode(flat)
    return np.moveaxis(flat.reshape(voxels.sides, order="F"), voxels.values, -1)


def _channels(path: Path, voxels: Voxels, size: tuple[int, ...], volume: int | None) -> tuple[int, ...]:
    """Which volumes, of a fourth axis or of the values of a voxel, are the channels: one, or the three of a picture."""
    parts = 1 if voxels.values is None else voxels.sides[voxels.values]
    if sum(n > 1 for n in size) == 2 and parts == 3 and volume is None:
        return (0, 1, 2)
    count = parts * int(np.prod(size[3:]))
    if count > 1 and volume is None:
        what = f"{count} volumes" if parts == 1 else f"{parts} values in each voxel"
        raise UserError(
            f"'{path}' holds {what} (sides {size})",
            allowed="one 2-D or 3-D image, 2-D colour",
            remedy=f"choose one with --volume N (0 to {count - 1}), or save it as a file of its own",
        )
    if not 0 <= (volume or 0) < count:
        raise UserError(f"'{path}' has no volume {volume}", allowed=f"0 to {count - 1}")
    return (volume or 0,)


def write(path: Path, image: Image) -> None:
    """Write on the grid that the image came from, or that of its affine; colour is for pictures alone."""
    header = image.header if isinstance(image.header, ItkHeader) else _header_for(image)
    shape = header.shape
    if len(image.pixels) != 1 and not (len(image.pixels) == 3 and image.dims == 2):
        what = f"an image of {len(image.pixels)} channels does not fit into {path.suffix.lower()}"
        raise UserError(what, allowed="one channel, or a colour picture", remedy="write each as a file of its own")
    sides = upright_sides(shape, header.affine)
    if tuple(n for n in sides if n > 1) != tuple(n for n in image.pixels.shape[1:] if n > 1):
        what = f"pixels of {image.pixels.shape[1:]} do not fit the grid {header.size} of '{image.path}'"
        raise UserError(what, remedy="bring them back to the input's size first")
    views = [in_file_order(channel.reshape(sides), shape, header.affine) for channel in image.pixels]
    stored = [as_integers(view, image.dtype) for view in views]
    if any(part is None for part in stored):
        stored = views
    arrays = [part.transpose(2, 1, 0).reshape(header.size[::-1]) for part in stored]
    sitk = simpleitk()
    array = np.stack(arrays, -1) if len(arrays) == 3 else arrays[0]
    result = sitk.GetImageFromArray(np.ascontiguousarray(array), isVector=len(arrays) == 3)
    result.SetSpacing(header.spacing)
    result.SetOrigin(header.origin)
    result.SetDirection(header.direction)
    for key, text in header.metadata.items():
        if _is_nrrd(path) or not key.startswith("NRRD_"):
            result.SetMetaData(key, text)
    with _told(path):
        sitk.WriteImage(result, str(path), useCompression=header.compressed)


def _header_for(image: Image) -> ItkHeader:
    """The grid of an image from another format, for ITK."""
    shape = image.file_shape
    affine = LPS_TO_RAS @ (UPRIGHT if image.affine is None else image.affine)
    n = 2 if image.affine is None and image.dims == 2 else 3
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    direction = (affine[:3, :3] / spacing)[:n, :n]
    return ItkHeader(
        shape[:n], tuple(spacing[:n]), tuple(affine[:n, 3]), tuple(direction.ravel().tolist()), compressed=True
    )


def _is_nrrd(path: Path) -> bool:
    return path.suffix.lower() in (".nrrd", ".nhdr")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """ITK's errors as one UserError of one line that names the file."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        what = f"'{path}' cannot be read or written by ITK: {lines[-1] if lines else type(error).__name__}"
        raise UserError(what, remedy="copy it again, or leave it out") from error


def simpleitk() -> ModuleType:
    """The library, which is an extra; UserError where it is not installed."""
    try:
        import SimpleITK
    except ImportError as error:
        remedy = 'pip install "gantk[dicom]"'
        raise UserError("NRRD and MetaImage files need SimpleITK, which is not installed", remedy=remedy) from error
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    return SimpleITK
