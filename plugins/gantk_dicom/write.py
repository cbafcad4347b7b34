"""Derived DICOM series to disk: who and where as in the source, what and how anew (PS3.3, A.3, A.4, A.36).

Values become 16-bit integers and a rescale (PS3.3, C.11.1), value = slope x number + intercept. Nothing is clipped.
Values that lie on the source's own integers are stored as these very integers, other whole numbers as themselves. What
is left is rounded, an error of half a step at most: with values of one sign 65,535 steps lead from 0 to the largest,
with both 32,767 to the largest of either, and 0 stays exactly 0.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.sequence import Sequence as Items
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import (
    JPEG2000,
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
    MRImageStorage,
    generate_uid,
)
from pydicom.valuerep import format_number_as_ds

from gantk import __version__
from gantk.errors import UserError
from gantk.formats.contrasts import CONTRASTS, words_of
from gantk.formats.files import hidden_folder, move_into
from gantk.formats.image import UPRIGHT, Image, in_file_order
from gantk_dicom.format import is_dicom
from gantk_dicom.read import Headers
from gantk_dicom.slices import header

NAME = re.compile(r"IMG\d{4,}\.dcm")  # of a slice in a folder
WINDOW = (0.5, 99.5)  # percentiles of the values that a viewer shows black and white at first
WHOLE = 1e-3  # how far a number may be from a whole one and still be meant as it
LIMITS = {False: (0, 65535), True: (-32768, 32767)}  # by whether signed
MARK = "(gantk)"  # ends the SeriesDescription of everything that is written here
CLASSES = {"MR": MRImageStorage, "CT": CTImageStorage}
FRAME_TYPES = {EnhancedMRImageStorage: "MRImageFrameTypeSequence", EnhancedCTImageStorage: "CTImageFrameTypeSequence"}
LOSSY = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000)
GROUPS = (0x0010, 0x0012, 0x0032, 0x0040, 0x0054)  # patient, trial, procedure, requests; what PET says of itself
KEPT = """
SpecificCharacterSet TimezoneOffsetFromUTC StudyDate StudyTime AcquisitionDate AcquisitionTime AcquisitionDateTime
AccessionNumber ReferringPhysicianName StudyDescription PhysiciansOfRecord InstitutionName InstitutionalDepartmentName
StationName OperatorsName ProcedureCodeSequence ReferencedStudySequence AdmittingDiagnosesDescription ConversionType
AnatomicRegionSequence BodyPartExamined SliceThickness SpacingBetweenSlices PatientPosition GantryDetectorTilt
StudyInstanceUID StudyID InstanceNumber AcquisitionNumber PatientOrientation ImagePositionPatient
ImageOrientationPatient Laterality ImageLaterality FrameOfReferenceUID PositionReferenceIndicator SliceLocation
FrameLaterality PixelSpacing Rows Columns BurnedInAnnotation RecognizableVisualFeatures
LossyImageCompression LossyImageCompressionRatio LossyImageCompressionMethod MagneticFieldStrength
""".split()  # noqa: SIM905
FRAMED = """
PixelPresentation VolumetricProperties VolumeBasedCalculationTechnique ComplexImageComponent ResonantNucleus
DimensionOrganizationSequence DimensionIndexSequence DimensionOrganizationType
""".split()  # noqa: SIM905  (these too, in multi-frame objects)
EMPTY = """
PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime StudyID AccessionNumber ReferringPhysicianName
PositionReferenceIndicator
""".split()  # noqa: SIM905  (may be empty, but not absent: type 2)
SLICED = {  # type 2 of classic slices: PS3.3, C.8.3.1 and C.8.2.1
    "MR": "ScanOptions MRAcquisitionType RepetitionTime EchoTime EchoTrainLength SliceThickness".split(),  # noqa: SIM905
    "CT": ["KVP", "AcquisitionNumber", "SliceThickness"],
}
# Functional groups that say where a frame lies, not how it was taken.
FRAME_GROUPS = ("FrameContentSequence", "PlanePositionSequence", "PlaneOrientationSequence",
                "PixelMeasuresSequence", "FrameAnatomySequence")  # fmt: skip
    "FrameContentSequence",
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelMeasuresSequence",
    "FrameAnatomySequence",
]
MAKERS = ("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions")

new_uid = partial(generate_uid, prefix=None)  # from a random UUID (PS3.5, B.2)


@dataclass(frozen=True)
class Making:
    """What all files of one written series share."""

    modality: str
    shows: str  # the target domain's name, "" if unknown
    window: tuple[float, float] = (0.0, 1.0)  # centre and width
    series: str = field(default_factory=new_uid)
    study: str = field(default_factory=new_uid)  # used where the source has none
    frame: str = field(default_factory=new_uid)
    when: datetime = field(default_factory=datetime.now)


def write_file(path: Path, image: Image, description: str = "") -> None:
    """One .dcm file: of a slice, a picture, or a multi-frame object."""
    datasets, one = _derived_files(image, description)
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
        if not str(header(file).get("SeriesDescription") or "").endswith(MARK):
            what = f"the folder '{folder}' holds other DICOM files, such as '{file.name}'"
            raise UserError(what, where="OUTPUT", remedy="name a folder that is new or empty")
    datasets, _ = _derived_files(image, description)
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


def _derived_files(image: Image, description: str) -> tuple[Iterator[Dataset], bool]:
    """The files of a derived series, one at a time, and whether all slices are in one file.

    They are as they came, unless what they show needs another kind of object.
    """
    headers = image.header
    if not isinstance(headers, Headers):
        what = "this cannot be written as DICOM: only what was read from DICOM has the patient and study that it needs"
        raise UserError(what, where="OUTPUT", remedy="write NIfTI (.nii.gz), or start from the DICOM files")
    source = str(headers[0].get("Modality") or "OT")
    columns, rows, count = headers.shape
    if int(np.prod(image.pixels.shape[1:])) != rows * columns * count:
        what = f"pixels of {image.pixels.shape[1:]} do not fit the {count} x {rows} x {columns} of '{image.path}'"
        raise UserError(what, remedy="bring them back to the input's size first")
    if image.channels == 3 and image.affine is None and count == 1:
        return iter([_coloured(image, Making(modality_of(description, source), description))]), True
    if image.channels != 1:
        raise UserError(f"an image of {image.channels} channels does not fit into a DICOM series", allowed="one")
    if image.affine is None:
        volume = image.pixels.reshape(count, rows, columns)
    else:
        volume = in_file_order(image.pixels[0], headers.shape, np.asarray(image.affine)).transpose(2, 1, 0)
    low, high = np.percentile(volume[:: max(1, len(volume) // 64)], WINDOW)
    window = (low + high) / 2, max(high - low, 1e-3 * max(1.0, abs(high)))
    making = Making(modality_of(description, source), description, window)
    one = bool(headers.frames) and making.modality == source
    return (_framed if one else _sliced)(volume, image, making), one


def _framed(volume: np.ndarray, image: Image, making: Making) -> Iterator[Dataset]:
    """All slices as frames of one file, on one scale."""
    source = image.header[0]
    rescales = image.header.rescales if len(set(image.header.rescales)) == 1 else [(1.0, 0.0)] * len(volume)
    scale = scales_for(volume, rescales, _signed(source))[0]
    dataset = derived(source, making, enhanced=True)
    dataset.NumberOfFrames = len(volume)
    dataset.setdefault("InstanceNumber", 1)
    _fill(dataset, volume, scale, making)
    _add_frame_groups(source, dataset, image.header.frames)
    yield dataset


def _sliced(volume: np.ndarray, image: Image, making: Making) -> Iterator[Dataset]:
    """A file for each slice, numbered as the source's where these tell them apart."""
    headers = image.header
    scales = scales_for(volume, headers.rescales, _signed(headers[0]))
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
        _fill(dataset, plane, scale, making)
        yield dataset


def _coloured(image: Image, making: Making) -> Dataset:
    """A picture in colour, 8 bits a channel, or 16 where the values need them."""
    whole = np.rint(image.pixels)
    if whole.min() < 0 or whole.max() > 65535:
        raise UserError(f"values from {whole.min():g} to {whole.max():g} are no colours", allowed="0 to 65535")
    dataset = derived(image.header[0], making)
    dataset.setdefault("InstanceNumber", 1)
    _add_pixels(dataset, whole.transpose(1, 2, 0).astype("u1" if whole.max() < 256 else "<u2"), 3)
    return dataset


# --- values


@dataclass(frozen=True)
class Scale:
    """How one slice is stored: value = slope x number + intercept."""

    slope: float = 1.0
    intercept: float = 0.0
    signed: bool = False

    def holds(self, values: np.ndarray) -> bool:
        """Whether the values are whole numbers of this scale, as exactly as float32 can tell, and within its bits."""
        exact = (values.astype(np.float64) - self.intercept) / self.slope
        low, high = LIMITS[self.signed]
        blur = np.abs(values).max() * np.finfo(np.float32).eps / abs(self.slope)
        within = exact.min() >= low - WHOLE and exact.max() <= high + WHOLE
        return bool(within and blur < 0.25 and np.abs(exact - np.rint(exact)).max() <= max(WHOLE, blur))


def scales_for(volume: np.ndarray, rescales: Sequence[tuple[float, float]], signed: bool) -> list[Scale]:
    """A scale for each of (slices, rows, columns): the source's (slope, intercept), whole numbers, or all the steps.

    `signed` is how the source stored its integers, kept where they fit. All slices share the last two kinds.
    """
    for candidates in (rescales, [(1.0, 0.0)] * len(volume)):
        for sign in (signed, not signed):
            scales = [Scale(slope, intercept, sign) for slope, intercept in candidates]
            if all(scale.holds(plane) for scale, plane in zip(scales, volume, strict=True)):
                return scales
    low, high = float(volume.min()), float(volume.max())
    step = max(high / 32767, -low / 32768) if low < 0 else high / 65535
    return [Scale(float(_texts([step * (1 + 1e-8)])[0]), 0.0, low < 0)] * len(volume)  # as 16 characters tell it


def _fill(dataset: Dataset, values: np.ndarray, scale: Scale, making: Making) -> None:
    """Stored numbers, and how they become values and are shown."""
    numbers = np.rint((values.astype(np.float64) - scale.intercept) / scale.slope)
    _add_pixels(dataset, numbers.astype("<i2" if scale.signed else "<u2"), 1)
    dataset.RescaleSlope, dataset.RescaleIntercept = _texts([scale.slope, scale.intercept])
    dataset.RescaleType = "HU" if making.modality == "CT" else "US"  # unspecified
    dataset.WindowCenter, dataset.WindowWidth = _texts(making.window)


def _add_pixels(dataset: Dataset, array: np.ndarray, samples: int) -> None:
    dataset.Rows, dataset.Columns = array.shape[:2] if samples == 3 else array.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = samples, "RGB" if samples == 3 else "MONOCHROME2"
    if samples == 3:
        dataset.PlanarConfiguration = 0
    bits = 8 * array.dtype.itemsize
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(array.dtype.kind == "i")
    dataset.PixelData = array.tobytes() + b"\0" * (array.nbytes % 2)
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"


def _signed(dataset: Dataset) -> bool:
    return dataset.get("PixelRepresentation") == 1


def _texts(numbers: Iterable[float]) -> list[str]:
    return [format_number_as_ds(float(number)) for number in numbers]


def _save(dataset: Dataset, path: Path) -> None:
    try:
        dataset.save_as(path, enforce_file_format=True)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise UserError(f"the header of '{path.name}' cannot be written: {error}", remedy="write NIfTI") from error


# --- headers


def derived(source: Dataset, making: Making, enhanced: bool = False) -> Dataset:
    """A header for an image derived from `source`, complete but for its pixels and their scale.

    `enhanced`: of the source's own class, with all its frames; else MR and CT become classic slices.
    """
    modality, strict = making.modality, making.modality in CLASSES
    dataset, kept = Dataset(), {*KEPT, *(FRAMED if enhanced else ())}
    for tag in list(source.keys()):
        element = _writable(source, tag)
        if element is not None and (tag.group in GROUPS or element.keyword in kept):
            dataset.add(deepcopy(element))
    dataset.remove_private_tags()  # those within sequences
    for keyword in EMPTY:
        dataset.setdefault(keyword, "")
    dataset.StudyInstanceUID = dataset.get("StudyInstanceUID") or making.study
    if strict:
        dataset.FrameOfReferenceUID = dataset.get("FrameOfReferenceUID") or making.frame
    dataset.SOPClassUID = source.get("SOPClassUID") if enhanced or not strict else CLASSES[modality]
    dataset.SOPInstanceUID, dataset.SeriesInstanceUID, dataset.Modality = new_uid(), making.series, modality
    third = {"MR": "OTHER", "CT": "AXIAL"}.get(modality) or [*(source.get("ImageType") or [])[2:3], "OTHER"][0]
    dataset.ImageType = ["DERIVED", "SECONDARY", third] + ["NONE"] * enhanced
    dataset.SyntheticData = "YES"
    dataset.setdefault("BurnedInAnnotation", "NO")
    if source.file_meta.TransferSyntaxUID in LOSSY:
        dataset.setdefault("LossyImageCompression", "01")  # once lossy, lossy for ever: PS3.3, C.7.6.1.1.5
    _describe(dataset, source, making)
    if enhanced:  # PS3.3, C.8.13.1 and C.8.16.2
        dataset.ContentQualification, dataset.PresentationLUTShape = "RESEARCH", "IDENTITY"
        dataset.setdefault("PixelPresentation", "MONOCHROME")
        dataset.setdefault("VolumetricProperties", "VOLUME")
        dataset.setdefault("VolumeBasedCalculationTechnique", "NONE")
        dataset.setdefault("LossyImageCompression", "00")
        if modality == "MR":
            dataset.setdefault("ComplexImageComponent", "MAGNITUDE")
            dataset.AcquisitionContrast = "UNKNOWN"
    elif strict:  # of an image that nobody acquired
        if modality == "MR":
            dataset.ScanningSequence, dataset.SequenceVariant = "RM", "NONE"  # research mode
        for keyword in SLICED[modality]:
            dataset.setdefault(keyword, None)
        dataset.setdefault("PatientPosition", "")
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def _add_frame_groups(source: Dataset, dataset: Dataset, chosen: Sequence[int]) -> None:
    """The functional groups of the frames that are written (PS3.3, C.7.6.16.2): their places, one scale, one window.

    A file without such groups keeps scale and window where they are.
    """
    if "PerFrameFunctionalGroupsSequence" not in source:
        return
    shared = _item((source.get("SharedFunctionalGroupsSequence") or [Dataset()])[0], FRAME_GROUPS)
    for group, keywords in {
        "PixelValueTransformationSequence": ("RescaleIntercept", "RescaleSlope", "RescaleType"),
        "FrameVOILUTSequence": ("WindowCenter", "WindowWidth"),
    }.items():
        setattr(shared, group, Items([_item(dataset, keywords)]))
        for keyword in keywords:
            del dataset[keyword]
    if kind := FRAME_TYPES.get(source.get("SOPClassUID")):
        item = _item(dataset, (*FRAMED[:4], "AcquisitionContrast"))
        item.FrameType = dataset.ImageType
        setattr(shared, kind, Items([item]))
    shared.DerivationImageSequence = Items([_item(dataset, ("DerivationDescription", "SourceImageSequence"))])
    dataset.SharedFunctionalGroupsSequence = Items([shared])
    frames = source.PerFrameFunctionalGroupsSequence
    dataset.PerFrameFunctionalGroupsSequence = Items([_item(frames[number], FRAME_GROUPS) for number in chosen])


def _describe(dataset: Dataset, source: Dataset, making: Making) -> None:
    """What it is, what made it, when, and from what."""
    number = int(source.get("SeriesNumber") or 0)
    words = source.get("SeriesDescription") or source.get("ProtocolName") or ""
    origin = f"series {number}" + f" ({words})" * bool(words)
    shown = re.sub(r"\s+", " ", making.shows).strip()
    dataset.SeriesNumber = number + 1000
    dataset.SeriesDescription = f"synthetic {shown[:40]} {MARK}".replace("  ", " ")
    text = f"Synthetic {f'{shown} image'.strip()} made by gantk {__version__} with a neural network from {origin}; "
    dataset.DerivationDescription = f"{text}not acquired."[:1024]
    if not dataset.DerivationDescription.isascii():
        dataset.decode()
        dataset.SpecificCharacterSet = "ISO_IR 192"
    if source.get("SOPInstanceUID"):
        item = Dataset()
        item.ReferencedSOPClassUID = source.get("SOPClassUID") or MRImageStorage
        item.ReferencedSOPInstanceUID = source.SOPInstanceUID
        item.PurposeOfReferenceCodeSequence = _coded(codes.cid7202.SourceImageForImageProcessingOperation)
        dataset.SourceImageSequence = Items([item])
    if source.get("Manufacturer"):
        maker = _item(source, [keyword for keyword in MAKERS if source.get(keyword)])
        maker.PurposeOfReferenceCodeSequence = _coded(codes.cid7005.AcquisitionEquipment)
        dataset.ContributingEquipmentSequence = Items([maker])
    dataset.Manufacturer = dataset.ManufacturerModelName = "gantk"
    dataset.SoftwareVersions = __version__
    for part in ("InstanceCreation", "Series", "Content"):
        setattr(dataset, part + "Date", making.when.strftime("%Y%m%d"))
        setattr(dataset, part + "Time", making.when.strftime("%H%M%S"))


def _item(source: Dataset, keywords: Iterable[str]) -> Dataset:
    """A copy of some elements, where they are there."""
    item = Dataset()
    for keyword in keywords:
        if keyword in source:
            item.add(deepcopy(source[keyword]))
    item.remove_private_tags()
    return item


def _writable(source: Dataset, tag):
    """An element that can be read and written, which not all in real files can; else None."""
    try:
        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, False
        write_data_element(buffer, source[tag])
        return source[tag]
    except Exception:  # pydicom raises whatever a broken value makes it raise
        return None


def _coded(code: Code) -> Items:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return Items([item])
