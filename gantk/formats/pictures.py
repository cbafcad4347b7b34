"""PNG, JPEG, TIFF and BMP through Pillow: gray, 16-bit, float and colour, each as what it is.

Pillow knows colour of 8 bits only. PNG and TIFF with 16 bits in each of several channels are read and written by
SimpleITK where that is installed (extra `dicom`). A TIFF of several pages is refused: nothing in it says what
its third axis is and how far its pages lie apart, so a volume is better kept as NIfTI.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from types import ModuleType

import numpy as np
import PIL.Image
import PIL.ImageOps

from gantk.errors import UserError
from gantk.formats.image import Image
from gantk.formats.limits import expect_held, expect_room

KINDS = ("PNG", "JPEG", "TIFF", "BMP")  # by content; a JPEG named .png is read as the JPEG it is
TO_GRAY = {"1": "L", "LA": "L", "La": "L"}
TO_COLOUR = dict.fromkeys(("P", "PA", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"), "RGB")
ORIENTATION, PLANES = 274, 284  # tags of TIFF: which corner comes first, and whether channels lie apart
WIDEST_EXACT = "TIFF (.tif, gray) or NIfTI (.nii.gz) hold any value"
_SILENCE = Lock()


def read(path: Path) -> Image:
    """A picture as float32 (1, H, W) or (3, H, W): palettes turn to colour, alpha goes, EXIF turns are honoured."""
    with _told(path), PIL.Image.open(path, formats=KINDS) as picture:
        _expect_one_page(picture, path)
        _expect_small(picture, path)
        picture.load()
        deep = _deep(picture, path)
        if picture.format in ("JPEG", "MPO"):
            picture = PIL.ImageOps.exif_transpose(picture)
        pixels, dtype = _deep_array(picture, path) if deep else _array(picture)
    return Image(pixels=pixels, path=path, dtype=dtype)


def outline(path: Path) -> Image:
    """What `read` gives, from the header alone: zeros that take no memory for pixels."""
    with _told(path), PIL.Image.open(path, formats=KINDS) as picture:
        _expect_one_page(picture, path)
        _expect_small(picture, path)
        turned = picture.format in ("JPEG", "MPO") and picture.getexif().get(ORIENTATION, 1) >= 5
        sides = picture.size if turned else picture.size[::-1]
        gray = picture.mode in ("L", "I", "F", *TO_GRAY) or picture.mode.startswith("I;16")
    return Image(np.broadcast_to(np.float32(0), (1 if gray else 3, *sides)), path=path)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Pillow's errors as one UserError that names the file."""
    try:
        with _quietly(path):
            yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # Pillow answers a broken file with a dozen kinds of error
        raise UserError(
            f"'{path}' cannot be read as a picture: {' '.join(str(error).split()[-30:]) or type(error).__name__}",
            allowed="complete PNG, JPEG, TIFF and BMP files",
            remedy="copy it again, or leave it out",
        ) from error


@contextmanager
def _quietly(path: Path) -> Iterator[None]:
    """Keeps what libtiff, libpng and Pillow say of a broken file off the terminal: an error tells it once.

    The libraries write to the process's second stream by themselves: it is turned away while TIFF and PNG are read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if path.suffix.lower() in (".jpg", ".jpeg", ".bmp"):
            yield
            return
        with _SILENCE, open(os.devnull, "wb") as nowhere:
            kept = os.dup(2)
            os.dup2(nowhere.fileno(), 2)
            try:
                yield
            finally:
                os.dup2(kept, 2)
                os.close(kept)


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


def _expect_one_page(picture: PIL.Image.Image, path: Path) -> None:
    """Pillow would silently take the first of several pages; the second picture of an MPO is the first, for the eye."""
    pages = getattr(picture, "n_frames", 1)
    if pages > 1 and picture.format != "MPO":
        remedy = "save each as a file of its own, or all as a NIfTI volume"
        raise UserError(f"'{path}' holds {pages} pages", allowed="one", remedy=remedy)


def _expect_small(picture: PIL.Image.Image, path: Path) -> None:
    """UserError where the declared size needs too much memory, or cannot be in so small a file."""
    expect_room(path, picture.width * picture.height * len(picture.getbands()))
    if picture.format != "TIFF":  # of which blank rows may take no more than a bit
        expect_held(path, picture.width * picture.height // 8, path.stat().st_size, packed=True)


def _deep(picture: PIL.Image.Image, path: Path) -> bool:
    """Whether there are more than 8 bits in each of several channels, which Pillow would silently cut to 8."""
    if picture.format == "PNG":
        depth, colours = _png_depth(path)
        return depth == 16 and colours != 0
    bits = picture.tag_v2.get(258, (8,)) if picture.format == "TIFF" else ()
    return len(bits) > 1 and max(bits) > 8


def _png_depth(path: Path) -> tuple[int, int]:
    """Bits in a channel, and the type of colour: 0 is gray, 2 RGB, 4 gray with transparency, 6 RGB with it."""
    with path.open("rb") as file:
        start = file.read(26)
    return start[24], start[25]


def _deep_array(picture: PIL.Image.Image, path: Path) -> tuple[np.ndarray, np.dtype]:
    """The same by SimpleITK, without its transparency."""
    sitk, tags = _simpleitk(), getattr(picture, "tag_v2", {})
    two = picture.format == "PNG" and _png_depth(path)[1] == 4  # for which SimpleITK has no name
    if sitk is None or two or tags.get(ORIENTATION, 1) != 1 or tags.get(PLANES, 1) != 1:
        raise UserError(
            f"'{path}' has 16 bits in each of several channels",
            allowed="16-bit gray, 8-bit colour" + ("" if sitk else "; 16-bit colour where SimpleITK is installed"),
            remedy='pip install "gantk[dicom]"' if sitk is None else "save it as gray or RGB, upright",
        )
    kind = "PNGImageIO" if picture.format == "PNG" else "TIFFImageIO"
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO=kind))
    if array.ndim != 3 or array.shape[:2] != picture.size[::-1] or array.shape[2] not in (3, 4):
        raise ValueError(f"{array.shape[2:]} channels")
    return np.ascontiguousarray(array[..., :3].transpose(2, 0, 1), dtype=np.float32), array.dtype


def _simpleitk() -> ModuleType | None:
    """SimpleITK, where it is installed."""
    try:
        import SimpleITK
    except ImportError:
        return None
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    return SimpleITK


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
    array = array[0] if len(array) == 1 else np.ascontiguousarray(array.transpose(1, 2, 0))
    if array.ndim == 3 and array.dtype != np.uint8:
        sitk = _simpleitk()
        picture = sitk.GetImageFromArray(array, isVector=True)
        sitk.WriteImage(picture, str(path), useCompression=True, imageIO=f"{kind}ImageIO")
        return
    picture = PIL.Image.fromarray(array)
    picture.save(path, format=kind, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {}))


def _stored(pixels: np.ndarray, dtype: np.dtype | None, kind: str) -> np.ndarray:
    """The pixels in the narrowest type that the source had, or a wider one, which the format and the channels allow."""
    whole = np.rint(pixels)
    integer = dtype is not None and np.issubdtype(dtype, np.integer)
    deep = kind in ("PNG", "TIFF") and (len(pixels) == 1 or _simpleitk() is not None)
    if integer or np.array_equal(whole, pixels):
        for bits in (np.uint8, np.uint16) if deep else (np.uint8,):
            narrower = integer and np.dtype(bits).itemsize < min(np.dtype(dtype).itemsize, 2)
            if not (narrower and deep) and whole.min() >= 0 and whole.max() <= np.iinfo(bits).max:
                return whole.astype(bits)
    gray = len(pixels) == 1
    if kind == "TIFF" and gray:
        return pixels
    colour = "gray" if gray else "colour"
    raise UserError(
        f"values from {pixels.min():g} to {pixels.max():g} do not fit into a {colour} {kind} file",
        allowed=f"whole numbers from 0 to {65535 if deep else 255}; {WIDEST_EXACT}",
        remedy="write to a .tif or .nii.gz file instead",
    )
