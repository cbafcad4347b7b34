"""DICOM files to an image: the slices of a series, or the frames of one file, decoded, rescaled, as one upright volume.

Bright is bright: MONOCHROME1 without a unit is turned over. Padding of CT becomes the lowest value that was measured.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, get_decoder, iter_pixels
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    JPEGExtended12Bit,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from gantk.errors import UserError
from gantk.formats.files import expect_room
from gantk.formats.image import UPRIGHT, Image, to_upright, upright_sides, zeros
from gantk_dicom.series import Stack, separated, shifted, stacked, straightened
from gantk_dicom.slices import Slice, image_header, readable, slices_of

COLOUR = ("RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_420")
GRAY = ("MONOCHROME1", "MONOCHROME2")
FILMS = {"US", "XA", "RF", "XC", "ES", "GM", "IVUS", "OP", "SM"}  # modalities whose frames follow in time


class Headers(list[Dataset]):
    """The header of each slice in order of position, or the one of a multi-frame file; kept for writing back."""

    frames: tuple[int, ...] = ()  # which frames of a multi-frame file the planes are
    shape: tuple[int, int, int] = (1, 1, 1)  # columns, rows, slices
    remarks: tuple[str, ...] = ()  # what a user should know of the reading

    @property
    def facts(self) -> dict[str, object]:
        """What `data check` asks for."""
        from gantk_dicom.source import MODALITIES, contrast_of

        first = self[0]
        modality, description, protocol, patient = (
            str(first.get(name) or "").strip()
            for name in ("Modality", "SeriesDescription", "ProtocolName", "PatientID")
        )
        said = contrast_of(description) or contrast_of(protocol)
        said = said or {value: key for key, value in MODALITIES.items()}.get(modality, "")
        return {
            "modality": modality or None,
            "description": description or protocol or None,
            "echo_time": _number(first, "EchoTime"),
            "repetition_time": _number(first, "RepetitionTime"),
            "inversion_time": _number(first, "InversionTime"),
            "lossy": str(first.get("LossyImageCompression", "")) == "01",
            "patient": patient,
            "contrast": "" if said == "mr" else said,
        }

    def get_data_shape(self) -> tuple[int, int, int]:
        """Voxels along the file's axes, as nibabel's headers tell it."""
        return self.shape


def _number(dataset: Dataset, key: str) -> float | None:
    try:
        value = dataset.get(key)
        return None if value in (None, "") else float(value)
    except (AttributeError, TypeError, ValueError):
        return None


class Coding:
    """How a file's numbers are stored and what they mean (PS3.3, C.7.6.3)."""

    def __init__(self, dataset: Dataset):
        allocated, modality = int(dataset.BitsAllocated), dataset.get("Modality")
        self.bits = int(dataset.get("BitsStored") or allocated)
        self.high = int(dataset.get("HighBit", self.bits - 1))  # where the highest of them lies
        self.signed = int(dataset.get("PixelRepresentation") or 0) == 1
        # Low values of MONOCHROME1 are shown bright, but those with a unit (CT, PET, a rescale) mean the same anywhere.
        unit = modality in ("CT", "PT") or dataset.get("RescaleType") == "HU"
        unit = unit or dataset.get("RescaleSlope") not in (None, 1) or dataset.get("RescaleIntercept") not in (None, 0)
        self.inverted = dataset.get("PhotometricInterpretation") == "MONOCHROME1" and not unit
        self.lookup = dataset if dataset.get("ModalityLUTSequence") else None  # a table turns numbers into values
        self.padding: tuple[int, int] | None = None  # numbers of no measurement; elsewhere than in CT, background
        if modality == "CT" and dataset.get("PixelPaddingValue") is not None:
            ends = int(dataset.PixelPaddingValue), int(dataset.get("PixelPaddingRangeLimit", dataset.PixelPaddingValue))
            self.padding = (min(ends), max(ends))

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
        left = np.left_shift(stored, stored.dtype.type(width - 1 - self.high))
        return np.right_shift(left, stored.dtype.type(width - self.bits))

    def values(self, numbers: np.ndarray, rescale: tuple[float, float]) -> np.ndarray:
        """float32: slope x number + intercept (PS3.3, C.11.1), computed in double precision."""
        if self.lookup is not None:
            return np.asarray(apply_modality_lut(numbers, self.lookup), dtype=np.float32)
        if self.inverted:
            numbers = (-1 if self.signed else 2**self.bits - 1) - numbers.astype(np.int64)
        return (numbers * float(rescale[0]) + float(rescale[1])).astype(np.float32)


def read_files(files: Sequence[Path], volume: int | None = None, values: bool = True) -> Image:
    """The image of one file, or of the files of a series, without `values` all zeros that take no memory.

    UserError where slices are missing or uneven, where two different ones lie at one place, or where the files are of
    several stacks.
    """
    path, headers, stack = _planned(files, volume)
    first, shape, drift = stack.slices[0], (len(stack.slices), *stack.slices[0].shape[:2]), stack.drift
    if _in_colour(headers[0], first):
        return _picture(path, headers, stack) if values else Image(zeros(3, *shape[1:]), None, path, None, headers)
    if drift is not None:
        stack, shape, shifts = straightened(stack)
    affine = None if first.position is None else stack.affine
    headers.shape, headers.remarks = shape[::-1], stack.remarks
    sides = shape if affine is None else upright_sides(shape[::-1], affine)
    sides = (1, *(n for n in sides if n > 1))
    if not values:
        return Image(zeros(*sides), affine, path, None, headers)
    with readable(path):
        pixels, dtype = _values(stack, headers)
        if drift is not None:
            pixels = shifted(pixels, shape, shifts)
            _straighten(headers, stack, shape, path)
        upright = pixels if affine is None else to_upright(pixels.transpose(2, 1, 0), affine)
        return Image(np.ascontiguousarray(upright.reshape(sides)), affine, path, dtype, headers)


def _values(stack: Stack, headers: Headers) -> tuple[np.ndarray, np.dtype]:
    """float32 (slices, rows, columns), and the type that would hold them as they are stored."""
    codings = [Coding(dataset) for dataset in headers]
    pixels = np.empty((len(stack.slices), *stack.slices[0].shape[:2]), dtype=np.float32)
    padding, kinds = np.zeros(pixels.shape, dtype=bool), []
    for k, (stored, each) in enumerate(zip(_stored(stack, headers), stack.slices, strict=True)):
        coding = codings[0 if each.framed else k]
        numbers = coding.numbers(stored)
        pixels[k] = coding.values(numbers, each.rescale)
        kinds.append(coding.kind(each.rescale))
        if coding.padding:
            padding[k] = (numbers >= coding.padding[0]) & (numbers <= coding.padding[1])
    if padding.any() and not padding.all():
        pixels[padding] = pixels[~padding].min()  # what was never measured is air
    return pixels, np.result_type(*kinds)


def _planned(files: Sequence[Path], volume: int | None) -> tuple[Path, Headers, Stack]:
    """The stack that files make up, checked for gaps and repeats, with its headers; of several in a file one."""
    path = files[0] if len(files) == 1 else files[0].parent
    read = {file: image_header(file) for file in files}
    slices = []
    for file, dataset in read.items():
        with readable(file):
            slices += slices_of(dataset, file)
    first, framed = read[slices[0].path], slices[0].framed
    if len(files) > 1 and any(each.framed for each in slices):
        raise UserError(f"'{path}' holds several multi-frame files", remedy="name one of them")
    if _in_colour(first, slices[0]) and len(slices) > 1:
        raise UserError(f"'{path}' is in colour, with {len(slices)} slices", allowed="single pictures in colour")
    expect_room(path, len(slices) * int(np.prod(slices[0].shape)))
    if framed and len(slices) > 1 and slices[0].position is None:
        if first.get("Modality") in FILMS or "FrameTime" in first or "FrameTimeVector" in first:
            what = f"'{path}' is a film of {len(slices)} frames"
            raise UserError(what, allowed="slices and volumes", remedy="save single frames")
        remark = f"'{path}' does not say where its {len(slices)} frames lie: they were taken in the file's order"
        stack = Stack(tuple(slices), np.zeros(3), remarks=(remark,))
    else:
        stack = _chosen(path, slices, volume, read)
    headers = Headers([first] if framed else [read[each.path] for each in stack.slices])
    headers.frames = tuple(each.frame for each in stack.slices) if framed else ()
    headers.remarks = stack.remarks
    return path, headers, stack


def _chosen(path: Path, slices: list[Slice], volume: int | None, headers: dict[Path, Dataset]) -> Stack:
    """The one stack of some slices, or the one that was asked for."""
    stacks = separated(slices)
    if volume is None and len(stacks) > 1:
        sizes = ", ".join(str(len(stack)) for stack in stacks[:6]) + ", ..." * (len(stacks) > 6)
        one = f"choose one with --volume, 0 to {len(stacks) - 1}"
        raise UserError(
            f"'{path}' holds {len(stacks)} stacks of different place, shape or kind, of {sizes} slices",
            allowed="one stack of slices",
            remedy=one if slices[0].framed else "name one of its files, or put each stack into a folder of its own",
        )
    if not 0 <= (volume or 0) < len(stacks):
        raise UserError(f"'{path}' has no volume {volume}", where="--volume", allowed=f"0 to {len(stacks) - 1}")
    chosen = stacks[volume or 0]
    if chosen[0].position is None:
        return Stack(tuple(chosen), np.zeros(3))

    def same_pixels(one: Slice, other: Slice) -> bool:
        pixels = [next(_frames(each.path, headers[each.path], [each.frame])) for each in (one, other)]
        return one.rescale == other.rescale and np.array_equal(*pixels)

    return stacked(chosen, f"'{path}'", same_pixels)


def _stored(stack: Stack, headers: Headers) -> Iterator[np.ndarray]:
    """What is stored of each slice, one at a time."""
    if stack.slices[0].framed:
        yield from _frames(stack.slices[0].path, headers[0], headers.frames)
    else:
        for each, dataset in zip(stack.slices, headers, strict=True):
            yield from _frames(each.path, dataset, [0])


def _straighten(headers: Headers, stack: Stack, shape: tuple[int, int, int], path: Path) -> None:
    """Let headers say where the slices of a tilted stack now lie."""
    if stack.slices[0].framed:
        what = f"'{path}' was taken with a tilted gantry, and its frames are one file"
        raise UserError(what, remedy="convert it to NIfTI with dcm2niix first")
    affine = UPRIGHT @ stack.affine
    for k, dataset in enumerate(headers):
        dataset.Rows, dataset.Columns = shape[1:]
        dataset.ImagePositionPatient = [float(mm) for mm in (affine @ [0, 0, k, 1])[:3]]
        if "GantryDetectorTilt" in dataset:
            dataset.GantryDetectorTilt = 0.0


def _in_colour(dataset: Dataset, each: Slice) -> bool:
    return each.shape[2] > 1 or dataset.get("PhotometricInterpretation") in COLOUR


def _picture(path: Path, headers: Headers, stack: Stack) -> Image:
    """One picture in colour, as it stands in its file: RGB, whatever it was stored as; palettes are looked up."""
    (stored,) = _stored(stack, headers)
    if headers[0].PhotometricInterpretation == "PALETTE COLOR":
        deep = apply_color_lut(stored, headers[0])
        stored = deep >> 8 if deep.dtype == np.uint16 else deep
    pixels = np.ascontiguousarray(stored.transpose(2, 0, 1), dtype=np.float32)
    headers.shape = (pixels.shape[2], pixels.shape[1], 1)
    return Image(pixels, None, path, np.dtype(np.uint8 if pixels.max() < 256 else np.uint16), headers)


def _frames(path: Path, dataset: Dataset, numbers: Sequence[int]) -> Iterator[np.ndarray]:
    """Some frames of a file as stored, (rows, columns) or (rows, columns, 3), one at a time; UserError if broken."""
    interpretation = dataset.get("PhotometricInterpretation") or "MONOCHROME2"
    if interpretation not in GRAY + COLOUR:
        raise UserError(f"'{path}' has PhotometricInterpretation '{interpretation}'", allowed=GRAY + COLOUR)
    syntax, shape = UID(dataset.file_meta.TransferSyntaxUID), (int(dataset.Rows), int(dataset.Columns))
    with readable(path):
        if syntax.is_encapsulated and (syntax == JPEGExtended12Bit or not get_decoder(syntax).is_available):
            every = _by_simpleitk(path)
            decoded = (every[number] for number in numbers)
        else:
            source: Path | Dataset = path  # of which frames are read one by one
            if syntax == DeflatedExplicitVRLittleEndian or "MediaStorageSOPClassUID" not in dataset.file_meta:
                source = dcmread(path, force=True)
                source.file_meta = dataset.file_meta
            decoded = iter_pixels(source, indices=list(numbers))
        for frame in decoded:
            if frame.shape[:2] != shape:
                raise ValueError(f"its pixels are {frame.shape[0]} x {frame.shape[1]}, and its header says {shape}")
            yield frame


def _by_simpleitk(path: Path) -> np.ndarray:
    """All frames of a file by SimpleITK, (frames, rows, columns) or (..., 3).

    It would rescale them in its own way: what it is given is a copy that has pixels and nothing else.
    """
    import SimpleITK as sitk

    source, bare = dcmread(path), Dataset()
    bare.update({tag: element for tag, element in source.group_dataset(0x0028).items() if tag.element < 0x0120})
    bare.PixelData = source.PixelData
    bare["PixelData"].VR, bare["PixelData"].is_undefined_length = "OB", True
    bare.SOPClassUID, bare.Modality, bare.file_meta = SecondaryCaptureImageStorage, "OT", source.file_meta
    bare.SOPInstanceUID = bare.StudyInstanceUID = bare.SeriesInstanceUID = generate_uid()
    bare.file_meta.MediaStorageSOPClassUID = bare.SOPClassUID
    bare.file_meta.MediaStorageSOPInstanceUID = bare.SOPInstanceUID
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "copy.dcm")
        bare.save_as(copy, enforce_file_format=True)
        image = sitk.ReadImage(str(copy), imageIO="GDCMImageIO")
    pixels = sitk.GetArrayFromImage(image)
    flat = 3 if image.GetNumberOfComponentsPerPixel() == 1 else 4
    return pixels if pixels.ndim == flat else pixels[None]
