"""Slices of DICOM files: where each lies in the patient, and what turns its stored numbers into values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from gantk.errors import UserError
from gantk.formats.dicom.header import frames_of

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
FILMS = {"US", "XA", "RF", "XC", "ES", "GM", "IVUS", "OP", "SM"}  # modalities whose frames follow in time


@dataclass(frozen=True, eq=False)
class Slice:
    """One slice of a patient: a file, or a frame of one."""

    path: Path
    frame: int  # 0 in a file of one
    shape: tuple[int, int, int]  # rows, columns, samples
    position: np.ndarray | None = None  # centre of the first pixel, mm (left, posterior, superior: DICOM's own)
    axes: np.ndarray | None = None  # (2, 3) directions in which columns and rows are counted
    spacing: tuple[float, float] = (1.0, 1.0)  # mm between rows, between columns
    apart: float = 0.0  # mm between slices, as the header has it; 0: not said
    thickness: float = 0.0  # mm
    number: int = 0  # as the scanner counted
    rescale: tuple[float, float] = (1.0, 0.0)  # slope and intercept
    marks: dict[str, Any] = field(default_factory=dict)  # what may tell stacks at the same positions apart
    framed: bool = False  # whether its file is a multi-frame object

    @property
    def name(self) -> str:
        """The file, and the frame where there are several, for messages."""
        return f"'{self.path.name}'" + f" frame {self.frame + 1}" * self.framed

    @property
    def normal(self) -> np.ndarray:
        """The direction through the slice, right-handed."""
        return np.cross(*self.axes)


def slices_of(dataset: Dataset, path: Path) -> list[Slice]:
    """The slices of one file in its own order; UserError for geometry that is none."""
    if frames_of(dataset) > 1 or "PerFrameFunctionalGroupsSequence" in dataset:
        return list(_frames(dataset, path))
    marks = {mark: _plain(dataset.get(mark)) for mark in MARKS}
    return [_slice(path, dataset, dataset, dataset, dataset, marks=marks)]


def _frames(dataset: Dataset, path: Path) -> Iterator[Slice]:
    """PS3.3, C.7.6.16: what differs between frames is in the per-frame groups, the rest in the shared ones."""
    count = frames_of(dataset)
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    each = dataset.get("PerFrameFunctionalGroupsSequence") or [Dataset()] * count
    if len(each) != count:
        raise UserError(f"'{path}' declares {count} frames and describes {len(each)}", remedy="copy it again")
    for number, own in enumerate(each):

        def group(name: str, own: Dataset = own) -> Dataset:
            return (own.get(name) or shared.get(name) or [Dataset()])[0]

        measures, values = group("PixelMeasuresSequence"), group("PixelValueTransformationSequence")
        place = Dataset()
        place.update(group("PlanePositionSequence"))
        place.update(group("PlaneOrientationSequence"))
        marks = {name: _plain(group(sequence).get(name)) for sequence, name in FRAME_MARKS}
        values = values if "RescaleSlope" in values else dataset
        yield _slice(path, dataset, place, measures, values, number, marks, framed=True)


def _slice(
    path: Path,
    dataset: Dataset,
    place: Dataset,  # has position and orientation
    measures: Dataset,  # has spacing and thickness
    values: Dataset,  # has slope and intercept
    frame: int = 0,
    marks: dict[str, Any] | None = None,
    framed: bool = False,
) -> Slice:
    shape = (int(dataset.Rows), int(dataset.Columns), int(dataset.get("SamplesPerPixel") or 1))
    slope, intercept = _numbers(path, values, "RescaleSlope", 1), _numbers(path, values, "RescaleIntercept", 1)
    rescale = (1.0 if slope is None else slope[0], 0.0 if intercept is None else intercept[0])
    if rescale[0] == 0:
        raise UserError(f"'{path}' has RescaleSlope 0, so that all its values are one", remedy="leave it out")
    position, axes = _numbers(path, place, "ImagePositionPatient", 3), _axes(path, place)
    spacing = _numbers(path, measures, "PixelSpacing", 2)
    placed = position is not None and axes is not None and spacing is not None
    if placed and min(spacing) <= 0:
        raise UserError(f"'{path}' has PixelSpacing {list(spacing)}", allowed="mm above 0", remedy="repair its header")
    return Slice(
        path=path,
        frame=frame,
        shape=shape,
        position=np.array(position) if placed else None,
        axes=axes if placed else None,
        spacing=spacing if placed else (1.0, 1.0),
        apart=abs((_numbers(path, measures, "SpacingBetweenSlices", 1) or (0.0,))[0]),
        thickness=abs((_numbers(path, measures, "SliceThickness", 1) or (0.0,))[0]),
        number=int((_numbers(path, dataset, "InstanceNumber", 1) or (0,))[0]),
        rescale=rescale,
        marks=marks or {},
        framed=framed,
    )


def _axes(path: Path, place: Dataset) -> np.ndarray | None:
    """(2, 3) of length 1 at a right angle, from ImageOrientationPatient (PS3.3, C.7.6.2.1.1)."""
    numbers = _numbers(path, place, "ImageOrientationPatient", 6)
    if numbers is None:
        return None
    axes = np.array(numbers).reshape(2, 3)
    if np.abs(axes @ axes.T - np.eye(2)).max() > UNIT:
        raise UserError(
            f"'{path}' has ImageOrientationPatient {list(numbers)}",
            allowed="two directions of length 1 at a right angle",
            remedy="repair its header, or leave it out",
        )
    rows = axes[0] / np.linalg.norm(axes[0])
    columns = axes[1] - (axes[1] @ rows) * rows
    return np.stack([rows, columns / np.linalg.norm(columns)])


def _numbers(path: Path, dataset: Dataset, name: str, count: int) -> tuple[float, ...] | None:
    """The numbers of an element, None where it is absent or empty; UserError for another count, or not finite ones."""
    value = dataset.get(name)
    if value is None or value == "":
        return None
    values = [value] if count == 1 or isinstance(value, str) else list(value)
    if not values:
        return None
    try:
        numbers = tuple(float(number) for number in values)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise UserError(f"'{path}' has {name} {value}", allowed=f"{count} finite numbers", remedy="repair its header")
    return numbers


def _plain(value: Any) -> Any:
    """A header's value as something hashable."""
    if value is None or isinstance(value, str | int):
        return value
    try:
        return tuple(map(str, value)) if len(value) else None
    except TypeError:
        return str(value)
