"""Derived DICOM series to disk: a folder or a file that appears when it is complete.

Values become 16-bit integers and a rescale (PS3.3, C.11.1), value = slope x number + intercept. Nothing is clipped.
Values that lie on the source's own integers are stored as these very integers, other whole numbers as themselves. What
is left is rounded, an error of half a step at most: with values of one sign 65,535 steps lead from 0 to the largest,
with both 32,767 to the largest of either, and 0 stays exactly 0; values far from 0 have all 65,535 steps between the
smallest and the largest.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.valuerep import format_number_as_ds

from gantk.errors import UserError
from gantk.formats.contrasts import CONTRASTS, words_of
from gantk.formats.files import hidden_folder, move_into
from gantk.formats.image import UPRIGHT, Image, in_file_order
from gantk_dicom.derived import MARK, Making, derived, frame_groups
from gantk_dicom.format import is_dicom
from gantk_dicom.read import Coding, Headers
from gantk_dicom.slices import TAGS, header, slices_of

NAME = re.compile(r"IMG\d{4,}\.dcm")  # of a slice in a folder
WINDOW = (0.5, 99.5)  # percentiles of the values that a viewer shows black and white at first
WHOLE = 1e-3  # how far a number may be from a whole one and still be meant as it
LIMITS = {False: (0, 65535), True: (-32768, 32767)}  # by whether signed


@dataclass(frozen=True)
class Scale:
    """How one slice is stored: value = slope x number + intercept."""

    slope: float = 1.0
    intercept: float = 0.0
    signed: bool = False

    def numbers(self, values: np.ndarray) -> np.ndarray:
        """Little-endian 16-bit integers; the values have to lie within the scale."""
        rounded = np.rint((values.astype(np.float64) - self.intercept) / self.slope)
        low, high = LIMITS[self.signed]
        if rounded.min() < low or rounded.max() > high:
            raise ValueError(f"values from {values.min():g} to {values.max():g} are beyond {self}")
        return rounded.astype("<i2" if self.signed else "<u2")

    def holds(self, values: np.ndarray) -> bool:
        """Whether the values are whole numbers of this scale, as exactly as float32 can tell, and within its bits."""
        exact = (values.astype(np.float64) - self.intercept) / self.slope
        low, high = LIMITS[self.signed]
        blur = np.abs(values).max() * np.finfo(np.float32).eps / abs(self.slope)
        within = exact.min() >= low - WHOLE and exact.max() <= high + WHOLE
        return bool(within and blur < 0.25 and np.abs(exact - np.rint(exact)).max() <= max(WHOLE, blur))


def scales_for(volume: np.ndarray, rescales: Sequence[tuple[float, float]], signed: bool) -> list[Scale]:
    """A scale for each of (slices, rows, columns): the source's (slope, intercept), whole numbers, or 65,535 steps.

    `signed` is how the source stored its integers, kept where they fit. All slices share the last two kinds.
    """
    low, high = float(volume.min()), float(volume.max())
    for candidates in (list(rescales), [(1.0, 0.0)] * len(volume), [(1.0, np.floor(low))] * len(volume)):
        for sign in (signed, not signed):
            scales = [Scale(slope, intercept, sign) for slope, intercept in candidates]
            if all(scale.holds(plane) for scale, plane in zip(scales, volume, strict=True)):
                return scales

    def written(number: float, up: float = 0.0) -> float:  # as it reads back from 16 characters, a shade larger if `up`
        return float(format_number_as_ds(float(number) * (1 + up)))

    step = max(high / 32767, -low / 32768) if low < 0 else high / 65535
    if step > 2.01 * (high - low) / 65535:  # far from 0
        return [Scale(written((high - low) / 65535, 1e-8) or 1.0, written(low), False)] * len(volume)
    return [Scale(written(step, 1e-8), 0.0, low < 0)] * len(volume)


def write_file(path: Path, image: Image, description: str = "") -> None:
    """One .dcm file: of a slice, a picture, or a multi-frame object."""
    datasets, one = _derived(image, description)
    if image.header.shape[2] > 1 and not one:
        what = f"one file cannot hold a series of {image.header.shape[2]} slices, each a file"
        raise UserError(what, where="OUTPUT", remedy="name a folder: a path without .dcm")
    _save(next(datasets), path)


def write_series(folder: Path, image: Image, description: str = "") -> None:
    """A folder of one file for each of the source's, in place of an earlier result if there is one.

    What else is there stays, if it is no DICOM; else UserError.
    """
    folder = Path(os.path.abspath(folder))
    if folder.exists() and not folder.is_dir():
        what = f"'{folder}' is a file"
        raise UserError(what, where="OUTPUT", remedy="a DICOM series is a folder: name another one")
    there = [file for file in folder.iterdir() if file.is_file() and is_dicom(file)] if folder.exists() else []
    for file in there:
        if not str(header(file, TAGS).get("SeriesDescription") or "").endswith(MARK):
            what = f"the folder '{folder}' holds other DICOM files, such as '{file.name}'"
            raise UserError(what, where="OUTPUT", remedy="name a folder that is new or empty")
    datasets, _ = _derived(image, description)
    with hidden_folder(folder) as hidden:
        for number, dataset in enumerate(datasets, start=1):
            _save(dataset, hidden / f"IMG{number:04d}.dcm")
        for file in there:
            if NAME.fullmatch(file.name):
                file.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        move_into(hidden, folder)


def modality_of(description: str, source: str) -> str:
    """CT or MR where the words of a domain's name say so, in place of the other; else the source's modality."""
    meant = {CONTRASTS.get(word.lower()) for word in words_of(description)} - {None, "pet"}
    if source not in ("CT", "MR") or not meant:
        return source
    return "CT" if meant == {"ct"} else "MR"


def _derived(image: Image, description: str) -> tuple[Iterator[Dataset], bool]:
    """The files of a derived series, one at a time, and whether all slices are frames of one file.

    They are as they came, unless what they show needs another kind of object.
    """
    headers = image.header
    if not isinstance(headers, Headers):
        what = "this cannot be written as DICOM: only what was read from DICOM has the patient and study that it needs"
        raise UserError(what, where="OUTPUT", remedy="write NIfTI (.nii.gz), or start from the DICOM files")
    source = str(headers[0].get("Modality") or "OT")
    making = Making(modality_of(description, source), description)
    columns, rows, count = headers.shape
    if int(np.prod(image.pixels.shape[1:])) != rows * columns * count:
        what = f"pixels of {image.pixels.shape[1:]} do not fit the {count} x {rows} x {columns} of '{image.path}'"
        raise UserError(what, remedy="bring them back to the input's size first")
    if image.channels == 3 and image.affine is None and count == 1:
        return iter([_coloured(image, making)]), True
    if image.channels != 1:
        raise UserError(f"an image of {image.channels} channels does not fit into a DICOM series", allowed="one")
    if image.affine is None:
        volume = image.pixels.reshape(count, rows, columns)
    else:
        volume = in_file_order(image.pixels[0], headers.shape, np.asarray(image.affine)).transpose(2, 1, 0)
    one = bool(headers.frames) and making.modality == source
    return (_framed if one else _slices)(volume, image, making), one


def _framed(volume: np.ndarray, image: Image, making: Making) -> Iterator[Dataset]:
    """All slices as frames of one file, on one scale."""
    source = image.header[0]
    scales = scales_for(volume, _rescales(image.header), Coding(source).signed)
    if len(set(scales)) > 1:  # the source had one for each frame
        scales = scales_for(volume, [(1.0, 0.0)] * len(volume), False)
    dataset = derived(source, making, enhanced=True)
    dataset.NumberOfFrames = len(volume)
    dataset.setdefault("InstanceNumber", 1)
    _fill(dataset, np.stack([scales[0].numbers(plane) for plane in volume]), scales[0], making, _window(volume))
    frame_groups(source, dataset, list(image.header.frames))
    yield dataset


def _slices(volume: np.ndarray, image: Image, making: Making) -> Iterator[Dataset]:
    """A file for each slice, numbered as the source's where these tell them apart."""
    headers = image.header
    scales, window = scales_for(volume, _rescales(headers), Coding(headers[0]).signed), _window(volume)
    counted = not headers.frames and len({str(each.get("InstanceNumber") or "") for each in headers} - {""})
    for k, (plane, scale) in enumerate(zip(volume, scales, strict=True)):
        dataset = derived(headers[0 if headers.frames else k], making)
        if headers.frames and image.affine is not None:  # where the frame lies, for a file of its own
            affine = UPRIGHT @ np.asarray(image.affine)
            steps = np.linalg.norm(affine[:3, :3], axis=0)
            dataset.ImagePositionPatient = _texts((affine @ [0, 0, k, 1])[:3])
            dataset.ImageOrientationPatient = _texts((affine[:3, :2] / steps[:2]).T.ravel())
            dataset.PixelSpacing, dataset.SliceThickness = _texts(steps[[1, 0]]), _texts(steps[2:])[0]
        if counted != len(volume):
            dataset.InstanceNumber = k + 1
        _fill(dataset, scale.numbers(plane), scale, making, window)
        yield dataset


def _coloured(image: Image, making: Making) -> Dataset:
    """A picture in colour, 8 bits a channel, or 16 where the values need them."""
    whole = np.rint(image.pixels)
    if whole.min() < 0 or whole.max() > 65535:
        raise UserError(f"values from {whole.min():g} to {whole.max():g} are no colours", allowed="0 to 65535")
    dataset = derived(image.header[0], making)
    dataset.setdefault("InstanceNumber", 1)
    _pixels(dataset, whole.transpose(1, 2, 0).astype("u1" if whole.max() < 256 else "<u2"), 3)
    return dataset


def _fill(dataset: Dataset, numbers: np.ndarray, scale: Scale, making: Making, window: list[str]) -> None:
    """Stored numbers, and how they become values and are shown."""
    _pixels(dataset, numbers, 1)
    dataset.RescaleSlope, dataset.RescaleIntercept = _texts([scale.slope, scale.intercept])
    dataset.RescaleType = "HU" if making.modality == "CT" else "US"  # unspecified
    dataset.WindowCenter, dataset.WindowWidth = window


def _pixels(dataset: Dataset, array: np.ndarray, samples: int) -> None:
    dataset.Rows, dataset.Columns = array.shape[:2] if samples == 3 else array.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = samples, "RGB" if samples == 3 else "MONOCHROME2"
    if samples == 3:
        dataset.PlanarConfiguration = 0
    bits = 8 * array.dtype.itemsize
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(array.dtype.kind == "i")
    dataset.PixelData = array.tobytes() + b"\0" * (array.nbytes % 2)
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"


def _rescales(headers: Headers) -> list[tuple[float, float]]:
    """The source's slope and intercept of each slice; 1 and 0 where its values came about in another way."""
    codings = [Coding(each) for each in headers]
    rescales = [each.rescale for source in headers for each in slices_of(source, Path())]
    if any(coding.inverted or coding.lookup is not None for coding in codings):
        rescales = [(1.0, 0.0)] * len(rescales)
    return [rescales[number] for number in headers.frames] if headers.frames else rescales


def _window(volume: np.ndarray) -> list[str]:
    """Centre and width."""
    low, high = np.percentile(volume[:: max(1, len(volume) // 64)], WINDOW)
    return _texts([(low + high) / 2, max(high - low, 1e-3 * max(1.0, abs(high)))])


def _texts(numbers: Iterable[float]) -> list[str]:
    return [format_number_as_ds(float(number)) for number in numbers]


def _save(dataset: Dataset, path: Path) -> None:
    try:
        dataset.save_as(path, enforce_file_format=True)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise UserError(f"the header of '{path.name}' cannot be written: {error}", remedy="write NIfTI") from error
