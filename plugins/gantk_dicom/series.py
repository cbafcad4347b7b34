"""Which slices are one volume: those that agree in all that describes patient and image, and lie
evenly spaced one above the other.

`group_into_scans` makes scans of the files of a folder; `expect_one_volume` and `expect_even` refuse
the rest by name when a scan is read. Nothing is repaired.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from gantk.errors import UserError, count_noun, raise_if_of_machine
from gantk.formats.budget import Broken, reading, spend
from gantk.formats.files import natural, split_suffix
from gantk.formats.image import UPRIGHT, Scan
from gantk_dicom.files import frames_of, header, is_gray, no_image, readable
from gantk_dicom.names import description_without_names, pseudonym, text_of, value_of

# Groups of elements that describe patient, study, series, acquisition and pixels. All of them are
# the same in all slices of a volume, but for times, references and what follows.
DESCRIBING_GROUPS = (0x0008, 0x0010, 0x0012, 0x0018, 0x0020, 0x0028, 0x0054)
DESCRIBING_UIDS = ("SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
# what may differ from slice to slice of a volume: numbers and comments, the place, the display, how
# numbers are stored and scaled (which is applied to each slice), the heart beat, the dose of CT, and
# the counts of PET
VARIES = """
SpecificCharacterSet InstanceNumber AcquisitionNumber ImagesInAcquisition ImageComments
FrameComments FrameLabel DerivationDescription
FrameAcquisitionNumber InStackPositionNumber DimensionIndexValues FrameAcquisitionDuration
ImagePositionPatient SliceLocation TablePosition DataCollectionCenterPatient
ReconstructionTargetCenterPatient
WindowCenter WindowWidth WindowCenterWidthExplanation SmallestImagePixelValue
LargestImagePixelValue
BitsAllocated BitsStored HighBit PixelRepresentation PlanarConfiguration PixelPaddingValue
PixelPaddingRangeLimit RescaleSlope RescaleIntercept LossyImageCompressionRatio NumberOfFrames
TriggerTime HeartRate NominalInterval LowRRValue HighRRValue IntervalsAcquired
IntervalsRejected RRIntervalTimeNominal SAR dBdt B1rms
XRayTubeCurrent XRayTubeCurrentInuA Exposure ExposureInuAs ExposureTime ExposureTimeInuS
ExposureTimeInms XRayTubeCurrentInmA ExposureInmAs GeneratorPower CTDIvol EstimatedDoseSaving
WaterEquivalentDiameter
ImageIndex FrameReferenceTime ActualFrameDuration DecayFactor ScatterFractionFactor
DeadTimeFactor SliceSensitivityFactor PrimaryPromptsCountsAccumulated
SecondaryCountsAccumulated
"""
CT_SCALE = (
    Tag("RescaleIntercept"),
    Tag("RescaleSlope"),
)  # Hounsfield units, which CT has in every slice
TOLERANCE = 1e-3  # of measured numbers, also of directions
PERPENDICULAR_TOLERANCE = 0.01
NUMBERS = ("DS", "FD", "FL")  # VRs of measured numbers
CODES = (*NUMBERS, "IS", "CS")
SPACING_TOLERANCE = 0.05  # tolerance for a distance between slices, as a share of the usual one
SAME_POSITION_MM = 0.01  # mm within which two slices have the same position
MAX_SHIFT_PIXELS = 0.5  # tolerated shift sideways, in pixels, of a slice of a stack
PLACE = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}  # numbers
GROUPS_OF_FRAMES = 0x52000000  # tag at which the functional groups of frames begin
# modalities whose slices lie in the patient; other pictures need no position
PLACED_MODALITIES = ("MR", "CT", "PT")
# stacks that a slice is compared with: bounds the time for a tree of damaged files
MAX_COMPARED_STACKS = 100
# plane of slices along the patient's first, second, third axis
PLANES = ("sagittal", "coronal", "axial")


# --- slices


@dataclass(frozen=True, eq=False)
class Slice:
    """One slice of a patient: a file, or a frame of one."""

    path: Path
    frame: int | None  # number in a multi-frame file; None for a single slice
    header: Dataset  # of this slice; of a frame with its functional groups
    description: Mapping[BaseTag, object]  # the elements that describe patient and image
    position: np.ndarray | None  # centre of the first pixel, mm (left, posterior, superior)
    axes: np.ndarray | None  # (2, 3) directions of increasing column and row numbers
    spacing: np.ndarray | None  # mm between rows, between columns
    rescale: tuple[float, float]  # slope and intercept

    @property
    def name(self) -> str:
        """The file's name, with the frame's number where there are several, for messages."""
        return f"'{self.path.name}'" + ("" if self.frame is None else f" frame {self.frame + 1}")

    @property
    def normal(self) -> np.ndarray:
        """The unit normal of the slice, right-handed."""
        return np.cross(*self.axes)

    @property
    def height(self) -> float:
        """Position along the normal in mm."""
        return float(self.position @ self.normal)

    @property
    def plane(self) -> str:
        """The plane of the patient that the slice is nearest to."""
        return PLANES[int(np.argmax(np.abs(self.normal)))]

    @property
    def lacks(self) -> str:
        """The first element of its place that is not stated; "" where all are."""
        values = (self.position, self.axes, self.spacing)
        return next((name for name, value in zip(PLACE, values, strict=True) if value is None), "")


def slices_of(dataset: Dataset, path: Path) -> list[Slice]:
    """The slices of one file in its own order; Broken for an invalid place or rescale."""
    count = frames_of(dataset)
    frames = dataset.get("PerFrameFunctionalGroupsSequence")
    if count == 1 and not frames:
        return [_slice_of(path, None, dataset)]
    if len(frames or ()) != count:
        raise Broken(f"it declares {count} frames, but describes {len(frames or ())}")

    shared = dataset.get("SharedFunctionalGroupsSequence") or [Dataset()]
    of_file = dataset[:GROUPS_OF_FRAMES]
    slices = []
    for number, own in enumerate(frames):
        spend()
        one = Dataset()
        one.file_meta = dataset.file_meta
        one.update(of_file)
        for groups in (shared[0], own):
            for element in groups:
                if element.VR == "SQ" and element.value:
                    one.update(element.value[0])
        slices.append(_slice_of(path, number, one))
    return slices


def _slice_of(path: Path, frame: int | None, dataset: Dataset) -> Slice:
    """One slice, whose header states its place, rescale and description as a classic image does."""
    tags = [tag for tag in list(dataset.keys()) if _describes(tag)]
    if dataset.get("Modality") == "CT":
        tags += [tag for tag in CT_SCALE if tag in dataset]
    description = {tag: dataset.get_item(tag).value for tag in tags}
    position, axes, spacing = (_numbers(dataset, name) for name in PLACE)
    slope = _numbers(dataset, "RescaleSlope")
    intercept = _numbers(dataset, "RescaleIntercept")
    rescale = (1.0 if slope is None else slope[0], 0.0 if intercept is None else intercept[0])
    if rescale[0] == 0 or (spacing is not None and min(spacing) <= 0):
        raise Broken(f"it has RescaleSlope {rescale[0]:g} and PixelSpacing {dataset.PixelSpacing}")
    if axes is not None:
        axes = axes.reshape(2, 3)
        if np.abs(axes @ axes.T - np.eye(2)).max() > PERPENDICULAR_TOLERANCE:
            raise Broken("its ImageOrientationPatient is not two perpendicular directions")
    return Slice(path, frame, dataset, description, position, axes, spacing, rescale)


def _numbers(dataset: Dataset, name: str) -> np.ndarray | None:
    """The numbers of an element; None where it is absent or empty, Broken for another count or
    infinite ones.
    """
    value = dataset.get(name)
    if value is None or np.size(value) == 0 or value == "":
        return None
    count = PLACE.get(name, 1)
    try:
        numbers = np.array(value, dtype=float).ravel()
    except ValueError:
        numbers = np.array([])
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise Broken(f"its {name} is not {count_noun(count, 'finite number')}")
    return numbers


# --- one comparison of all that describes patient and image


@lru_cache(maxsize=4096)
def _describes(tag: BaseTag) -> bool:
    """Whether an element describes patient or image, and is the same in all slices of a volume."""
    keyword = keyword_for_tag(tag)
    if tag.group not in DESCRIBING_GROUPS or not keyword or keyword in VARIES.split():
        return False
    kind = dictionary_VR(tag)
    if kind == "UI":
        return keyword in DESCRIBING_UIDS
    if kind in ("SQ", "DA", "TM", "DT"):  # of the patient; others are references and times
        return tag.group == 0x0010 or keyword.startswith("ContrastBolusAgent")
    return kind[0] != "O"


def difference(one: Slice, other: Slice) -> str:
    """The first element in which two slices differ that describes patient or image; "" where they
    agree. Measured numbers may differ by a thousandth.
    """
    if one.description == other.description:
        return ""
    for tag in sorted({*one.description, *other.description}):
        is_same = one.description.get(tag) == other.description.get(tag)
        if not is_same and not _is_same(one.header, other.header, tag):
            return keyword_for_tag(tag)
    return ""


def _is_same(one: Dataset, other: Dataset, tag: BaseTag) -> bool:
    """Whether two headers hold the same value, whatever its spelling."""
    texts = [value_of(each, tag).rstrip("^ ") for each in (one, other)]
    if texts[0] == texts[1] or dictionary_VR(tag) not in NUMBERS or "" in texts:
        return texts[0] == texts[1]
    with suppress(ValueError):  # of a damaged number, or of other counts of numbers
        numbers = (np.ravel(each[tag].value).astype(float) for each in (one, other))
        return np.allclose(*numbers, rtol=TOLERANCE, atol=TOLERANCE)
    return False


def separate(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Group slices by all that describes patient and image."""
    groups = []
    for each in slices:
        for group in groups[: -MAX_COMPARED_STACKS - 1 : -1]:
            if not difference(group[0], each):
                group.append(each)
                break
        else:
            groups.append([each])
    return groups


def expect_one_volume(slices: Sequence[Slice], where: str) -> None:
    """UserError where slices differ in what describes patient or image, or where one of several
    states no place.
    """
    largest, *others = sorted(separate(slices), key=len, reverse=True)
    odd = others[0][0] if others else slices[0]
    element = difference(largest[0], odd) if others else odd.lacks
    if not element or len(slices) == 1:
        return
    verb = "another" if value_of(odd.header, element) else "no"
    raise UserError(
        f"the {len(slices)} slices of {where} are not one volume: {odd.name} ({verb} {element})",
        remedy="complete or correct this element, or put each volume into a folder of its own",
    )


# --- evenly spaced slices


def in_order(slices: Iterable[Slice]) -> list[Slice]:
    """Slices sorted by position along their normal, or by name where they state none."""
    return sorted(
        slices, key=lambda each: (0.0 if each.lacks else each.height, each.path, each.frame or 0)
    )


def expect_even(slices: Sequence[Slice], where: str) -> float:
    """The distance in mm between slices, which are sorted along their normal; UserError where it
    differs, or where a slice is shifted sideways.
    """
    first = slices[0]
    steps = np.diff([each.height for each in slices])
    usual = float(np.median(steps))
    errors = np.abs(steps - usual)
    worst = int(errors.argmax())
    if usual <= SAME_POSITION_MM or errors[worst] > SPACING_TOLERANCE * usual:
        raise UserError(
            f"{where} is not evenly spaced: the distance of {slices[worst].name} and"
            f" {slices[worst + 1].name} is {steps[worst]:.4g} mm, that of other slices {usual:.4g} mm",
            allowed="evenly spaced slices (tolerance 5 %)",
            remedy="copy missing slices, or put each volume (time point, echo) into its own folder",
        )

    places = np.array([each.position - first.position for each in slices])
    shifts = np.abs(places @ first.axes.T / first.spacing[::-1]).max(axis=1)
    if shifts.max() > MAX_SHIFT_PIXELS:
        raise UserError(
            f"the slices of {where} are not one above the other:"
            f" {slices[int(shifts.argmax())].name} is shifted sideways by {shifts.max():.1f} pixels,"
            " as with a tilted gantry",
            remedy="convert the series to NIfTI with dcm2niix, which corrects a tilted gantry",
        )
    return float(steps.mean())


def affine_of(slices: Sequence[Slice], apart: float) -> np.ndarray:
    """4 x 4 matrix from voxels (column, row, slice) to mm (RAS); PS3.3, C.7.6.2.1.1, extended by
    slices.
    """
    first = slices[0]
    columns, rows = first.axes * first.spacing[::-1, None]
    affine = np.eye(4)
    affine[:3] = np.column_stack((columns, rows, first.normal * apart, first.position))
    return UPRIGHT @ affine


# --- scans


def group_into_scans(folder: Path, files: Sequence[Path]) -> list[Scan]:
    """Group a folder's files into scans; series are named NUMBER-DESCRIPTION, with the element that
    tells a volume of the series from its others. Slices without a SeriesInstanceUID are taken for
    one series.

    Slices that are no volume are one scan, too: reading it says why.
    """
    scans = []
    series = {}
    for file in files:
        try:
            with readable(file), reading(file):
                dataset = header(file)
                if no_image(dataset):
                    continue
                slices = slices_of(dataset, file)
                is_picture = _is_picture(dataset, slices[0])
        except UserError as error:  # reading the file reports the error
            raise_if_of_machine(error)
            scans.append(Scan(file))
            continue

        if len(slices) > 1:
            scans.append(Scan(file, name=split_suffix(file)[0]))
        elif is_picture:
            scans.append(Scan(file))
        else:
            series.setdefault(value_of(dataset, "SeriesInstanceUID"), []).extend(slices)

    volumes = [_volumes_of(slices) for slices in series.values()]
    first_slices = [stack[0] for stacks in volumes for stack in stacks]
    patients = {value_of(each.header, "PatientID") for each in first_slices}
    for stacks in volumes:
        for stack in stacks:
            if len(stack) == 1:
                scans.append(Scan(stack[0].path))
                continue
            other = next((each for each in stacks if each is not stack), stack)
            element = "PatientID" if len(patients) > 1 else difference(other[0], stack[0])
            paths = tuple(each.path for each in in_order(stack))
            scans.append(Scan(folder, paths, _series_name(stack[0], element)))
    return sorted(_with_unique_names(scans), key=lambda scan: natural(scan.name))


def _is_picture(dataset: Dataset, one: Slice) -> bool:
    """Whether a file is a picture of its own: in colour, or of no place in the patient."""
    is_placed = dataset.get("Modality") in PLACED_MODALITIES
    return not is_gray(dataset) or (bool(one.lacks) and not is_placed)


def _volumes_of(slices: list[Slice]) -> list[list[Slice]]:
    """The volumes of a series; all slices as one where a single one is left over, except for the
    planes of a localizer.
    """
    stacks = separate(slices)
    singles = sum(len(stack) == 1 for stack in stacks)
    planes = {stack[0].plane for stack in stacks if not stack[0].lacks}
    is_localizer = singles == len(stacks) == len(planes)
    return [slices] if singles and not is_localizer else stacks


def _series_name(one: Slice, element: str) -> str:
    """NUMBER-DESCRIPTION of a series, with the element that tells this volume from others; with its
    value where that is a number or a code, or a patient's pseudonym.
    """
    words = description_without_names(one.header) or text_of(one.header, "Modality")
    label = element
    if element == "ImageOrientationPatient":
        label = one.plane
    elif element == "PatientID":
        label = f"{element} {pseudonym(value_of(one.header, element))}"
    elif element and Tag(element).group != 0x0010 and dictionary_VR(element) in CODES:
        label = f"{element} {text_of(one.header, element)}"
    parts = (text_of(one.header, "SeriesNumber"), words or "series", label)
    cleaned = [re.sub(r"[^\w.+-]+", "_", part).strip("._")[:64] for part in parts]
    return "-".join(filter(None, cleaned))


def _with_unique_names(scans: Iterable[Scan]) -> list[Scan]:
    """Scans of which a second one of a name has a number behind it."""
    counts = Counter()
    named = []
    for scan in scans:
        counts[scan.name] += 1
        count = counts[scan.name]
        named.append(scan if count == 1 else replace(scan, name=f"{scan.name}-{count}"))
    return named
