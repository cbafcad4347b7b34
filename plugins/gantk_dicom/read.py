"""Reads the slices of a DICOM series, or the frames of one file, as one upright volume, decoded and
rescaled.

MONOCHROME1 without a unit is inverted, so that high values are bright. Padding of CT becomes the
lowest measured value.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import apply_color_lut, apply_modality_lut, get_decoder, iter_pixels
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    JPEGExtended12Bit,
    SecondaryCaptureImageStorage,
)

from gantk.catalog.contrasts import contrast_of_series
from gantk.errors import UserError, count_noun
from gantk.formats.budget import Broken, spend
from gantk.formats.files import chosen_volume
from gantk.formats.image import UPRIGHT, Image, to_upright, upright_sides, zeros
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
from gantk_dicom.slices import (
    Slice,
    Stack,
    build_stack,
    header,
    in_colour,
    open_image,
    readable,
    separate_stacks,
    without_strays,
)
from gantk_dicom.streams import Bounded, places_of_frames, whole

# differences of the value of air that a missing intercept of -1000 or -1024 makes
CT_OFFSETS = 980.0, 1050.0
# modalities whose frames are a time series
FILMS = {"US", "XA", "RF", "XC", "ES", "GM", "IVUS", "OP", "SM"}


class Headers(list[Dataset]):
    """The header of each slice in order of position, or that of a multi-frame file; needed for
    writing results.
    """

    frames: tuple[int, ...] = ()  # each plane's frame number in a multi-frame file
    # slope and intercept of each plane; () for colour
    rescales: tuple[tuple[float, float], ...] = ()
    shape: tuple[int, int, int] = (1, 1, 1)  # columns, rows, slices
    remarks: tuple[str, ...] = ()  # messages to the user about the reading
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
        times = {
            "echo_time": "EchoTime",
            "repetition_time": "RepetitionTime",
            "inversion_time": "InversionTime",
        }
        return {name: first_number(self[0], keyword) for name, keyword in times.items()} | {
            "modality": said.modality or None,
            "age": age_in_years(self[0]),
            "body_part": body_part(self[0]),
            "field_strength": field_strength(self[0]),
            "description": (
                description_without_names(self[0], "SeriesDescription")
                or description_without_names(self[0], "ProtocolName")
                or None
            ),
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


def read_files(files: Sequence[Path], volume: int | None = None, values: bool = True) -> Image:
    """Read the image of one file, or of the files of a series; without `values` its pixels are
    zeros without memory.

    UserError where slices are missing or unevenly spaced, where two different slices have one
    position, or where the files hold several stacks.
    """
    path = files[0] if len(files) == 1 else files[0].parent
    datasets = {}
    slices = []
    for file in files:
        datasets[file], own = open_image(file)
        slices += own

    stack = _choose_stack(path, slices, volume, datasets)
    first = stack.slices[0]
    headers = Headers(datasets[each.path] for each in stack.slices)
    if in_colour(headers[0]):
        return _picture(path, stack, headers, values)
    if first.frame is not None:
        headers = Headers(headers[:1])
        headers.frames = tuple(each.frame for each in stack.slices)

    headers.rescales = tuple(each.rescale for each in stack.slices)
    shape = (len(stack.slices), *first.shape)
    shifts = None
    if stack.drift is not None:
        stack, shape, shifts = _straighten(stack, headers, path)

    affine = None if first.position is None else stack.affine
    headers.shape = shape[::-1]
    headers.remarks = stack.remarks
    headers.lacks = _missing_images(files, headers)
    sides = shape if affine is None else upright_sides(shape[::-1], affine)
    sides = (1, *(n for n in sides if n > 1))
    if not values:
        return Image(zeros(*sides), affine, path, None, headers)

    with readable(path):
        pixels, dtype = _values(stack, headers)
        if headers[0].get("Modality") == "CT":
            headers.remarks += _about_offsets(path, stack, pixels)
        if shifts is not None:
            pixels = _shift_slices(pixels, shape, shifts)
        if affine is not None:
            pixels = to_upright(pixels.transpose(2, 1, 0), affine)
        return Image(np.ascontiguousarray(pixels.reshape(sides)), affine, path, dtype, headers)


def _missing_images(files: Sequence[Path], headers: Headers) -> str:
    """How many images a series has fewer than its header states, in words; "" for a whole one.

    Other files of it in the folder, such as another echo's, count. A single slice lacks nothing.
    """
    stated = max(int(first_number(each, "ImagesInAcquisition") or 0) for each in headers)
    if len(files) == 1 or stated <= len(files):
        return ""
    own = value_of(headers[0], "SeriesInstanceUID")
    others = 0
    for file in set(files[0].parent.iterdir()) - set(files):
        with suppress(UserError):  # no DICOM file, or a damaged one
            others += value_of(header(file), "SeriesInstanceUID") == own
    lacking = stated - len(files) - others
    if lacking <= 0:
        return ""
    return f"missing: the series lacks {lacking} of the {stated} images that its header states"


def _choose_stack(
    path: Path, slices: list[Slice], volume: int | None, headers: dict[Path, Dataset]
) -> Stack:
    """The only stack of these slices, or number `volume`; frames without a position are one stack
    in file order.
    """
    remarks: tuple[str, ...] = ()
    unplaced = len(slices) > 1 and slices[0].frame is not None and slices[0].position is None
    if unplaced:
        first = headers[slices[0].path]
        if first.get("Modality") in FILMS or "FrameTime" in first or "FrameTimeVector" in first:
            raise Broken(
                f"it is a film of {len(slices)} frames: save single ones as separate files"
            )

        remark = (
            f"'{path}' does not state the positions of its {len(slices)} frames: gantk uses the"
            " order in the file"
        )
        remarks = (remark,)

    where = f"'{path}'"
    stacks = [slices] if unplaced else separate_stacks(slices)
    if slices[0].frame is None:
        stacks, strays = without_strays(stacks)
        if len(stacks) > 1:
            raise _no_volume(path, stacks)
        if strays:
            left_out = _in_words(strays, stacks[0][0])
            where += f" without {left_out}"
            remarks = (f"'{path}': left out {left_out}",)
    what = f"{len(stacks)} stacks that differ in position, shape or kind"
    chosen = stacks[chosen_volume(path, volume, len(stacks), what)]
    if chosen[0].position is None:
        return Stack(tuple(chosen), np.zeros(3), remarks=remarks)

    if len(chosen) > 1 and "SeriesInstanceUID" not in headers[chosen[0].path]:
        remark = f"'{path}' states no SeriesInstanceUID: its slices were put together by position"
        remarks = (*remarks, remark)
    if len({f"{each.signal_scale:.4g}" for each in chosen}) > 1:
        remark = f"'{path}': the private scale of Philips differs between slices and was applied"
        remarks = (*remarks, remark)
        chosen = [_with_signal_scale(each) for each in chosen]

    def stored_pixels(each: Slice) -> np.ndarray:
        return next(_frames(each.path, headers[each.path], [each.frame or 0]))

    def same_pixels(one: Slice, other: Slice) -> bool:
        if one.rescale != other.rescale:
            return False
        return np.array_equal(stored_pixels(one), stored_pixels(other))

    stack = build_stack(chosen, where, same_pixels)
    return replace(stack, remarks=(*remarks, *stack.remarks))


def _with_signal_scale(one: Slice) -> Slice:
    """A slice whose rescale gives its signal, in which slices are comparable, not what a display
    shows: (stored number x slope + intercept) / (slope x Philips' private scale).
    """
    slope, intercept = one.rescale
    return replace(one, rescale=(slope / one.signal_scale, intercept / one.signal_scale))


def _no_volume(path: Path, stacks: Sequence[Sequence[Slice]]) -> UserError:
    """The error for files of one series that are several stacks."""
    count = sum(map(len, stacks))
    first, *others = (stack[0] for stack in stacks)
    return UserError(
        f"the {count} slices of '{path}' are not one volume: {_in_words(others, first)}",
        remedy="complete or correct this element, or put each volume into a folder of its own",
    )


def _in_words(slices: Sequence[Slice], first: Slice) -> str:
    """The first of some slices, why it is not in the stack of another one, and the number of the
    rest: `'a.dcm' (no PixelSpacing) and 2 other slices`.
    """
    others = f" and {count_noun(slices[1:], 'other slice')}" if slices[1:] else ""
    return f"{slices[0].name} ({first.difference_from(slices[0])}){others}"


def _picture(path: Path, stack: Stack, headers: Headers, values: bool) -> Image:
    """Read a picture in colour as RGB (3, H, W), in the file's orientation."""
    if len(stack.slices) > 1:
        raise Broken(f"it is a colour image with {len(stack.slices)} slices, not one")

    rows, columns = stack.slices[0].shape
    headers.shape = (columns, rows, 1)
    if not values:
        return Image(zeros(3, rows, columns), None, path, None, headers)

    with readable(path):
        (stored,) = _stored_slices(stack, headers)
        if headers[0].PhotometricInterpretation == "PALETTE COLOR":
            stored = apply_color_lut(stored, headers[0])
            if stored.dtype == np.uint16:
                stored = stored >> 8
        pixels = np.ascontiguousarray(stored.transpose(2, 0, 1), dtype=np.float32)
        dtype = np.dtype(np.uint8 if pixels.max() < 256 else np.uint16)
        return Image(pixels, None, path, dtype, headers)


# --- values


def _is_inverted(dataset: Dataset) -> bool:
    """Whether to invert values: MONOCHROME1 (low is bright) without a unit, that is no CT, PET or
    rescale.
    """
    has_unit = (
        dataset.get("Modality") in ("CT", "PT")
        or dataset.get("RescaleType") == "HU"
        or dataset.get("RescaleSlope") not in (None, 1)
        or dataset.get("RescaleIntercept") not in (None, 0)
    )
    return dataset.get("PhotometricInterpretation") == "MONOCHROME1" and not has_unit


def _values(stack: Stack, headers: Headers) -> tuple[np.ndarray, np.dtype]:
    """Decode and rescale all slices: float32 (slices, rows, columns), and the stored type."""
    pixels = np.empty((len(stack.slices), *stack.slices[0].shape), dtype=np.float32)
    padding = np.zeros(pixels.shape, dtype=bool)
    dtypes = set()
    decoded = zip(_stored_slices(stack, headers), stack.slices, strict=True)
    for k, (stored, each) in enumerate(decoded):
        dataset = headers[k if each.frame is None else 0]
        numbers = _used_bits(stored, dataset)
        dtypes.add(numbers.dtype)
        if dataset.get("ModalityLUTSequence"):  # a look-up table maps stored numbers to values
            pixels[k] = apply_modality_lut(numbers, dataset)
            continue

        end = dataset.get("PixelPaddingValue")
        is_air = dataset.get("Modality") != "CT" and end == 0  # in images of magnitudes
        if end is not None and not is_air:
            other_end = dataset.get("PixelPaddingRangeLimit", end)
            padding[k] = (numbers >= min(end, other_end)) & (numbers <= max(end, other_end))
        if _is_inverted(dataset):
            top = -1 if numbers.dtype.kind == "i" else 2 ** int(dataset.BitsStored) - 1
            numbers = top - numbers.astype(np.int64)

        # PS3.3, C.11.1, in double precision
        slope, intercept = each.rescale
        pixels[k] = numbers * slope + intercept

    if padding.any() and not padding.all():
        pixels[padding] = pixels[~padding].min()  # padding is not measured: treat it as air
    if set(headers.rescales) == {(1.0, 0.0)}:
        return pixels, np.result_type(*dtypes)

    return pixels, _smallest_dtype(pixels)


def _about_offsets(path: Path, stack: Stack, pixels: np.ndarray) -> tuple[str, ...]:
    """A remark on slices of CT whose lowest value, that of air, is off by the usual intercept."""
    lowest = pixels.reshape(len(pixels), -1).min(axis=1)
    beyond = np.abs(lowest - np.median(lowest))
    names = [
        each.name
        for each, value in zip(stack.slices, beyond, strict=True)
        if CT_OFFSETS[0] <= value <= CT_OFFSETS[1]
    ]
    if not names:
        return ()
    others = f" and {count_noun(names[1:], 'other slice')}" if names[1:] else ""
    return (
        f"'{path}': {names[0]}{others} may lack the intercept of Hounsfield units, because air is"
        f" {beyond.max():.4g} away from that of the other slices",
    )


def _smallest_dtype(pixels: np.ndarray) -> np.dtype:
    """The first of int16, uint16 and int32 that holds all values; else float32."""
    if np.array_equal(pixels, np.rint(pixels)):
        low = pixels.min()
        high = pixels.max()
        for kind in map(np.iinfo, ("i2", "u2", "i4")):
            if kind.min <= low and high <= kind.max:
                return kind.dtype

    return np.dtype(np.float32)


def _used_bits(stored: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Remove other data from the unused bits of stored numbers (overlays in old files; PS3.3,
    C.7.6.3).
    """
    width = 8 * stored.dtype.itemsize
    bits = int(dataset.get("BitsStored") or dataset.BitsAllocated)
    high = int(dataset.get("HighBit", bits - 1))
    if stored.dtype.kind not in "iu" or bits >= width or high >= width:
        return stored

    left = np.left_shift(stored, stored.dtype.type(width - 1 - high))
    return np.right_shift(left, stored.dtype.type(width - bits))


# --- tilted gantries


def _straighten(
    stack: Stack, headers: Headers, path: Path
) -> tuple[Stack, tuple[int, int, int], np.ndarray]:
    """Correct a tilted gantry: returns the stack on an orthogonal grid, its (slices, rows,
    columns), and shifts.

    `_shift_slices` moves each slice within its plane by its shift, (slices, 2), rows and columns
    >= 0; the field of view grows so that nothing is cut off. Updates the headers' slice positions.
    """
    if headers.frames:
        what = f"'{path}' was acquired with a tilted gantry and has all frames in one file"
        raise UserError(what, remedy="convert it to NIfTI with dcm2niix first")

    first = stack.slices[0]
    count = len(stack.slices)
    before = np.minimum(0, stack.drift * (count - 1))
    shifts = np.maximum(np.outer(np.arange(count), stack.drift) - before, 0)
    rows, columns = (int(n) for n in np.ceil(shifts.max(axis=0)).astype(int) + 1 + first.shape[:2])
    lean = np.degrees(np.arctan(np.linalg.norm(stack.drift * first.spacing) / stack.apart))
    remark = (
        f"the gantry was tilted by {lean:.1f} degrees: gantk resampled the slices onto a"
        " right-angled grid"
    )
    origin = stack.origin + before * first.spacing @ first.axes[::-1]
    stack = replace(stack, origin=origin, drift=None, remarks=(*stack.remarks, remark))
    for k, dataset in enumerate(headers):
        dataset.ImagePositionPatient = (UPRIGHT @ stack.affine @ [0, 0, k, 1])[:3].tolist()
        if "GantryDetectorTilt" in dataset:
            dataset.GantryDetectorTilt = 0.0

    return stack, (count, rows, columns), shifts


def _shift_slices(
    volume: np.ndarray, shape: tuple[int, int, int], shifts: np.ndarray
) -> np.ndarray:
    """Shift the slices of a volume, linearly interpolated; float32 `shape`, uncovered pixels get
    the lowest value.
    """
    done = np.full(shape, volume.min(), dtype=np.float32)
    for plane, target, shift in zip(volume, done, shifts, strict=True):
        row, column = shift.astype(int)
        target[row : row + plane.shape[0], column : column + plane.shape[1]] = plane
        for axis, part in enumerate(np.float32(shift % 1)):
            # the last row and column are never covered before this
            before = np.roll(target, 1, axis)
            target += part * (before - target)

    return done


# --- decoding


def _stored_slices(stack: Stack, headers: Headers) -> Iterator[np.ndarray]:
    """Yield the stored numbers of each slice, one at a time."""
    if headers.frames:
        yield from _frames(stack.slices[0].path, headers[0], headers.frames)
    else:
        for each, dataset in zip(stack.slices, headers, strict=True):
            yield from _frames(each.path, dataset, [0])


def _frames(path: Path, dataset: Dataset, numbers: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield frames of a file as stored, (rows, columns) or (rows, columns, 3), one at a time;
    UserError if damaged.
    """
    shape = (int(dataset.Rows), int(dataset.Columns))
    with (
        readable(path),
        whole(path, dataset) as file,
        closing(_decode(file, dataset, numbers)) as frames,
    ):
        for frame in frames:
            spend()
            if frame.shape[:2] != shape:
                raise Broken(
                    f"its pixels have the shape {frame.shape}, but its header says {shape}"
                )
            yield frame


def _decode(file: Bounded, dataset: Dataset, numbers: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield frames of a file as stored, one at a time."""
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    options = {}
    if syntax.is_encapsulated:
        places = places_of_frames(file, dataset)
        if syntax == JPEGExtended12Bit or not get_decoder(syntax).is_available:
            every = _by_simpleitk(file)
            for number in numbers:
                yield every[number]
            return
        if places:
            options["extended_offsets"] = places

    source: Bounded | Dataset = file  # frames are read from it one by one
    no_class = "MediaStorageSOPClassUID" not in dataset.file_meta
    if syntax == DeflatedExplicitVRLittleEndian or no_class:
        source = dcmread(file, force=True)
        source.file_meta = dataset.file_meta

    # closed before the file, in which it seeks to the end
    with closing(iter_pixels(source, indices=list(numbers), **options)) as frames:
        yield from frames


def _by_simpleitk(file: Bounded) -> np.ndarray:
    """Decode all frames of a file by SimpleITK; (frames, rows, columns), or (..., 3).

    SimpleITK gets a copy with complete frames and nothing else, because it would rescale values in
    its own way, and allocate any memory that a damaged length states.
    """
    import SimpleITK as sitk

    source = dcmread(file)
    bare = Dataset()
    bare.update(
        {
            tag: element
            for tag, element in source.group_dataset(0x0028).items()
            if tag.element < 0x0120
        }
    )
    count = int(source.get("NumberOfFrames") or 1)
    bare.PixelData = encapsulate([*generate_frames(source.PixelData, number_of_frames=count)])
    bare["PixelData"].VR = "OB"
    bare["PixelData"].is_undefined_length = True
    bare.SOPClassUID = SecondaryCaptureImageStorage
    bare.Modality = "OT"
    bare.file_meta = source.file_meta
    bare.SOPInstanceUID = bare.StudyInstanceUID = bare.SeriesInstanceUID = "1.2"
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "copy.dcm")
        bare.save_as(copy, enforce_file_format=True)
        image = sitk.ReadImage(str(copy), imageIO="GDCMImageIO")

    pixels = sitk.GetArrayFromImage(image)
    kept = 2 if image.GetNumberOfComponentsPerPixel() == 1 else 3
    return pixels.reshape(-1, *pixels.shape[-kept:])
