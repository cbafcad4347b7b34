"""Derived DICOM series to disk: a folder or a file that appears when it is complete."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.valuerep import format_number_as_ds

from gantk.data.sources.file_names import CONTRASTS, words_of
from gantk.errors import UserError
from gantk.formats.dicom import SUFFIXES, is_dicom
from gantk.formats.dicom.derived import MARK, Making, derived, frame_groups
from gantk.formats.dicom.header import header
from gantk.formats.dicom.image import Headers
from gantk.formats.dicom.pixels import Coding
from gantk.formats.dicom.slices import TAGS, slices_of
from gantk.formats.dicom.stacks import TO_RAS
from gantk.formats.dicom.stored import Scale, scales_for
from gantk.formats.image import Image, in_file_order

NAME = re.compile(r"IMG\d{4,}\.dcm")  # of a slice in a folder
WINDOW = (0.5, 99.5)  # percentiles of the values that a viewer shows black and white at first


def write(path: Path, image: Image, description: str = "") -> None:
    """A folder of one file for each of the source's, or one .dcm file."""
    headers = image.header
    if not isinstance(headers, Headers):
        raise UserError(
            f"'{path}' cannot be written: only what was read from DICOM has the patient and study that DICOM needs",
            where="OUTPUT",
            remedy="write NIfTI (.nii.gz), or start from the DICOM files",
        )
    making = Making.of(modality_of(description, str(headers[0].get("Modality") or "OT")), description)
    one = _as_one(headers, making)
    if path.suffix.lower() not in SUFFIXES:
        with _folder(path) as folder:
            for number, dataset in enumerate(_datasets(image, headers, making, one), start=1):
                _save(dataset, folder / f"IMG{number:04d}.dcm")
        return
    if headers.shape[2] > 1 and not one:
        raise UserError(
            f"'{path}' is one file, and the series has {headers.shape[2]} slices, each a file",
            where="OUTPUT",
            remedy="name a folder: a path without .dcm",
        )
    _save(next(_datasets(image, headers, making, one)), path)


def modality_of(description: str, source: str) -> str:
    """CT or MR where the words of a domain's name say so, in place of the other; else the source's modality."""
    meant = {CONTRASTS.get(word.lower()) for word in words_of(description)} - {None, "pet"}
    if source not in ("CT", "MR") or not meant:
        return source
    return "CT" if meant == {"ct"} else "MR"


def _as_one(headers: Headers, making: Making) -> bool:
    """Whether all slices go into one file: as they came, unless what they show needs another kind of object."""
    return bool(headers.frames) and making.modality == (headers[0].get("Modality") or "OT")


def _datasets(image: Image, headers: Headers, making: Making, one: bool) -> Iterator[Dataset]:
    """The files of a derived series, one at a time."""
    columns, rows, count = headers.shape
    if int(np.prod(image.pixels.shape[1:])) != rows * columns * count:
        raise UserError(
            f"pixels of {image.pixels.shape[1:]} do not fit the {count} x {rows} x {columns} of '{image.path}'",
            remedy="bring them back to the input's size first",
        )
    if image.channels == 3 and image.affine is None and count == 1:
        yield _coloured(image, headers, making)
        return
    if image.channels != 1:
        raise UserError(f"an image of {image.channels} channels does not fit into a DICOM series", allowed="one")
    if image.affine is None:
        volume = image.pixels.reshape(count, rows, columns)
    else:
        volume = in_file_order(image.pixels[0], headers.shape, np.asarray(image.affine)).transpose(2, 1, 0)
    if one:
        yield _framed(volume, headers, making)
    else:
        yield from _slices(volume, image, headers, making)


def _framed(volume: np.ndarray, headers: Headers, making: Making) -> Dataset:
    """All slices as frames of one file, on one scale."""
    source, rescales = headers[0], _rescales(headers)
    scales = scales_for(volume, rescales, Coding.of(source).signed)
    if len(set(scales)) > 1:  # the source had one for each frame
        scales = scales_for(volume, [(1.0, 0.0)] * len(volume), False)
    dataset = derived(source, making, enhanced=True)
    dataset.NumberOfFrames = len(volume)
    dataset.setdefault("InstanceNumber", 1)
    _fill(dataset, (scales[0].numbers(plane) for plane in volume), scales[0], making, _window(volume))
    frame_groups(source, dataset, list(headers.frames))
    return dataset


def _slices(volume: np.ndarray, image: Image, headers: Headers, making: Making) -> Iterator[Dataset]:
    """A file for each slice, numbered as the source's where these tell them apart."""
    codings, rescales = [Coding.of(each) for each in headers], _rescales(headers)
    scales = scales_for(volume, rescales, codings[0].signed)
    window = _window(volume)
    same_kind = making.modality == headers[0].get("Modality")
    padded = np.unpackbits(headers.padding, count=volume.size).astype(bool) if headers.padding is not None else None
    counted = not headers.frames and len({str(each.get("InstanceNumber") or "") for each in headers} - {""})
    for k, (plane, scale) in enumerate(zip(volume, scales, strict=True)):
        source = headers[0] if headers.frames else headers[k]
        dataset = derived(source, making)
        if headers.frames and image.affine is not None:
            _place(dataset, np.asarray(image.affine), k)
        if counted != len(volume):
            dataset.InstanceNumber = k + 1
        numbers = scale.numbers(plane)
        if padded is not None and same_kind and scale == Scale(*rescales[k], codings[k].signed):
            numbers[padded.reshape(volume.shape)[k]] = codings[k].padding[0]
            dataset.PixelPaddingValue = codings[k].padding[0]
        _fill(dataset, [numbers], scale, making, window)
        yield dataset


def _coloured(image: Image, headers: Headers, making: Making) -> Dataset:
    """A picture in colour, 8 bits a channel, or 16 where the values need them."""
    whole = np.rint(image.pixels)
    if whole.min() < 0 or whole.max() > 65535:
        raise UserError(f"values from {whole.min():g} to {whole.max():g} are no colours", allowed="0 to 65535")
    bits = 8 if whole.max() < 256 else 16
    dataset = derived(headers[0], making)
    dataset.setdefault("InstanceNumber", 1)
    _shape(dataset, whole.shape[1:], 3, "RGB", bits, signed=False)
    dataset.PlanarConfiguration = 0
    data = whole.transpose(1, 2, 0).astype("u1" if bits == 8 else "<u2").tobytes()
    _pixels(dataset, data, "OB" if bits == 8 else "OW")
    return dataset


def _fill(dataset: Dataset, planes: Iterable[np.ndarray], scale: Scale, making: Making, window: list[str]) -> None:
    """Stored numbers, and how they become values and are shown."""
    planes = list(planes)
    _shape(dataset, planes[0].shape, 1, "MONOCHROME2", 16, scale.signed)
    dataset.RescaleSlope, dataset.RescaleIntercept = _texts([scale.slope, scale.intercept])
    dataset.RescaleType = "HU" if making.modality == "CT" else "US"  # unspecified
    dataset.WindowCenter, dataset.WindowWidth = window
    _pixels(dataset, b"".join(plane.tobytes() for plane in planes), "OW")


def _shape(
    dataset: Dataset, sides: tuple[int, ...], samples: int, interpretation: str, bits: int, signed: bool
) -> None:
    dataset.Rows, dataset.Columns = sides
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = samples, interpretation
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(signed)


def _pixels(dataset: Dataset, data: bytes, kind: str) -> None:
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = kind


def _rescales(headers: Headers) -> list[tuple[float, float]]:
    """The source's slope and intercept of each slice; 1 and 0 where its values came about in another way."""
    sources = [headers[0]] if headers.frames else headers
    codings = [Coding.of(each) for each in sources]
    rescales = [each.rescale for source in sources for each in slices_of(source, Path())]
    if any(coding.inverted or coding.lookup is not None for coding in codings):
        rescales = [(1.0, 0.0)] * len(rescales)
    return [rescales[number] for number in headers.frames] if headers.frames else rescales


def _place(dataset: Dataset, affine: np.ndarray, k: int) -> None:
    """Where slice k of a volume lies, for a file of its own."""
    affine = TO_RAS @ affine
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    dataset.ImagePositionPatient = _texts((affine @ [0, 0, k, 1])[:3])
    dataset.ImageOrientationPatient = _texts((affine[:3, :2] / steps[:2]).T.ravel())
    dataset.PixelSpacing = _texts(steps[[1, 0]])
    dataset.SliceThickness = _texts(steps[2:])[0]


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


@contextmanager
def _folder(path: Path) -> Iterator[Path]:
    """A hidden folder that takes the place of `path` when the block ends without an error.

    What is there already may be an earlier result, which is replaced, or no DICOM, which stays; else UserError.
    """
    path = Path(os.path.abspath(path))
    earlier = _earlier(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in temporary.iterdir():  # all at once: the disk is waited for but once
            with file.open("rb") as written:
                os.fsync(written.fileno())
        if not path.exists():
            os.replace(temporary, path)
            return
        for file in earlier:
            file.unlink()
        for file in sorted(temporary.iterdir()):
            os.replace(file, path / file.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _earlier(path: Path) -> list[Path]:
    """The files of an earlier result in a folder; UserError where it holds DICOM files of others, or is none."""
    if not path.exists():
        return []
    if not path.is_dir():
        raise UserError(f"'{path}' is a file", where="OUTPUT", remedy="a DICOM series is a folder: name another one")
    found = [file for file in path.iterdir() if file.is_file() and is_dicom(file)]
    for file in found:
        if not str(header(file, TAGS).get("SeriesDescription") or "").endswith(MARK):
            raise UserError(
                f"the folder '{path}' holds other DICOM files, such as '{file.name}'",
                where="OUTPUT",
                remedy="name a folder that is new or empty",
            )
    return [file for file in found if NAME.fullmatch(file.name)]
