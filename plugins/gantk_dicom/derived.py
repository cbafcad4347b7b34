"""The header of a derived DICOM image: who and where as in the source, what and how anew (PS3.3, A.3, A.4, A.36).

Patient, trial, procedure and requests stay as they are (`GROUPS`), and so does what `KEPT` names; the rest describes
how the source was acquired, shown, or stored.
"""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.sequence import Sequence
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

from gantk import __version__


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


CLASSES = {"MR": MRImageStorage, "CT": CTImageStorage}
FRAME_TYPES = {EnhancedMRImageStorage: "MRImageFrameTypeSequence", EnhancedCTImageStorage: "CTImageFrameTypeSequence"}
LOSSY = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000)
MARK = "(gantk)"  # ends the SeriesDescription of everything that is written here
GROUPS = (0x0010, 0x0012, 0x0032, 0x0040, 0x0054)  # the last is what PET images have to say of themselves
KEPT = _names("""
SpecificCharacterSet TimezoneOffsetFromUTC StudyDate StudyTime AcquisitionDate AcquisitionTime AcquisitionDateTime
AccessionNumber ReferringPhysicianName StudyDescription PhysiciansOfRecord InstitutionName InstitutionalDepartmentName
StationName OperatorsName ProcedureCodeSequence ReferencedStudySequence AdmittingDiagnosesDescription ConversionType
AnatomicRegionSequence BodyPartExamined SliceThickness SpacingBetweenSlices PatientPosition GantryDetectorTilt
StudyInstanceUID StudyID InstanceNumber AcquisitionNumber PatientOrientation ImagePositionPatient
ImageOrientationPatient Laterality ImageLaterality FrameOfReferenceUID PositionReferenceIndicator SliceLocation
FrameLaterality PixelSpacing Rows Columns BurnedInAnnotation RecognizableVisualFeatures
LossyImageCompression LossyImageCompressionRatio LossyImageCompressionMethod MagneticFieldStrength
""")
# And these, in multi-frame objects.
FRAMED = _names("""
PixelPresentation VolumetricProperties VolumeBasedCalculationTechnique ComplexImageComponent ResonantNucleus
DimensionOrganizationSequence DimensionIndexSequence DimensionOrganizationType
""")
# May be empty, but not absent (type 2).
EMPTY = _names("""
PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime StudyID AccessionNumber ReferringPhysicianName
PositionReferenceIndicator
""")
# Functional groups that say where a frame lies, not how it was taken.
FRAME_GROUPS = _names("""
FrameContentSequence PlanePositionSequence PlaneOrientationSequence PixelMeasuresSequence FrameAnatomySequence
""")
MAKERS = ("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions")


def new_uid() -> str:
    """A UID that nobody else has, from a random UUID (PS3.5, B.2)."""
    return generate_uid(prefix=None)


@dataclass(frozen=True)
class Making:
    """What all files of one written series share."""

    modality: str
    shows: str  # the target domain's name, "" if unknown
    series: str = field(default_factory=new_uid)
    study: str = field(default_factory=new_uid)  # used where the source has none
    frame: str = field(default_factory=new_uid)
    when: datetime = field(default_factory=datetime.now)


def derived(source: Dataset, making: Making, enhanced: bool = False) -> Dataset:
    """A header for an image derived from `source`, complete but for its pixels and their scale.

    `enhanced`: of the source's own class, with all its frames; else MR and CT become classic slices.
    """
    modality, strict = making.modality, making.modality in CLASSES
    dataset = Dataset()
    for tag in list(source.keys()):
        element = _writable(source, tag)
        if element is not None and (tag.group in GROUPS or element.keyword in (KEPT + FRAMED * enhanced)):
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
    elif strict:  # PS3.3, C.8.3.1 and C.8.2.1, of an image that nobody acquired
        if modality == "MR":
            dataset.ScanningSequence, dataset.SequenceVariant = "RM", "NONE"  # research mode
        for keyword in {
            "MR": ("ScanOptions", "MRAcquisitionType", "RepetitionTime", "EchoTime", "EchoTrainLength"),
            "CT": ("KVP", "AcquisitionNumber"),
        }[modality]:
            dataset.setdefault(keyword, None)
        dataset.setdefault("SliceThickness", None)
        dataset.setdefault("PatientPosition", "")
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def frame_groups(source: Dataset, dataset: Dataset, chosen: list[int]) -> None:
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
        setattr(shared, group, Sequence([_item(dataset, keywords)]))
        for keyword in keywords:
            del dataset[keyword]
    if kind := FRAME_TYPES.get(source.get("SOPClassUID")):
        item = _item(dataset, ("PixelPresentation", "VolumetricProperties", "VolumeBasedCalculationTechnique",
                               "ComplexImageComponent", "AcquisitionContrast"))  # fmt: skip
        item.FrameType = dataset.ImageType
        setattr(shared, kind, Sequence([item]))
    shared.DerivationImageSequence = Sequence([_item(dataset, ("DerivationDescription", "SourceImageSequence"))])
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = source.PerFrameFunctionalGroupsSequence
    dataset.PerFrameFunctionalGroupsSequence = Sequence([_item(frames[number], FRAME_GROUPS) for number in chosen])


def _describe(dataset: Dataset, source: Dataset, making: Making) -> None:
    """What it is, what made it, when, and from what."""
    number = int(source.get("SeriesNumber") or 0)
    words = source.get("SeriesDescription") or source.get("ProtocolName") or ""
    origin = f"series {number}" + f" ({words})" * bool(words)
    shown = re.sub(r"\s+", " ", making.shows).strip()
    version = __version__
    dataset.SeriesNumber = number + 1000
    dataset.SeriesDescription = f"synthetic {shown[:40]} {MARK}".replace("  ", " ")
    text = f"Synthetic {f'{shown} image'.strip()} made by gantk {version} with a neural network from {origin}; "
    dataset.DerivationDescription = f"{text}not acquired."[:1024]
    if not dataset.DerivationDescription.isascii():
        dataset.decode()
        dataset.SpecificCharacterSet = "ISO_IR 192"
    if source.get("SOPInstanceUID"):
        item = Dataset()
        item.ReferencedSOPClassUID = source.get("SOPClassUID") or MRImageStorage
        item.ReferencedSOPInstanceUID = source.SOPInstanceUID
        item.PurposeOfReferenceCodeSequence = _coded(codes.cid7202.SourceImageForImageProcessingOperation)
        dataset.SourceImageSequence = Sequence([item])
    if source.get("Manufacturer"):
        maker = _item(source, [keyword for keyword in MAKERS if source.get(keyword)])
        maker.PurposeOfReferenceCodeSequence = _coded(codes.cid7005.AcquisitionEquipment)
        dataset.ContributingEquipmentSequence = Sequence([maker])
    dataset.Manufacturer = dataset.ManufacturerModelName = "gantk"
    dataset.SoftwareVersions = version
    for part in ("InstanceCreation", "Series", "Content"):
        setattr(dataset, part + "Date", making.when.strftime("%Y%m%d"))
        setattr(dataset, part + "Time", making.when.strftime("%H%M%S"))


def _item(source: Dataset, keywords) -> Dataset:
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


def _coded(code: Code) -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return Sequence([item])
