"""Reads headers of DICOM files, and groups the slices that they describe into evenly spaced stacks
and scans.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)

from gantk.errors import UserError, count_noun, raise_if_of_machine, reading_file
from gantk.formats.budget import Broken, expect_held, reading, spend
from gantk.formats.files import natural
from gantk.formats.image import UPRIGHT, Scan
from gantk_dicom.names import (
    description_without_names,
    first_number,
    pseudonym,
    text_of,
    value_of,
)
from gantk_dicom.streams import declared_bytes, header_of, pay_for_parsing

# Files of real scanners often hold values that violate their type's rules; the elements used here
# are checked here. Silence pydicom's warnings and logs: they quote values, which may identify
# patients.
warnings.filterwarnings("ignore", module=r"(pydicom|gantk_dicom)(\.|$)")
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)

# Storage classes whose pixels are not a scan (PS3.4, B.5): parametric map, segmentations, whole
# slide, dose.
NO_SCAN = {f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("30", "66.4", "66.7", "77.1.6", "481.2")}
# PhotometricInterpretation; decoders convert all colour spaces but palettes to RGB.
GRAY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = (
    "RGB",
    "PALETTE COLOR",
    "YBR_FULL",
    "YBR_FULL_422",
    "YBR_ICT",
    "YBR_RCT",
    "YBR_PARTIAL_420",
)
# Elements that all slices of one acquisition share, whatever their positions: of the patient and the
# study, whose values are shown as pseudonyms, and of the acquisition.
OWNER = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
)
ACQUISITION = (
    "Modality",
    "SeriesNumber",
    "SeriesDescription",
    "EchoTime",
    "EchoNumbers",
    "ImageType",
    "InversionTime",
    "FlipAngle",
    "DiffusionBValue",
    "ConvolutionKernel",
    "RescaleIntercept",
)
NUMERIC = ("EchoTime", "InversionTime", "FlipAngle", "DiffusionBValue")  # may differ by rounding
# Elements that distinguish several stacks of a series at the same positions: of files, and (group,
# element) of frames.
MARKS = (
    "DiffusionGradientOrientation",
    "SequenceName",
    "TemporalPositionIdentifier",
    "TriggerTime",
    "AcquisitionNumber",
    "AcquisitionTime",
)
FRAME_MARKS = (
    ("FrameContentSequence", "StackID"),
    ("MREchoSequence", "EffectiveEchoTime"),
    ("MRImageFrameTypeSequence", "FrameType"),
    ("CTImageFrameTypeSequence", "FrameType"),
    ("MRDiffusionSequence", "DiffusionBValue"),
    ("MRDiffusionSequence", "DiffusionDirectionality"),
    ("FrameContentSequence", "TemporalPositionIndex"),
    ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
    ("FrameContentSequence", "FrameAcquisitionNumber"),
    ("FrameContentSequence", "DimensionIndexValues"),
)
DIRECTION_TOLERANCE = 0.01  # tolerance for directions of length 1 at right angles
SPACING_TOLERANCE = 0.05  # tolerance for a distance between slices, as a share of the median
# steps between slices that may be wider than the usual one because slices are missing
MAX_GAPS, MAX_GAP_SHARE = 2, 0.25
SAME_POSITION_MM = 0.01  # mm within which two slices have the same position
MAX_SHIFT_PIXELS = 0.5  # tolerated shift in pixels between the first and the last slice of a stack
MAX_STRAY_SLICES = 3  # of a stack beside another one that has more than 4 times as many
# Philips' slope of a slice's display (0028,1053) to its signal; its private creator. Of a frame, it is
# in a private sequence.
PHILIPS_SCALE = (0x2005, "Philips MR Imaging DD 001", 0x0E)
PHILIPS_FRAME = (0x2005, 0x140F)
# modalities whose slices lie in the patient; other pictures need no position
PLACED_MODALITIES = ("MR", "CT", "PT")
# stacks that a slice is compared with: bounds the time for a tree of damaged files
MAX_COMPARED_STACKS = 1000
# plane of slices along the patient's first, second, third axis
PLANES = ("sagittal", "coronal", "axial")


# --- headers


def readable(path: Path) -> AbstractContextManager[None]:
    """Name a file that cannot be read, as `gantk.errors.reading_file`.

    The error states the exception's type and the element, but not its text: libraries quote values,
    and after one changed byte any element's value may hold the rest of the file, the patient's name
    included.
    """
    return reading_file(path, "DICOM", remedy="copy it again, or leave it out", in_words=kind_of)


def kind_of(error: Exception) -> str:
    """Describe a library's error: `it is damaged (ValueError at (0018,0050) SliceThickness)`, the
    element if known.
    """
    if isinstance(error, Broken):
        return str(error)
    if isinstance(error, OSError) and error.strerror:  # the system's message
        return error.strerror

    tag = re.search(r"\(([0-9A-Fa-f]{4}), ?([0-9A-Fa-f]{4})\)", str(error)[:1000])
    if tag:
        at = f" at ({tag[1]},{tag[2]}) {keyword_for_tag(int(tag[1] + tag[2], 16))}".rstrip()
    else:
        at = ""

    return f"it is damaged ({type(error).__name__}{at})"


def header(path: Path) -> Dataset:
    """Read a file's header; its `begins` is the position of the pixels, `held` their bytes.
    UserError if unreadable.

    Elements are parsed at first access: a damaged one is an error only for code that uses it.
    """
    with readable(path), reading(path), header_of(path) as (file, meta):
        marked = meta is None and file.peek(132)[128:132] == b"DICM"
        dataset = dcmread(file, stop_before_pixels=True, force=not marked)
        pay_for_parsing(dataset)
        dataset.begins = file.tell()
        dataset.held = file.size - file.tell()
        if meta is not None or not hasattr(dataset, "file_meta"):
            dataset.file_meta = FileMetaDataset() if meta is None else meta

        dataset.file_meta.setdefault("TransferSyntaxUID", ImplicitVRLittleEndian)
        uid = _class_of(dataset)
        if "Rows" not in dataset and (not uid or uid.name.endswith("Image Storage")):
            raise Broken("its header is truncated" if uid else "it has no elements of a DICOM file")

        frames = _frames_of(dataset)
        if frames > max(1, dataset.held):
            raise Broken(f"it is truncated: it declares {frames} frames")

        return dataset


def open_image(path: Path) -> tuple[Dataset, list[Slice]]:
    """Read header and slices of a file that holds a supported image; UserError for all others."""
    dataset = header(path)
    with readable(path):
        if other := _no_image(dataset):
            raise Broken(f"it is {other}, not an image")

        if "MOSAIC" in (dataset.get("ImageType") or ()):
            what = f"'{path}' is a mosaic: it stores all slices of a volume as tiles of one picture"
            raise UserError(what, remedy="convert it to NIfTI with dcm2niix first")

        rows = int(dataset.Rows)
        columns = int(dataset.Columns)
        frames = _frames_of(dataset)
        samples = int(dataset.get("SamplesPerPixel") or 1)
        bits = int(dataset.get("BitsAllocated") or 16)
        kind = str(dataset.get("PhotometricInterpretation") or "MONOCHROME2")
        if kind not in (*GRAY, *COLOUR):
            raise Broken(f"its PhotometricInterpretation is none of {', '.join([*GRAY, *COLOUR])}")

        if min(rows, columns) < 2 or min(frames, samples, bits) < 1:
            raise Broken(f"it declares {rows} x {columns} pixels of {bits} bits")

        if frames > 1 and in_colour(dataset):
            raise Broken(f"it is a colour image with {frames} frames, not one")

        spend(values=frames * rows * columns * samples)
        syntax = UID(dataset.file_meta.TransferSyntaxUID)
        if not syntax.is_encapsulated and syntax != DeflatedExplicitVRLittleEndian:
            expect_held(declared_bytes(dataset), dataset.held)

        return dataset, slices_of(dataset, path)


def in_colour(dataset: Dataset) -> bool:
    """Whether a file is in colour, as channels or by a palette."""
    return (
        dataset.get("PhotometricInterpretation") in COLOUR
        or int(dataset.get("SamplesPerPixel") or 1) > 1
    )


def _no_image(dataset: Dataset) -> str | None:
    """Describe a file without an image; None where it holds one."""
    uid = _class_of(dataset)
    if uid in NO_SCAN or "Rows" not in dataset or "Columns" not in dataset:
        if uid.name != uid:
            known = uid.name
        elif uid:
            known = "a file of an unknown class"
        else:
            known = ""
        return known or "a file without rows and columns"

    return None


def _class_of(dataset: Dataset) -> UID:
    return UID(
        str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or "")
    )


def _frames_of(dataset: Dataset) -> int:
    return int(dataset.get("NumberOfFrames") or 1)


# --- slices


@dataclass(frozen=True, eq=False)
class Slice:
    """One slice of a patient: a file, or a frame of one."""

    path: Path
    frame: int | None  # number in a multi-frame file; None for a single slice
    shape: tuple[int, int]  # rows, columns
    # centre of the first pixel, mm (left, posterior, superior: DICOM's own)
    position: np.ndarray | None
    axes: np.ndarray | None  # (2, 3) directions of increasing column and row numbers
    spacing: tuple[float, float]  # mm between rows, between columns
    apart: float  # mm between slices, from the header; 0: not stated
    thickness: float  # mm
    number: int  # the scanner's InstanceNumber
    rescale: tuple[float, float]  # slope and intercept
    lacks: tuple[str, ...]  # elements of its place that are not stated
    acquisition: dict[str, str]  # elements that all slices of an acquisition share
    marks: dict[str, str]  # elements that may distinguish stacks at the same positions
    signal_scale: float  # what to divide values by, see PHILIPS_SCALE

    @property
    def name(self) -> str:
        """The file's name, with the frame's number where there are several, for messages."""
        return f"'{self.path.name}'" + ("" if self.frame is None else f" frame {self.frame + 1}")

    @property
    def normal(self) -> np.ndarray:
        """The unit normal of the slice, right-handed."""
        return np.cross(*self.axes)

    @property
    def place(self) -> tuple[float, int, int, str]:
        """The sort key of slices: position along the normal, then the scanner's number, frame and
        file name.
        """
        height = 0.0 if self.position is None else float(self.position @ self.normal)
        return round(height, 3), self.number, self.frame or 0, self.path.name

    def difference_from(self, other: Slice) -> str:
        """Why two slices cannot belong to one stack: `no PixelSpacing`, `another PatientID`; "" if
        they can. Orientations may differ by half a degree.
        """
        if self.lacks or other.lacks:
            return f"no {(other.lacks or self.lacks)[0]}"
        if self.acquisition != other.acquisition:
            names = {*self.acquisition, *other.acquisition}
            changed = [
                name
                for name in (*OWNER, *ACQUISITION)
                if name in names and self.acquisition.get(name) != other.acquisition.get(name)
            ]
            return f"another {changed[0]}"
        # a quick test first: called for all pairs
        if abs(self.axes[0, 0] - other.axes[0, 0]) > 0.0091 or not np.allclose(
            self.axes, other.axes, atol=0.009
        ):
            return "another ImageOrientationPatient"
        if self.shape != other.shape:
            return "other Rows or Columns"
        if not np.allclose(self.spacing, other.spacing, rtol=1e-3):
            return "another PixelSpacing"
        return ""


def slices_of(dataset: Dataset, path: Path) -> list[Slice]:
    """The slices of one file in its own order; ValueError for invalid geometry.

    PS3.3, C.7.6.16: values that differ between frames are in per-frame groups, all others in shared
    ones.
    """
    count = _frames_of(dataset)
    framed = count > 1 or "PerFrameFunctionalGroupsSequence" in dataset
    if not framed:
        return [_slice_of(dataset, path, None, lambda name: dataset)]

    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    frames = dataset.get("PerFrameFunctionalGroupsSequence") or ()
    if frames and len(frames) != count:
        raise Broken(f"it declares {count} frames but describes {len(frames)}")

    empty = Dataset()

    def frame_of(number: int, own: Dataset) -> Slice:
        def group(name: Any) -> Dataset:
            return (own.get(name) or shared.get(name) or [empty])[0]

        return _slice_of(dataset, path, number, group)

    found = []
    for number, own in enumerate(frames or [empty]):
        spend()
        found.append(frame_of(number, own))
    if not frames:  # they differ in nothing but their pixels
        found = [replace(found[0], frame=number) for number in range(count)]
    return found


def _slice_of(
    dataset: Dataset, path: Path, frame: int | None, group: Callable[[Any], Dataset]
) -> Slice:
    """One slice; `group(name or tag)` holds the values of a functional group for this frame."""
    measures = group("PixelMeasuresSequence")
    values = group("PixelValueTransformationSequence")
    if "RescaleSlope" not in values:
        values = dataset

    rescale = (_number(values, "RescaleSlope", 1.0), _number(values, "RescaleIntercept"))
    position = _numbers(group("PlanePositionSequence"), "ImagePositionPatient", 3)
    axes = _axes(group("PlaneOrientationSequence"))
    spacing = _numbers(measures, "PixelSpacing", 2)
    geometry = {
        "ImagePositionPatient": position,
        "ImageOrientationPatient": axes,
        "PixelSpacing": spacing,
    }
    lacks = tuple(name for name, value in geometry.items() if value is None)
    placed = not lacks
    if rescale[0] == 0 or (placed and min(spacing) <= 0):
        raise Broken(f"it has RescaleSlope {rescale[0]:g} and PixelSpacing {list(spacing or ())}")

    pairs = [("", mark) for mark in MARKS] if frame is None else FRAME_MARKS
    marks = {name: _text(group(sequence).get(name)) for sequence, name in pairs}
    acquisition: dict[str, str] = {}
    if frame is None:
        acquisition = _acquisition_of(dataset)
        marks = acquisition | {name: _text(dataset.get(name)) for name in NUMERIC} | marks
    place = (None, None, (1.0, 1.0))
    if placed:
        marks = {"plane": PLANES[int(np.argmax(np.abs(np.cross(*axes))))]} | marks
        place = (np.array(position), axes, spacing)

    apart = abs(_number(measures, "SpacingBetweenSlices"))
    thickness = abs(_number(measures, "SliceThickness"))
    shape = (int(dataset.Rows), int(dataset.Columns))
    order = int(_number(dataset, "InstanceNumber"))
    return Slice(
        path,
        frame,
        shape,
        *place,
        apart,
        thickness,
        order,
        rescale,
        lacks,
        acquisition,
        marks,
        _signal_scale(group(PHILIPS_FRAME), rescale[0]),
    )


def _acquisition_of(dataset: Dataset) -> dict[str, str]:
    """The elements that all slices of an acquisition share, as texts that may be shown."""
    owner = {name: pseudonym(value_of(dataset, name).rstrip("^ ")) for name in OWNER}
    found = owner | {name: _text(dataset.get(name)).strip() for name in ACQUISITION}
    for name in NUMERIC:
        number = first_number(dataset, name)
        if number is not None:
            found[name] = f"{number:.3g}"
    if found["Modality"] != "CT":
        del found["RescaleIntercept"]
    elif found["RescaleIntercept"]:
        found["RescaleIntercept"] = "stated"  # its value may differ: it is applied to each slice
    return found


def _signal_scale(dataset: Dataset, slope: float) -> float:
    """The product of Philips' private scale of a slice or frame and its slope; 1.0 where there is
    none.
    """
    group, creator, element = PHILIPS_SCALE
    try:
        return float(dataset.private_block(group, creator)[element].value) * slope or 1.0
    except (AttributeError, KeyError, TypeError, ValueError):  # bytes, where VRs are lost
        return 1.0


def _axes(place: Dataset) -> np.ndarray | None:
    """Orthogonal unit vectors, (2, 3), from ImageOrientationPatient (PS3.3, C.7.6.2.1.1); Broken if
    they are not.
    """
    numbers = _numbers(place, "ImageOrientationPatient", 6)
    if numbers is None:
        return None

    axes = np.array(numbers).reshape(2, 3)
    if np.abs(axes @ axes.T - np.eye(2)).max() > DIRECTION_TOLERANCE:
        raise Broken("its ImageOrientationPatient is not two perpendicular directions")
    return axes


def _number(dataset: Dataset, name: str, default: float = 0.0) -> float:
    numbers = _numbers(dataset, name, 1)
    return default if numbers is None else numbers[0]


def _numbers(dataset: Dataset, name: str, count: int) -> tuple[float, ...] | None:
    """The numbers of an element; None where it is absent or empty, ValueError for another count or
    infinite ones.
    """
    value = dataset.get(name)
    if value is None or value == "" or np.size(value) == 0:
        return None

    try:
        numbers = tuple(float(number) for number in np.atleast_1d(value))
    except ValueError:
        numbers = ()

    if len(numbers) != count or not np.isfinite(numbers).all():
        raise Broken(f"its {name} is not {count_noun(count, 'finite number')}")

    return numbers


def _text(value: object) -> str:
    """An element's value as text, several values joined by _; "" where there is none."""
    several = not isinstance(value, str) and np.ndim(value) > 0
    if several:
        return "_".join(map(str, value))
    if value is None:
        return ""
    return str(value)


# --- stacks


@dataclass(frozen=True, eq=False)
class Stack:
    """Evenly spaced slices, sorted along their normal."""

    slices: tuple[Slice, ...]
    origin: np.ndarray  # centre of the first voxel, mm (left, posterior, superior)
    apart: float = 1.0  # mm between slices
    # shift (rows, columns) between consecutive slices of a tilted gantry
    drift: np.ndarray | None = None
    remarks: tuple[str, ...] = ()

    @property
    def affine(self) -> np.ndarray:
        """4 x 4 matrix from voxels (column, row, slice) to mm (RAS); PS3.3, C.7.6.2.1.1, extended
        by slices.
        """
        first = self.slices[0]
        affine = np.eye(4)
        affine[:3, 0] = first.axes[0] * first.spacing[1]
        affine[:3, 1] = first.axes[1] * first.spacing[0]
        affine[:3, 2] = first.normal * self.apart
        affine[:3, 3] = self.origin
        return UPRIGHT @ affine


def separate_stacks(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Group slices into stacks of one acquisition, orientation, shape and spacing, with each
    position once.

    Where positions repeat, differing header elements (echo, b-value, time, magnitude and phase)
    separate the stacks; repeats without any difference stay together. A slice without a position is
    a stack of its own.
    """
    groups: list[list[Slice]] = []
    for each in slices:
        mine = next(
            (
                group
                for group in groups[-MAX_COMPARED_STACKS:]
                if not group[0].difference_from(each)
            ),
            None,
        )
        if mine is None:
            groups.append([each])
        else:
            mine.append(each)

    stacks = [stack for group in groups for stack in _by_marks(group)]
    return [sorted(stack, key=lambda each: each.place) for stack in stacks]


def without_strays(
    stacks: Sequence[list[Slice]],
) -> tuple[list[list[Slice]], list[Slice]]:
    """The stacks of a series, and single slices beside a much larger stack, such as a localizer's,
    which are no images of their own.
    """
    largest = max(map(len, stacks))
    kept = []
    strays = []
    for stack in stacks:
        if len(stack) <= MAX_STRAY_SLICES and 4 * len(stack) < largest:
            strays += stack
        else:
            kept.append(stack)
    return kept, strays


def are_one_series(stacks: Sequence[list[Slice]]) -> bool:
    """Whether single slices of a series were meant as one volume: they lie in the patient, but not
    in several planes as a localizer's do.
    """
    first = stacks[0][0]
    if len(stacks) == 1 or max(map(len, stacks)) > 1:
        return False
    if any(stack[0].lacks for stack in stacks):
        return first.acquisition.get("Modality") in PLACED_MODALITIES
    return len({stack[0].marks["plane"] for stack in stacks}) < len(stacks)


def _by_marks(group: list[Slice]) -> list[list[Slice]]:
    """Divide a group with repeated positions by the first mark that leaves fewer repeats, and
    recursively its parts.

    Every part must cover half of the positions: a mark that differs from slice to slice does not
    separate stacks.
    """

    def places(part: Sequence[Slice]) -> int:
        return len({tuple(np.round(each.position, 2)) for each in part})

    repeats = len(group) - places(group) if len(group) > 1 else 0
    for mark in group[0].marks if repeats else ():
        parts: dict[str, list[Slice]] = {}
        for each in group:
            parts.setdefault(each.marks[mark], []).append(each)
        covered = [places(part) for part in parts.values()]
        if len(group) - sum(covered) < repeats and 2 * min(covered) >= places(group):
            return [stack for part in parts.values() for stack in _by_marks(part)]

    return [group]


def build_stack(
    slices: Sequence[Slice], where: str, same_pixels: Callable[[Slice, Slice], bool]
) -> Stack:
    """Build one stack on an even grid; UserError for gaps, different slices at one position, or a
    crooked stack.

    Copies of a slice (same position, same pixels) are left out, with a message in `remarks`.
    `slices` are sorted, `where` names the series in messages.
    """
    first = slices[0]
    remarks = []
    kept, copies = _without_copies(slices, same_pixels)
    if copies:
        names = ", ".join(copies[:3])
        if len(copies) > 3:
            names += ", ..."
        because = "because it is a duplicate" if len(copies) == 1 else "because they are duplicates"
        remarks.append(
            f"{where}: left out {len(copies)} of {len(slices)} slices {because}: {names}"
        )

    if len(kept) == 1:
        apart = first.apart or first.thickness or 1.0
        return Stack((first,), first.position, apart, None, tuple(remarks))

    steps = np.diff([each.position @ first.normal for each in kept])
    _expect_even(kept, steps, where)
    apart = float(steps.mean())
    stated = first.apart
    if (
        stated
        and apart > 1.5 * stated
        and abs(apart - stated - first.thickness) > SPACING_TOLERANCE * apart
    ):
        remarks.append(
            f"{where}: slices may be missing throughout: their distance is {apart:.4g} mm, but"
            f" their header says {stated:.4g} mm"
        )

    return Stack(tuple(kept), first.position, apart, _drift(kept, where), tuple(remarks))


def _without_copies(
    slices: Sequence[Slice], same_pixels: Callable[[Slice, Slice], bool]
) -> tuple[list[Slice], list[str]]:
    """The slices without copies of the one before, and the names of the copies."""
    kept = [slices[0]]
    copies = []
    for each in slices[1:]:
        same_place = np.linalg.norm(each.position - kept[-1].position) <= SAME_POSITION_MM
        if same_place and same_pixels(each, kept[-1]):
            copies.append(each.name)
        else:
            kept.append(each)

    return kept, copies


def _expect_even(slices: Sequence[Slice], steps: np.ndarray, where: str) -> None:
    """UserError where one of the steps between slices differs from the usual one."""
    usual = float(np.median([step for step in steps if step > SAME_POSITION_MM] or [1.0]))
    worst = int(np.argmax(np.abs(steps - usual)))
    step = steps[worst]
    if abs(step - usual) <= SPACING_TOLERANCE * usual:
        return

    uneven = np.abs(steps - usual) > SPACING_TOLERANCE * usual
    if uneven.sum() > max(MAX_GAPS, MAX_GAP_SHARE * len(steps)):
        low, high = (f"{end:.4g}" for end in (steps[uneven].min(), steps[uneven].max()))
        others = low if low == high else f"{low} to {high}"
        raise UserError(
            f"{where} is not evenly spaced: {uneven.sum()} of {len(steps)} distances between slices"
            f" are {others} mm, the others {usual:.4g} mm",
            allowed="evenly spaced slices (tolerance 5 %)",
            remedy="put each evenly spaced part into a folder of its own",
        )

    what = "is not evenly spaced"
    remedy = "copy the missing slices, or put each evenly spaced part into a separate folder"
    missing = round(float(step / usual)) - 1
    whole_steps = abs(step - (missing + 1) * usual) <= 2 * SPACING_TOLERANCE * usual
    if whole_steps and missing < 0:
        what = "has two different slices at the same position"
        remedy = (
            "put each volume (time point, echo) into a separate folder, or convert the series with"
            " dcm2niix"
        )
    elif whole_steps:
        what = f"lacks {count_noun(missing, 'slice')}"

    raise UserError(
        f"{where} {what}: the distance of {slices[worst].name} and {slices[worst + 1].name} is"
        f" {step:.4g} mm, that of other slices {usual:.4g} mm",
        allowed="evenly spaced slices (tolerance 5 %)",
        remedy=remedy,
    )


def _drift(slices: Sequence[Slice], where: str) -> np.ndarray | None:
    """The shift (rows, columns) between slices perpendicular to the normal; None for a straight
    stack.
    """
    first = slices[0]
    places = np.array([each.position - first.position for each in slices])
    shifts = np.stack(
        [places @ first.axes[1] / first.spacing[0], places @ first.axes[0] / first.spacing[1]],
        axis=1,
    )
    if np.abs(shifts).max() <= MAX_SHIFT_PIXELS:
        return None

    drift = shifts[-1] / (len(slices) - 1)
    offsets = np.abs(shifts - np.outer(np.arange(len(slices)), drift)).max(axis=1)
    if offsets.max() > MAX_SHIFT_PIXELS:
        raise UserError(
            f"{where} is not a straight stack: {slices[int(offsets.argmax())].name} is shifted"
            f" sideways by {offsets.max():.1f} pixels",
            remedy="put each straight part into a separate folder",
        )

    return drift


# --- scans


def group_into_scans(folder: Path, files: Sequence[Path]) -> list[Scan]:
    """Group a folder's files into scans; series are named NUMBER-DESCRIPTION, with the mark that
    separates stacks. Slices without a SeriesInstanceUID are taken for one series.

    A scan has the files of one stack, and those of strays (see `without_strays`), which reading it
    names. Slices that were meant as one volume but are none are one scan: reading it says why.
    """
    scans = []
    series: dict[str, list[Slice]] = {}
    for file in files:
        is_single = True
        try:
            with readable(file), reading(file):
                dataset = header(file)
                if _no_image(dataset):
                    continue
                slices = slices_of(dataset, file)
                is_single = slices[0].frame is not None or _is_picture(dataset, slices[0])
        except UserError as error:  # reading the file reports the error
            raise_if_of_machine(error)

        if is_single:
            scans.append(Scan(file))
        else:
            series.setdefault(value_of(dataset, "SeriesInstanceUID"), []).extend(slices)

    found = []  # each stack, those of its series, and files of strays
    for slices in series.values():
        stacks, strays = without_strays(separate_stacks(slices))
        if are_one_series(stacks):
            stacks = [slices]
        largest = max(stacks, key=len)
        for stack in stacks:
            beside = strays if stack is largest else []
            found.append((stack, stacks, tuple(each.path for each in beside)))

    patients = {stack[0].marks["PatientID"] for stack, _, _ in found}
    counts: Counter[str] = Counter()
    for stack, stacks, beside in found:
        paths = tuple(each.path for each in stack)
        if len(paths) == 1:
            scans.append(Scan(paths[0]))
            continue

        name = _series_name(header(paths[0]), stack, stacks, several_patients=len(patients) > 1)
        counts[name] += 1
        if counts[name] > 1:
            name = f"{name}-{counts[name]}"
        scans.append(Scan(folder, paths + beside, name))

    return sorted(scans, key=lambda scan: natural(scan.name))


def _is_picture(dataset: Dataset, one: Slice) -> bool:
    """Whether a file is a picture of its own: in colour, or of no place in the patient."""
    unplaced = dataset.get("Modality") not in PLACED_MODALITIES or _class_of(dataset).startswith(
        SecondaryCaptureImageStorage
    )
    return in_colour(dataset) or (bool(one.lacks) and unplaced)


def _series_name(
    dataset: Dataset, stack: Sequence[Slice], stacks: Sequence, several_patients: bool
) -> str:
    """NUMBER-DESCRIPTION of a series, with the mark that tells this stack from the others: the
    patient's pseudonym where the folder has `several_patients`.
    """
    words = (
        description_without_names(dataset, "SeriesDescription")
        or description_without_names(dataset, "ProtocolName")
        or text_of(dataset, "Modality")
    )
    label = ""
    for mark in stack[0].marks:
        if mark in ("SeriesNumber", "SeriesDescription"):  # are in the name
            continue
        tells_patients = mark == "PatientID" and several_patients
        if tells_patients or len({other[0].marks.get(mark, "") for other in stacks}) > 1:
            label = stack[0].marks[mark]
            if mark != "plane":
                label = f"{mark}_{label}"
            break

    if not label.isprintable():
        label = ""

    parts = (text_of(dataset, "SeriesNumber"), words or "series", label)
    cleaned = [re.sub(r"[^\w.+-]+", "_", str(part)).strip("._")[:64] for part in parts]
    return "-".join(filter(None, cleaned))
