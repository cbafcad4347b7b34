"""PNG, JPEG, TIFF and BMP through Pillow: gray, 16-bit, float and colour, each as what it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps

from gantk.data.image import Image
from gantk.errors import UserError

KINDS = ("PNG", "JPEG", "TIFF", "BMP")  # by content; a JPEG named .png is read as the JPEG it is
TO_GRAY = {"1": "L", "LA": "L", "La": "L"}
TO_COLOUR = dict.fromkeys(("P", "PA", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"), "RGB")
WIDEST_EXACT = "TIFF (.tif, gray) or NIfTI (.nii.gz) hold any value"


def read(path: Path) -> Image:
    """A picture as float32 (1, H, W) or (3, H, W): palettes turn to colour, alpha goes, EXIF turns are honoured."""
    try:
        with PIL.Image.open(path, formats=KINDS) as picture:
            _refuse_loss(picture, path)
            picture.load()
            if picture.format in ("JPEG", "MPO"):
                picture = PIL.ImageOps.exif_transpose(picture)
            pixels, dtype = _array(picture)
    except UserError:
        raise
    except Exception as error:  # Pillow answers a broken file with a dozen kinds of error
        raise UserError(
            f"'{path}' cannot be read as a picture: {error or type(error).__name__}",
            allowed="complete PNG, JPEG, TIFF and BMP files",
            remedy="copy it again, or leave it out",
        ) from error
    return Image(pixels=pixels, path=path, dtype=dtype)


def _array(picture: PIL.Image.Image) -> tuple[np.ndarray, np.dtype]:
    mode = picture.mode
    if mode in TO_GRAY or mode in TO_COLOUR:
        picture = picture.convert(TO_GRAY.get(mode) or TO_COLOUR[mode])
    array = np.asarray(picture)
    dtype = array.dtype.newbyteorder("=")
    if mode == "I" and picture.format == "PNG":  # what older Pillows call 16-bit gray
        dtype = np.dtype(np.uint16)
    array = array.astype(np.float32)
    return np.ascontiguousarray(array[None] if array.ndim == 2 else array.transpose(2, 0, 1)), dtype


def _refuse_loss(picture: PIL.Image.Image, path: Path) -> None:
    """Several pages, and 16 bits a colour, which Pillow would silently cut to the first page and to 8 bits."""
    pages = getattr(picture, "n_frames", 1)
    if pages > 1 and picture.format != "MPO":
        remedy = "save each as a file of its own, or all as a NIfTI volume"
        raise UserError(f"'{path}' holds {pages} pages", allowed="one", remedy=remedy)
    deep = False
    if picture.format == "PNG":
        with path.open("rb") as file:
            start = file.read(26)
        deep = start[24] == 16 and start[25] != 0  # bit depth, colour type (0: gray)
    elif picture.format == "TIFF":
        bits = picture.tag_v2.get(258, (8,))
        deep = len(bits) > 1 and max(bits) > 8
    if deep:
        raise UserError(
            f"'{path}' has 16 bits in each of several channels",
            allowed="16-bit gray, 8-bit colour",
            remedy="save it as gray without transparency, or with 8 bits a colour",
        )


def write(path: Path, image: Image) -> None:
    """Write a 2-D image with the source's bits where the values fit, else with more; UserError where none hold them.

    Values of an integer image are rounded; those of a float image have to be whole numbers unless the file is TIFF.
    """
    kind = {".png": "PNG", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF"}.get(path.suffix.lower(), "JPEG")
    pixels = np.asarray(image.pixels, dtype=np.float32)
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
        raise UserError(
            f"an image of shape {tuple(pixels.shape)} does not fit into a {kind} file",
            allowed="(1, H, W) or (3, H, W)",
            remedy="write volumes as NIfTI (.nii.gz)",
        )
    array = _stored(pixels, image.dtype, kind)
    picture = PIL.Image.fromarray(array[0] if len(array) == 1 else np.ascontiguousarray(array.transpose(1, 2, 0)))
    picture.save(path, format=kind, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {}))


def _stored(pixels: np.ndarray, dtype: np.dtype | None, kind: str) -> np.ndarray:
    """The pixels in the narrowest type that the source had, or a wider one, which the format and the channels allow."""
    whole = np.rint(pixels)
    integer = dtype is not None and np.issubdtype(dtype, np.integer)
    gray = len(pixels) == 1
    if integer or np.array_equal(whole, pixels):
        for bits in (np.uint8, np.uint16) if kind in ("PNG", "TIFF") and gray else (np.uint8,):
            narrower = integer and np.dtype(bits).itemsize < min(np.dtype(dtype).itemsize, 2)
            if not (narrower and gray) and whole.min() >= 0 and whole.max() <= np.iinfo(bits).max:
                return whole.astype(bits)
    if kind == "TIFF" and gray:
        return pixels
    colour = "gray" if gray else "colour"
    raise UserError(
        f"values from {pixels.min():g} to {pixels.max():g} do not fit into a {colour} {kind} file",
        allowed=f"whole numbers from 0 to {65535 if kind in ('PNG', 'TIFF') and gray else 255}; {WIDEST_EXACT}",
        remedy="write to a .tif or .nii.gz file instead",
    )
