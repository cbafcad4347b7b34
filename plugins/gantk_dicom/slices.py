"""The headers of DICOM files, and the slices that they describe: place in the patient, spacing, rescale."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from gantk.errors import UserError
from gantk.formats.files import expect_room
from gantk.formats.voxels import expect_held

# Values that break the rules of their type are common in files of real scanners; what we need of them is checked here.
warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")

# Storage classes whose pixels are no scan (PS3.4, B.5): parametric map, segmentations, whole slide, dose.
NO_SCAN = {f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("30", "66.4", "66.7", "77.1.6", "481.2")}
# What tells stacks apart that one series holds at the same positions: by element, or group and element of a frame.
MARKS = ("EchoTime", "EchoNumbers", "ImageType", "InversionTime", "DiffusionBValue", "DiffusionGradientOrientation",
         "SequenceName", "ConvolutionKernel", "TemporalPositionIdentifier", "TriggerTime", "FlipAngle",
         "AcquisitionNumber", "AcquisitionTime")  # fmt: skip
FRAME_MARKS = (("FrameContentSequence", "StackID"), ("MREchoSequence", "EffectiveEchoTime"),
               ("MRImageFrameTypeSequence", "FrameType"), ("CTImageFrameTypeSequence", "FrameType"),
               ("MRDiffusionSequence", "DiffusionBValue"), ("MRDiffusionSequence", "DiffusionDirectionality"),
               ("FrameContentSequence", "TemporalPositionIndex"), ("CardiacSynchronizationSequence",
               "NominalCardiacTriggerDelayTime"), ("FrameContentSequence", "FrameAcquisitionNumber"),
               ("FrameContentSequence", "DimensionIndexValues"))  # fmt: skip
# Headers of slices are searched for these alone when a folder is looked through.
TAGS = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID", "Modality",
        "PatientID", "SeriesNumber", "SeriesDescription", "ProtocolName", "StudyDescription", "Rows", "Columns",
        "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PixelSpacing", "ImagePositionPatient",
        "ImageOrientationPatient", "InstanceNumber", "SliceThickness", "SpacingBetweenSlices", *MARKS)  # fmt: skip
UNIT = 0.01  # how far a direction may be from length 1 and from the other's right angle


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Whatever a broken file makes a reader raise becomes one UserError that names the file."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # parsers and codecs each have their own, and raise builtin ones too
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        what = f"'{path}' cannot be read as DICOM: {reason}"
        raise UserError(what, remedy="copy it again, or leave it out") from error


def header(path: Path, tags: Sequence[str] | None = None) -> Dataset:
    """A file's header without pixels, overlays and private elements, or `tags` of it alone; UserError if unreadable.

    Its `held` is how many bytes follow, those of the pixels.
    """
    with readable(path), path.open("rb") as file:
        marked = file.read(132)[128:] == b"DICM"
        file.seek(0)
        only = None if tags is None else list(tags)
        dataset = dcmread(file, stop_before_pixels=True, force=not marked, specific_tags=only)
        dataset.held = path.stat().st_size - file.tell()
        if not hasattr(dataset, "file_meta"):
            dataset.file_meta = FileMetaDataset()
        dataset.file_meta.setdefault("TransferSyntaxUID", ImplicitVRLittleEndian)
        for tag in list(dataset.keys()):
            try:
                broken = tag.group <= 0x0028 and dataset[tag] is None  # elements are parsed when first looked at
            except Exception:  # pydicom raises whatever a broken value makes it raise
                broken = True
            if broken or tag.is_private or tag.group & 0xFF00 in (0x5000, 0x6000):
                del dataset[tag]
        uid = _class_of(dataset)
        if "Rows" not in dataset and (not uid or uid.name.endswith("Image Storage")):
            raise ValueError("its header is cut short" if uid else "it has none of the elements of a DICOM file")
        return dataset


def no_image(dataset: Dataset) -> str | None:
    """What a file is that holds no image, in words; None where it holds one."""
    uid = _class_of(dataset)
    if uid in NO_SCAN or "Rows" not in dataset or "Columns" not in dataset:
        return uid.name or "a file without rows and columns"
    return None


def _class_of(dataset: Dataset) -> UID:
    return UID(str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or ""))


def frames_of(dataset: Dataset) -> int:
    """How many frames a file declares, 1 for a classic slice."""
    return int(dataset.get("NumberOfFrames") or 1)


def image_header(path: Path) -> Dataset:
    """The header of a file that holds an image which may be read; UserError for all others."""
    dataset = header(path)
    with readable(path):
        if other := no_image(dataset):
            raise UserError(f"'{path}' is no image: {other}", allowed="MR, CT and other images", remedy="leave it out")
        if "MOSAIC" in (dataset.get("ImageType") or ()):
            what = f"'{path}' is a mosaic: all slices of a volume as tiles of one picture"
            raise UserError(what, remedy="convert it to NIfTI with dcm2niix first")
        rows, columns, frames = int(dataset.Rows), int(dataset.Columns), frames_of(dataset)
        samples, bits = int(dataset.get("SamplesPerPixel") or 1), int(dataset.get("BitsAllocated") or 16)
        if min(rows, columns) < 2 or min(frames, samples, bits) < 1:
            shape = f"{frames} x " * (frames != 1) + f"{rows} x {columns}"
            raise ValueError(f"it declares {shape} pixels of {bits} bits")
        expect_room(path, frames * rows * columns * samples)
        syntax = UID(dataset.file_meta.TransferSyntaxUID)
        if not syntax.is_encapsulated and syntax != DeflatedExplicitVRLittleEndian:
            needed = (frames * rows * columns * samples * bits + 7) // 8
            if dataset.get("PhotometricInterpretation") == "YBR_FULL_422":
                needed = needed * 2 // 3
            expect_held(path, needed, dataset.held)
    return dataset


@dataclass(frozen=True, eq=False)
class Slice:
    """One slice of a patient: a file, or a frame of one."""

    path: Path
    frame: int  # 0 in a file of one
    framed: bool  # whether its file is a multi-frame object
    shape: tuple[int, int, int]  # rows, columns, samples
    position: np.ndarray | None  # centre of the first pixel, mm (left, posterior, superior: DICOM's own)
    axes: np.ndarray | None  # (2, 3) directions in which columns and rows are counted
    spacing: tuple[float, float]  # mm between rows, between columns
    apart: float  # mm between slices, as the header has it; 0: not said
    thickness: float  # mm
    number: int  # as the scanner counted
    rescale: tuple[float, float]  # slope and intercept
    marks: dict[str, Any] = field(default_factory=dict)  # what may tell stacks at the same positions apart

    @property
    def name(self) -> str:
        """The file, and the frame where there are several, for messages."""
        return f"'{self.path.name}'" + f" frame {self.frame + 1}" * self.framed

    @property
    def normal(self) -> np.ndarray:
        """The direction through the slice, right-handed."""
        return np.cross(*self.axes)


def slices_of(dataset: Dataset, path: Path) -> list[Slice]:
    """The slices of one file in its own order; ValueError for geometry that is none.

    PS3.3, C.7.6.16: what differs between frames is in the per-frame groups, the rest in the shared ones.
    """
    count = frames_of(dataset)
    if count == 1 and "PerFrameFunctionalGroupsSequence" not in dataset:
        marks = {mark: _plain(dataset.get(mark)) for mark in MARKS}
        return [_slice(path, dataset, lambda name: dataset, marks)]
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    each = dataset.get("PerFrameFunctionalGroupsSequence") or [Dataset()] * count
    if len(each) != count:
        raise ValueError(f"it declares {count} frames and describes {len(each)}")
    found = []
    for number, own in enumerate(each):

        def group(name: str, own: Dataset = own) -> Dataset:
            return (own.get(name) or shared.get(name) or [Dataset()])[0]

        marks = {name: _plain(group(sequence).get(name)) for sequence, name in FRAME_MARKS}
        found.append(_slice(path, dataset, group, marks, number))
    return found


def _slice(
    path: Path, dataset: Dataset, group: Callable[[str], Dataset], marks: dict[str, Any], frame: int | None = None
) -> Slice:
    measures, values = group("PixelMeasuresSequence"), group("PixelValueTransformationSequence")
    values = values if "RescaleSlope" in values else dataset
    rescale = (_number(values, "RescaleSlope", 1.0), _number(values, "RescaleIntercept"))
    if rescale[0] == 0:
        raise ValueError("it has RescaleSlope 0, so that all its values are one")
    position = _numbers(group("PlanePositionSequence"), "ImagePositionPatient", 3)
    axes = _axes(group("PlaneOrientationSequence"))
    spacing = _numbers(measures, "PixelSpacing", 2)
    placed = position is not None and axes is not None and spacing is not None
    if placed and min(spacing) <= 0:
        raise ValueError(f"it has PixelSpacing {list(spacing)}")
    return Slice(
        path=path,
        frame=frame or 0,
        framed=frame is not None,
        shape=(int(dataset.Rows), int(dataset.Columns), int(dataset.get("SamplesPerPixel") or 1)),
        position=np.array(position) if placed else None,
        axes=axes if placed else None,
        spacing=spacing if placed else (1.0, 1.0),
        apart=abs(_number(measures, "SpacingBetweenSlices")),
        thickness=abs(_number(measures, "SliceThickness")),
        number=int(_number(dataset, "InstanceNumber")),
        rescale=rescale,
        marks=marks,
    )


def _axes(place: Dataset) -> np.ndarray | None:
    """(2, 3) of length 1 at a right angle, from ImageOrientationPatient (PS3.3, C.7.6.2.1.1)."""
    numbers = _numbers(place, "ImageOrientationPatient", 6)
    if numbers is None:
        return None
    axes = np.array(numbers).reshape(2, 3)
    if np.abs(axes @ axes.T - np.eye(2)).max() > UNIT:
        raise ValueError(f"it has ImageOrientationPatient {list(numbers)}, not two directions at a right angle")
    rows = axes[0] / np.linalg.norm(axes[0])
    columns = axes[1] - (axes[1] @ rows) * rows
    return np.stack([rows, columns / np.linalg.norm(columns)])


def _number(dataset: Dataset, name: str, default: float = 0.0) -> float:
    numbers = _numbers(dataset, name, 1)
    return default if numbers is None else numbers[0]


def _numbers(dataset: Dataset, name: str, count: int) -> tuple[float, ...] | None:
    """The numbers of an element, None where it is absent or empty; ValueError for another count, or not finite ones."""
    value = dataset.get(name)
    if value is None or value == "" or (not np.isscalar(value) and not len(value)):
        return None
    try:
        numbers = tuple(float(number) for number in np.atleast_1d(value))
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise ValueError(f"it has {name} {value}, not {count} finite numbers")
    return numbers


def _plain(value: Any) -> Any:
    """A header's value as something hashable."""
    if value is None or isinstance(value, str | int):
        return value
    try:
        return tuple(map(str, value)) if len(value) else None
    except TypeError:
        return str(value)
