"""PNG, JPEG, TIFF and BMP through Pillow: colour of 8 bits; gray of 8 or 16 bits, or (TIFF) float.

Colour of 16 bits is refused, which Pillow would silently reduce to 8. A TIFF of several pages is
refused, because it does not state what its third axis is, nor the distance between its pages. Store
volumes as NIfTI.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import TiffImageFile

from gantk.errors import UserError
from gantk.formats.budget import pay_for_scans, spend
from gantk.formats.image import Format, Image, Shape, label_of, zeros

PIL.Image.MAX_IMAGE_PIXELS = None  # the budget of a file limits them

KINDS = {
    ".png": "PNG",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
}
# modes that are neither gray nor RGB -> the one they are converted to
MODES = {"1": "L", "LA": "L", "La": "L"}
MODES |= dict.fromkeys(("P", "PA", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"), "RGB")
# tags of TIFF: 262 is 0 where 0 is white; 274: the first corner
BITS = 258
WHITE = 262
DESCRIPTION = 270
MAX_LABEL = 200  # characters of the text in a file that says what it shows
OPTION_OF_LABEL = {"JPEG": "comment", "TIFF": "description"}
ORIENTATION = 274
SIGN = 339
# tags of TIFF: width, height as stored; newer versions of Pillow rotate `size` when opening a TIFF
SIDE_TAGS = (256, 257)
JPEGS = ("JPEG", "MPO")


class Picture(Format):
    """PNG, JPEG, TIFF and BMP: one picture, gray of 8 or 16 bits or colour of 8; TIFF also of floats."""

    name = "a picture"
    listed = "PNG, JPEG, TIFF, BMP"
    allowed = "complete PNG, JPEG, TIFF and BMP files: gray of 8 or 16 bits (TIFF also of 32), colour of 8"
    suffixes = tuple(KINDS)
    describes = True

    def read(self, path: Path, volume: int | None = None, values: bool = True) -> Image:
        """Read float32 (1, H, W) or (3, H, W): palettes become colour, alpha is dropped, JPEG's
        EXIF turn applied.
        """
        # a JPEG named .png is read as JPEG
        with PIL.Image.open(path, formats=(*KINDS.values(),)) as picture:
            # else Pillow maps the file, and truncating it meanwhile kills the process
            picture.filename = ""
            _expect_one_page(path, picture)
            size = picture.width * picture.height * len(picture.getbands())
            spend(values=size)
            if picture.format in JPEGS:
                pay_for_scans(path.read_bytes(), size)
            says = _description_of(picture)
            if not values:
                shape = _shape_of(path, picture)
                return Image(zeros(*shape), path=path, description=says)

            array = _array_of(picture)
            dtype = array.dtype.newbyteorder("=")
            if isinstance(picture, TiffImageFile):
                scale = _imagej_scale(picture)
                if scale is not None:
                    array = scale[0] + scale[1] * array.astype(np.float64)
                    dtype = np.dtype(np.float32)

        pixels = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
        pixels = np.ascontiguousarray(pixels, np.float32)
        return Image(pixels, path=path, dtype=dtype, description=says)

    def limits(self, path: Path, image: Image) -> list[tuple[float, float]]:
        """0 to 255 or 65,535, and any value in a gray TIFF, which is the only range for a source of
        floats.
        """
        kind = KINDS[path.suffix.lower()]
        whole = [(0.0, float(np.iinfo(bits).max)) for bits in _types(image, kind)]
        free = [(-np.inf, np.inf)] if kind == "TIFF" and image.channels == 1 else []
        return whole + free if image.is_integer else free or whole

    def write(self, path: Path, image: Image, description: str = "") -> None:
        """Write in the source's bit depth where the values fit, else in a larger one; UserError
        where none fits.

        Values of an integer image are rounded; those of a float image must be whole numbers unless
        the file is TIFF.
        """
        kind = KINDS[path.suffix.lower()]
        if image.dims != 2 or image.channels not in (1, 3):
            raise UserError(
                f"a {kind} file cannot store an image of the shape {image.pixels.shape}",
                allowed="(1, H, W) or (3, H, W)",
                remedy="write volumes as NIfTI (.nii.gz)",
            )

        array = _to_file_type(image, kind)
        array = array[0] if len(array) == 1 else np.ascontiguousarray(array.transpose(1, 2, 0))
        options: dict[str, Any] = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
        label = label_of(description, MAX_LABEL) if description else ""
        if label and kind == "PNG":
            options["pnginfo"] = PngInfo()
            options["pnginfo"].add_text("Description", label)
        elif label and kind in OPTION_OF_LABEL:
            options[OPTION_OF_LABEL[kind]] = label
        PIL.Image.fromarray(array).save(path, format=kind, **options)


def picture_of(pixels: np.ndarray, low: float, high: float) -> PIL.Image.Image:
    """Pixels (C, H, W) as a picture of 8 bits, `low` in black and `high` in white."""
    levels = np.clip((pixels - low) / ((high - low) or 1.0) * 255, 0, 255)
    channels = np.moveaxis(levels.round().astype(np.uint8), 0, -1)
    return PIL.Image.fromarray(channels.squeeze(-1) if len(pixels) == 1 else channels)


def _description_of(picture: ImageFile) -> str:
    """What the header of a picture says that it shows."""
    tag = getattr(picture, "tag_v2", {}).get(DESCRIPTION, "")
    text = picture.info.get("Description") or picture.info.get("comment") or tag
    return text.decode("ascii", "replace") if isinstance(text, bytes) else str(text)


def _has_exif_before_pixels(picture: ImageFile) -> bool:
    """Whether a picture has EXIF data that may turn it. Those after the pixels of a PNG do not count:
    Pillow decodes the picture to look for them.
    """
    return picture.format != "PNG" or bool({"exif", "Raw profile type exif"} & set(picture.info))


def _imagej_scale(picture: TiffImageFile) -> tuple[float, float] | None:
    """(intercept, slope) of a TIFF that ImageJ has calibrated, such as one of signed 16 bits; None
    for all others.
    """
    description = str(picture.tag_v2.get(DESCRIPTION, ""))
    fields = dict(re.findall(r"^(cf|c0|c1)=(\S+)", description, re.MULTILINE))
    if not description.startswith("ImageJ=") or "cf" not in fields:
        return None
    if fields["cf"] != "0":
        raise ValueError("ImageJ has calibrated its values by a function that is not linear")
    return float(fields["c0"]), float(fields["c1"])


def _is_deep(picture: ImageFile) -> bool:
    """Whether a picture has several channels of more than 8 bits, which Pillow would silently
    reduce to 8.
    """
    if picture.format == "PNG":  # how its rows are stored, such as "RGB;16B"
        return ";16" in str(picture.tile[0][3]) and picture.mode in ("RGB", "RGBA", "LA")
    bits = picture.tag_v2.get(BITS, (8,)) if isinstance(picture, TiffImageFile) else ()
    return len(bits) > 1 and max(bits) > 8


def _types(image: Image, kind: str) -> list[type]:
    """The integer types that such a file can hold, narrowest first: the source's or wider ones."""
    if image.channels > 1 or kind not in ("PNG", "TIFF"):
        return [np.uint8]
    wide = image.is_integer and np.dtype(image.dtype).itemsize > 1
    return [np.uint16] if wide else [np.uint8, np.uint16]


def _to_file_type(image: Image, kind: str) -> np.ndarray:
    """The pixels in the source's type, or in the narrowest wider one that the format and the
    channels allow.
    """
    pixels = image.pixels
    whole = np.rint(pixels)
    types = _types(image, kind)
    if image.is_integer or np.array_equal(whole, pixels):
        for bits in types:
            if whole.min() >= 0 and whole.max() <= np.iinfo(bits).max:
                return whole.astype(bits)

    if kind == "TIFF" and len(pixels) == 1:
        return np.asarray(pixels, np.float32)

    file = f"a {'gray' if len(pixels) == 1 else 'colour'} {kind} file"
    raise UserError(
        f"{file} cannot store values from {pixels.min():g} to {pixels.max():g}",
        allowed=f"whole numbers from 0 to {np.iinfo(types[-1]).max}",
        remedy="write to a .tif (gray) or .nii.gz file, which can store any value",
    )


def _expect_one_page(path: Path, picture: ImageFile) -> None:
    """UserError where a picture has several pages. A TIFF may have a million: they are not counted. An
    MPO's second page is the view of the other eye.
    """
    if isinstance(picture, TiffImageFile):
        several = bool(picture.tag_v2.next)
    else:
        several = picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1
    if several:
        raise UserError(
            f"'{path}' has several pages",
            allowed="one page",
            remedy="save each page as a file of its own, or all pages as a NIfTI volume",
        )


def _shape_of(path: Path, picture: ImageFile) -> Shape:
    """The shape (C, H, W) that a picture is read with, from its header only."""
    if isinstance(picture, TiffImageFile):
        width, height = (picture.tag_v2[side] for side in SIDE_TAGS)
    else:
        width, height = picture.size

    if _has_exif_before_pixels(picture) and picture.getexif().get(ORIENTATION) in range(5, 9):
        width, height = height, width

    channels = 3 if MODES.get(picture.mode, picture.mode) == "RGB" else 1
    return channels, height, width


def _array_of(picture: ImageFile) -> np.ndarray:
    """The values of a picture: (H, W) or (H, W, 3), upright."""
    if _is_deep(picture):
        raise ValueError("it has several channels of 16 bits")

    upright = PIL.ImageOps.exif_transpose(picture) if _has_exif_before_pixels(picture) else picture
    array = np.asarray(upright.convert(MODES.get(upright.mode, upright.mode)))
    if not isinstance(picture, TiffImageFile):
        return array

    # Pillow decodes int8 as uint8, uint32 as int32, and does not invert 16 bits
    tags = picture.tag_v2
    stored = array.dtype.str[1:]
    signed = tags.get(SIGN, (1,))[0] == 2
    coded = f"{'i' if signed else 'u'}{tags.get(BITS, (1,))[0] // 8}"
    if (stored, coded) in (("u1", "i1"), ("i4", "u4")):
        array = array.view(coded)
    if array.dtype == np.uint16 and tags.get(WHITE) == 0:
        array = 65535 - array

    return array
