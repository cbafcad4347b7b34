"""NIfTI-1 and -2 through nibabel: one file, gzipped or not, read upright and written back.

Reading: either byte order, integers and floats of any width, the header's scale applied in float64.
Pixels are float32, so whole numbers beyond 16,777,216 are rounded to its 24 bits. Writing: on the
grid, in the units and with the codes of the source; integers where the source held integers and the
values are still on their grid (`as_integers`), with the source's slope and intercept, else
float32. Texts and extensions of the source's header are left out.
"""

from __future__ import annotations

import gzip
import io
import logging
from pathlib import Path
from typing import Any

import numpy as np

from gantk.errors import UserError
from gantk.files import ANY_SIZE, regular_file
from gantk.formats.budget import expect_held, spend
from gantk.formats.files import chosen_volume
from gantk.formats.image import (
    SLACK_BYTES,
    UPRIGHT,
    Format,
    Image,
    as_integers,
    expect_grid,
    in_file_order,
    label_of,
    slabs,
    three_sides,
    upright_sides,
    zeros,
)

DESCRIP_BYTES = 79  # of NIfTI's `descrip`, without the byte that ends it
# hides what nibabel repairs in a header
SILENT = logging.Logger("nibabel.silent", level=logging.CRITICAL + 1)


class Nifti(Format):
    """NIfTI: a volume or a slice (of several volumes one is chosen), with affine, scale and units."""

    name = "NIfTI"
    suffixes = (".nii", ".nii.gz")
    volumes = several = describes = True

    def read(self, path: Path, volume: int | None = None, values: bool = True) -> Image:
        """float32 (1, H, W) or (1, D, H, W), scaled by the header; axes of one voxel are dropped.
        Without `values` its pixels are zeros without memory.
        """
        with path.open("rb") as file:
            header, stored = _read_header(path, file, volume)
            affine = _affine_of(header)
            sides = upright_sides(stored.shape, affine)
            upright = zeros(*sides)
            if values:
                spend(values=upright.size)
                upright = np.empty(sides, np.float32)
                voxels = in_file_order(upright, stored.shape, affine)
                for part in slabs(stored.shape[::-1]):  # scaled in float64
                    spend()
                    try:
                        voxels[:, :, part] = stored[:, :, part]
                    except ValueError:  # in nibabel's words
                        raise ValueError(
                            "it is truncated: it holds fewer voxels than its header says"
                        ) from None
                # padding, and after the last volume the stream's checksum
                stored.file_like.read(SLACK_BYTES)
        pixels = upright.reshape(1, *(n for n in sides if n > 1))
        dtype = stored.dtype.newbyteorder("=")
        return Image(pixels, affine, path, dtype, header, description=description_of(header))

    def write(self, path: Path, image: Image, description: str = "") -> None:
        """Write on the grid that the image came from: same affine, codes, units and zooms."""
        import nibabel as nib

        if image.channels != 1:
            raise UserError(
                f"a NIfTI file cannot store an image of {image.channels} channels",
                allowed="one channel",
                remedy="write a PNG file",
            )

        affine = UPRIGHT if image.affine is None else np.asarray(image.affine)
        header = image.header if isinstance(image.header, nib.Nifti1Header) else None
        sides = image.file_shape if header is None else tuple(map(int, header.get_data_shape()))
        shape = three_sides(sides)
        expect_grid(image, shape, affine)
        voxels = in_file_order(image.pixels[0], shape, affine)
        slope = 1.0
        inter = 0.0
        if header is not None and header.get_slope_inter()[0] is not None:
            slope, inter = header.get_slope_inter()

        data = as_integers(voxels, image.dtype, slope, inter)
        if data is None:
            data = voxels.astype(np.float32, copy=False)
            slope = 1.0
            inter = 0.0

        if header is not None:
            affine = np.diag([1 / _millimetres(header)] * 3 + [1]) @ affine
        wide = isinstance(header, nib.Nifti2Header) or max(shape) > np.iinfo(np.int16).max
        kind: Any = nib.Nifti2Image if wide else nib.Nifti1Image
        nifti = kind(data.reshape(sides), affine, header, dtype=data.dtype)
        # These describe the source's values: the window to show, and the kind of map.
        nifti.header["cal_min"] = 0
        nifti.header["cal_max"] = 0
        nifti.header.set_intent("none")
        # texts and undefined fields, which may name the patient
        empty = type(nifti.header)()
        for name, (form, *_) in empty.template_dtype.fields.items():
            if form.kind == "S" or name in ("extents", "session_error", "glmax", "glmin"):
                nifti.header[name] = empty[name]
        if description:
            nifti.header["descrip"] = label_of(description, DESCRIP_BYTES).encode(
                "ascii", "replace"
            )
        nifti.header.set_slope_inter(slope, inter)
        nifti.to_filename(path)


def description_of(header: Any) -> str:
    """What a header says that the image shows; "" for headers of other formats."""
    text = header["descrip"] if "descrip" in getattr(header, "keys", tuple)() else b""
    return bytes(text).decode("ascii", "replace")


def _millimetres(header: Any) -> float:
    """Millimetres in the header's unit of length; an unknown unit is taken for millimetres."""
    unit = header.get_xyzt_units()[0]
    return {"meter": 1000.0, "micron": 0.001}.get(unit, 1.0)


def _read_header(path: Path, file: io.BufferedReader, volume: int | None) -> tuple[Any, Any]:
    """The header of one volume, and its voxels (i, j, k) as nibabel decodes them, checked against the
    size of the file.
    """
    from nibabel.arrayproxy import ArrayProxy
    from nibabel.nifti1 import data_type_codes

    packing = "gzip" if file.peek(2).startswith(b"\x1f\x8b") else ""  # whatever its suffix says
    stream: Any = gzip.GzipFile(fileobj=file) if packing else file
    header = _header_of(stream.read(540))
    code = int(header["datatype"])
    dtype = header.get_data_dtype() if code in data_type_codes else None
    if dtype is None or dtype.kind not in "iuf":
        raise ValueError(f"its values are of the type {dtype or code}, not integers or floats")
    if not 1 <= header["dim"][0] <= 7:
        raise ValueError("its number of axes, dim[0], is not 1 to 7")

    sides = tuple(map(int, header.get_data_shape()))
    shape = three_sides(sides)
    count = int(np.prod(sides[3:], dtype=object))
    if min(sides, default=0) < 1 or shape.count(1) > 1:
        raise ValueError(f"the shape {sides} in its header is not that of an image")
    chosen = chosen_volume(path, volume, count, f"{count} volumes (shape {sides})")
    for step, n in zip(header["pixdim"][1:4], shape, strict=True):
        if n > 1 and not 0 < abs(step) < np.inf:
            raise ValueError(f"the spacing of {step:g} in its header is not valid; correct pixdim")

    header.states_orientation = bool(header["qform_code"] or header["sform_code"])
    header.remarks = []  # on what it leaves open, and is read as nibabel does
    if not header.states_orientation:
        header.remarks.append(
            "its header states no orientation (qform and sform are 0): check left and right in a viewer"
        )
    if (header["pixdim"][1:4] < 0).any():
        header.remarks.append("its header states a negative spacing, whose sign is ignored")
    offset = int(header["vox_offset"])
    spend(unpacked=offset)
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    expect_held(
        offset + count * size, regular_file(path, max_bytes=ANY_SIZE).stat().st_size, packing
    )
    header.check_fix(SILENT, error_level=40)
    slope, inter = header.get_slope_inter()
    if count > 1:
        header.set_data_shape(shape)
    spec = shape, dtype, offset + chosen * size, slope or 1.0, inter or 0.0
    return header, ArrayProxy(stream, spec, mmap=False)


def _affine_of(header: Any) -> np.ndarray:
    """The affine in millimetres; ValueError where it is not valid."""
    affine = np.diag([_millimetres(header)] * 3 + [1]) @ header.get_best_affine()
    if _millimetres(header) > 1:  # float32 metres are exact to 10 nm only
        affine = np.round(affine, 5)
    axes = affine[:3, :3]
    steps = np.linalg.norm(axes, axis=0)
    spans = np.isfinite(affine).all() and np.linalg.matrix_rank(axes) == 3
    if not (spans and np.all((steps > 0) & np.isfinite(steps))):
        raise ValueError("its affine (sform or qform) does not span a volume")
    return affine


def _header_of(start: bytes) -> Any:
    """The header at the start of a file, without its extensions."""
    import nibabel as nib

    for kind in (nib.Nifti1Header, nib.Nifti2Header):
        if kind.may_contain_header(start):
            return kind(start[: kind.sizeof_hdr], check=False)
    raise ValueError("it has no NIfTI header")
