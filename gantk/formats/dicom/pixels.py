"""Stored numbers of DICOM files to values: decoded, freed of unused bits, rescaled, bright where things are bright."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels import apply_color_lut, apply_modality_lut, get_decoder, iter_pixels
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    JPEGExtended12Bit,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from gantk.errors import UserError
from gantk.formats.dicom.header import frames_of, readable

COLOUR = ("RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_420")
GRAY = ("MONOCHROME1", "MONOCHROME2")


@dataclass(frozen=True)
class Coding:
    """How a file's numbers are stored (PS3.3, C.7.6.3)."""

    bits: int  # of which a value consists
    high: int  # where its highest bit lies
    signed: bool
    inverted: bool  # low values are bright, and have no unit of their own
    padding: tuple[int, int] | None  # stored numbers from .. to that stand for no measurement
    lookup: Dataset | None  # the header, where a table of it turns numbers into values

    @classmethod
    def of(cls, dataset: Dataset) -> Coding:
        """As a header describes it.

        MONOCHROME1 says that low values are shown bright. Values with a unit (CT, PET, whatever has a rescale) mean the
        same for all that, and stay; others are turned over within the range of their bits, so that bright is bright.
        Only CT's padding stands for no measurement: elsewhere it is the background as well.
        """
        allocated = int(dataset.BitsAllocated)
        bits = int(dataset.get("BitsStored") or allocated)
        unit = dataset.get("Modality") in ("CT", "PT") or dataset.get("RescaleType") == "HU"
        unit = unit or dataset.get("RescaleSlope") not in (None, 1) or dataset.get("RescaleIntercept") not in (None, 0)
        padding = None
        if dataset.get("Modality") == "CT" and dataset.get("PixelPaddingValue") is not None:
            ends = int(dataset.PixelPaddingValue), int(dataset.get("PixelPaddingRangeLimit", dataset.PixelPaddingValue))
            padding = (min(ends), max(ends))
        return cls(
            bits=bits,
            high=int(dataset.get("HighBit", bits - 1)),
            signed=int(dataset.get("PixelRepresentation") or 0) == 1,
            inverted=dataset.get("PhotometricInterpretation") == "MONOCHROME1" and not unit,
            padding=padding,
            lookup=dataset if dataset.get("ModalityLUTSequence") else None,
        )

    def kind(self, rescale: tuple[float, float]) -> np.dtype:
        """The smallest type that holds all values that these numbers can stand for."""
        if self.lookup is not None or not all(float(part).is_integer() for part in rescale):
            return np.dtype(np.float32)
        low, high = (-(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1) if self.signed else (0, 2**self.bits - 1)
        ends = sorted(int(end) * int(rescale[0]) + int(rescale[1]) for end in (low, high))
        kinds = ("i1", "i2", "i4") if self.signed or ends[0] < 0 else ("u1", "u2", "u4")
        holding = (np.dtype(k) for k in kinds if np.iinfo(k).min <= ends[0] and ends[1] <= np.iinfo(k).max)
        return next(holding, np.dtype(np.float32))

    def numbers(self, stored: np.ndarray) -> np.ndarray:
        """What was stored, freed of what else lies in the unused bits (overlays of old files)."""
        width = 8 * stored.dtype.itemsize
        if not np.issubdtype(stored.dtype, np.integer) or self.bits >= width or self.high >= width:
            return stored
        moved = np.left_shift(stored, stored.dtype.type(width - 1 - self.high))
        return np.right_shift(moved, stored.dtype.type(width - self.bits))

    def padded(self, numbers: np.ndarray) -> np.ndarray:
        """Where the numbers stand for no measurement."""
        low, high = self.padding
        return (numbers >= low) & (numbers <= high)

    def values(self, numbers: np.ndarray, rescale: tuple[float, float]) -> np.ndarray:
        """float32: slope x number + intercept (PS3.3, C.11.1), computed in double precision."""
        if self.lookup is not None:
            return np.asarray(apply_modality_lut(numbers, self.lookup), dtype=np.float32)
        if self.inverted:
            numbers = (-1 if self.signed else 2**self.bits - 1) - numbers.astype(np.int64)
        if rescale == (1.0, 0.0):
            return numbers.astype(np.float32)
        return (numbers * float(rescale[0]) + float(rescale[1])).astype(np.float32)


def frames(path: Path, dataset: Dataset, numbers: Sequence[int]) -> Iterator[np.ndarray]:
    """Some frames of a file as stored, (rows, columns) or (rows, columns, 3), one at a time; UserError if broken."""
    interpretation = dataset.get("PhotometricInterpretation") or "MONOCHROME2"
    if interpretation not in GRAY + COLOUR:
        raise UserError(f"'{path}' has PhotometricInterpretation '{interpretation}'", allowed=GRAY + COLOUR)
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    shape = (int(dataset.Rows), int(dataset.Columns))
    with readable(path):
        for frame in _decoded(path, dataset, syntax, numbers):
            if frame.shape[:2] != shape:
                raise ValueError(f"its pixels are {frame.shape[0]} x {frame.shape[1]}, and its header says {shape}")
            yield frame


def _decoded(path: Path, dataset: Dataset, syntax: UID, numbers: Sequence[int]) -> Iterator[np.ndarray]:
    """By pydicom's decoders, or by SimpleITK's where those lack the codec."""
    if syntax.is_encapsulated and (syntax == JPEGExtended12Bit or not get_decoder(syntax).is_available):
        every = _by_itk(path, dataset)
        yield from (every[number] for number in numbers)
        return
    source: Path | Dataset = path  # of which frames are read one by one
    if syntax == DeflatedExplicitVRLittleEndian or "MediaStorageSOPClassUID" not in dataset.file_meta:
        source = dcmread(path, force=True)
        source.file_meta = dataset.file_meta
    yield from iter_pixels(source, indices=list(numbers))


def _by_itk(path: Path, dataset: Dataset) -> np.ndarray:
    """All frames of a file by SimpleITK, (frames, rows, columns) or (..., 3).

    It would rescale them in its own way, and believe all that a broken stream says: what it is given is a copy that has
    pixels and nothing else, and streams of the header's size.
    """
    import SimpleITK as sitk

    source, bare = dcmread(path), Dataset()
    for frame in generate_frames(source.PixelData, number_of_frames=frames_of(dataset)):
        sides = _jpeg_sides(frame)
        if sides != (dataset.Rows, dataset.Columns):
            raise ValueError(f"its header says {dataset.Rows} x {dataset.Columns} pixels, and its stream {sides}")
    for element in source.group_dataset(0x0028):
        if element.tag.element < 0x0120:
            bare.add(element)
    bare.PixelData = source.PixelData
    bare["PixelData"].VR = "OB"
    bare["PixelData"].is_undefined_length = True
    bare.SOPClassUID, bare.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    bare.StudyInstanceUID = bare.SeriesInstanceUID = generate_uid()
    bare.Modality = "OT"
    bare.file_meta = source.file_meta
    bare.file_meta.MediaStorageSOPClassUID = bare.SOPClassUID
    bare.file_meta.MediaStorageSOPInstanceUID = bare.SOPInstanceUID
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "copy.dcm")
        bare.save_as(copy, enforce_file_format=True)
        read = sitk.ImageFileReader()
        read.SetImageIO("GDCMImageIO")
        read.SetFileName(str(copy))
        image = read.Execute()
    pixels = sitk.GetArrayFromImage(image)
    flat = 3 if image.GetNumberOfComponentsPerPixel() == 1 else 4
    return pixels if pixels.ndim == flat else pixels[None]


def _jpeg_sides(stream: bytes) -> tuple[int, int] | None:
    """(rows, columns) of a JPEG or JPEG-LS stream: of its frame header (ITU-T T.81, B.2.2; T.87, C.2.2)."""
    place = 2
    while place + 9 <= len(stream) and stream[place] == 0xFF:
        marker, length = stream[place + 1], int.from_bytes(stream[place + 2 : place + 4], "big")
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            rows, columns = stream[place + 5 : place + 7], stream[place + 7 : place + 9]
            return int.from_bytes(rows, "big"), int.from_bytes(columns, "big")
        place += 2 + length
    return None


def colour(stored: np.ndarray, dataset: Dataset) -> np.ndarray:
    """float32 (3, rows, columns) of a colour frame: RGB, whatever it was stored as; palettes are looked up."""
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        deep = apply_color_lut(stored, dataset)
        stored = deep >> 8 if deep.dtype == np.uint16 else deep
    return np.ascontiguousarray(stored.transpose(2, 0, 1), dtype=np.float32)
