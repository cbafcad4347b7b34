"""Reads the slices of a DICOM series, or the frames of one file, as one upright volume, decoded and
rescaled.

MONOCHROME1 without a unit is inverted, so that high values are bright. Padding becomes the lowest
measured value.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut

from gantk.catalog.contrasts import contrast_of_series
from gantk.errors import UserError
from gantk.formats.image import Image, to_upright, upright_sides, zeros
from gantk_dicom.files import header, open_image, readable, shape_of, stored_frames
from gantk_dicom.names import (
    age_in_years,
    body_part,
    describe,
    description_without_names,
    field_strength,
    first_number,
    no_scan,
    types_of,
    value_of,
)
from gantk_dicom.series import (
    Slice,
    affine_of,
    expect_even,
    expect_one_volume,
    in_order,
    slices_of,
)

# Philips' slope of a slice's display (0028,1053) to its signal: group, creator, element
PHILIPS_SCALE = (0x2005, "Philips MR Imaging DD 001", 0x0E)


class Headers(list[Dataset]):
    """The header of each slice in order of position; needed for writing results."""

    shape: tuple[int, int, int] = (1, 1, 1)  # columns, rows, slices
    lacks: str = ""  # how many images of the series are not there, in words

    def get_data_shape(self) -> tuple[int, int, int]:
        """The number of voxels along the file's axes, as in nibabel's headers."""
        return self.shape

    @property
    def facts(self) -> dict[str, object]:
        """Facts for `data check`: modality, contrast, whether the header names a contrast agent, times
        in ms, age in years, part of the body, field strength in T, pseudonyms of patient and study.
        """
        said = describe(self[0])
        return {
            "echo_time": first_number(self[0], "EchoTime"),
            "repetition_time": first_number(self[0], "RepetitionTime"),
            "inversion_time": first_number(self[0], "InversionTime"),
            "modality": said.modality or None,
            "age": age_in_years(self[0]),
            "body_part": body_part(self[0]),
            "field_strength": field_strength(self[0]),
            "description": description_without_names(self[0]) or None,
            "lossy": value_of(self[0], "LossyImageCompression") == "01",
            "patient": said.patient,
            "study": said.study,
            "contrast": contrast_of_series(said.modality, said.words),
            "agent": said.agent,
        }

    @property
    def no_scan(self) -> str:
        """What the header says that the image is, where it is no scan: `a localizer`; else ""."""
        return no_scan(self[0])

    @property
    def doubts(self) -> list[tuple[str, bool]]:
        """What the header says that a scan of a scanner does not say; and whether the image is none."""
        found = []
        if self.no_scan:
            found.append((f"kind: the header says that it is {self.no_scan}", True))
        elif "DERIVED" in types_of(value_of(self[0], "ImageType")):
            found.append(("kind: the header says that it is computed from other images", False))
        if value_of(self[0], "BurnedInAnnotation") == "YES":
            found.append(("text: the header says that letters are burned into the pixels", False))
        if value_of(self[0], "LossyImageCompression") == "01":
            found.append(("compression: the header says that it is lossy", False))
        if self.lacks:
            found.append((self.lacks, True))
        return found


def read_files(files: Sequence[Path], values: bool = True) -> Image:
    """Read the image of one file, or of the files of a series; without `values` its pixels are
    zeros without memory.

    UserError where slices are missing or unevenly spaced, or where they are not of one volume.
    """
    path = files[0] if len(files) == 1 else files[0].parent
    with readable(path):
        slices = []
        for file in files:
            dataset = open_image(file)
            with readable(file):
                slices += slices_of(dataset, file)

        slices, affine = _volume(path, slices)
        headers = Headers(each.header for each in slices)
        headers.lacks = _missing_images(files, headers)
        shape = (len(slices), *shape_of(headers[0]))
        headers.shape = shape[::-1]
        sides = shape if affine is None else upright_sides(shape[::-1], affine)
        sides = (1, *(n for n in sides if n > 1))
        if not values:
            return Image(zeros(*sides), affine, path, None, headers)

        pixels, dtype = _values(slices)
        if affine is not None:
            pixels = to_upright(pixels.transpose(2, 1, 0), affine)
        return Image(np.ascontiguousarray(pixels.reshape(sides)), affine, path, dtype, headers)


def _volume(path: Path, slices: list[Slice]) -> tuple[list[Slice], np.ndarray | None]:
    """The slices in order, and their affine; a picture without a position has none. UserError where
    they are no volume.
    """
    first = slices[0]
    expect_one_volume(slices, f"'{path}'")
    if first.lacks:
        return slices, None
    if len(slices) == 1:
        thickness = first_number(first.header, "SpacingBetweenSlices") or first_number(
            first.header, "SliceThickness"
        )
        return slices, affine_of(slices, abs(thickness or 1.0))

    slices = in_order(slices)
    apart = expect_even(slices, f"'{path}'")
    if len({f"{_signal_scale(each):.4g}" for each in slices}) > 1:
        raise UserError(
            f"the slices of '{path}' have different private scales of Philips, so that their values"
            " cannot be compared",
            remedy="convert the series to NIfTI with dcm2niix, which applies these scales",
        )
    return slices, affine_of(slices, apart)


def _signal_scale(one: Slice) -> float:
    """What to divide a slice's values by to get its signal: the product of its slope and Philips'
    private scale; 1.0 where there is none.
    """
    group, creator, element = PHILIPS_SCALE
    try:
        scale = float(one.header.private_block(group, creator)[element].value)
    except (AttributeError, KeyError, TypeError, ValueError):  # bytes, where VRs are lost
        return 1.0
    return scale * one.rescale[0] or 1.0


def _missing_images(files: Sequence[Path], headers: Headers) -> str:
    """How many images a series has fewer than its header states, in words; "" for a whole one.

    Other files of it in the folder, such as another echo's, count. A single file lacks nothing.
    """
    stated = max(int(first_number(each, "ImagesInAcquisition") or 0) for each in headers)
    if len(files) == 1 or stated <= len(files):
        return ""
    own = value_of(headers[0], "SeriesInstanceUID")
    count = len(files)
    for file in set(files[0].parent.iterdir()) - set(files):
        with suppress(UserError):  # no DICOM file, or a damaged one
            count += value_of(header(file), "SeriesInstanceUID") == own
    if count >= stated:
        return ""
    return (
        f"missing: the series lacks {stated - count} of the {stated} images that its header states"
    )


# --- values


def _values(slices: Sequence[Slice]) -> tuple[np.ndarray, np.dtype]:
    """Decode and rescale all slices: float32 (slices, rows, columns), and the stored type."""
    pixels = np.empty((len(slices), *shape_of(slices[0].header)), dtype=np.float32)
    dtypes = set()
    places = {(each.path, each.frame or 0): k for k, each in enumerate(slices)}
    for path in dict.fromkeys(each.path for each in slices):
        for number, stored in enumerate(stored_frames(path)):
            k = places[path, number]
            pixels[k] = _rescale(stored, slices[k])
            dtypes.add(stored.dtype)
    padding = np.isnan(pixels)
    if padding.any():  # it is not measured: treat it as air
        pixels[padding] = pixels[~padding].min()
    is_whole = all(np.array_equal(plane, np.rint(plane)) for plane in pixels)
    return pixels, np.result_type(*dtypes) if is_whole else pixels.dtype


def _rescale(stored: np.ndarray, one: Slice) -> np.ndarray:
    """The values of a slice's stored numbers, in double precision (PS3.3, C.11.1); padding is NaN."""
    dataset = one.header
    if dataset.get("ModalityLUTSequence"):  # a look-up table maps stored numbers to values
        return apply_modality_lut(stored, dataset)

    numbers = stored.astype(np.float64)
    if _is_inverted(one):
        top = -1 if stored.dtype.kind == "i" else 2 ** int(dataset.BitsStored) - 1
        numbers = top - numbers
    slope, intercept = one.rescale
    numbers = numbers * slope + intercept
    end = dataset.get("PixelPaddingValue")
    # 0 is air in images of magnitudes
    if end is not None and (end != 0 or dataset.get("Modality") == "CT"):
        low, high = sorted((end, dataset.get("PixelPaddingRangeLimit", end)))
        padding = (stored >= low) & (stored <= high)
        numbers[padding] = np.nan
    return numbers


def _is_inverted(one: Slice) -> bool:
    """Whether to invert values: MONOCHROME1 (low is bright) without a unit, that is no CT, PET or
    rescale.
    """
    dataset = one.header
    has_unit = (
        dataset.get("Modality") in ("CT", "PT")
        or dataset.get("RescaleType") == "HU"
        or one.rescale != (1, 0)
    )
    return dataset.get("PhotometricInterpretation") == "MONOCHROME1" and not has_unit
