"""The header of a derived image: who and where as in the source, what and how anew (PS3.3, A.3, A.4, A.36, A.38)."""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.tag import BaseTag
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

CLASSES = {"MR": MRImageStorage, "CT": CTImageStorage}
ENHANCED = {EnhancedMRImageStorage: "MRImageFrameTypeSequence", EnhancedCTImageStorage: "CTImageFrameTypeSequence"}
LOSSY = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000)
MARK = "(gantk)"  # ends the SeriesDescription of everything that is written here


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Patient, trial, procedure and requests stay as they are.
GROUPS = (0x0010, 0x0012, 0x0032, 0x0040)
# So do these, in MR and CT; the rest describes how the source was acquired, shown, or stored.
KEPT = _names("""
SpecificCharacterSet TimezoneOffsetFromUTC StudyDate StudyTime AcquisitionDate AcquisitionTime AcquisitionDateTime
AccessionNumber ReferringPhysicianName StudyDescription PhysiciansOfRecord InstitutionName InstitutionalDepartmentName
StationName OperatorsName ProcedureCodeSequence ReferencedStudySequence AdmittingDiagnosesDescription
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
# What never stays, in any modality.
DROPPED = _names("""
InstanceCreationDate InstanceCreationTime InstanceCreatorUID SeriesDate SeriesTime ContentDate ContentTime
ProtocolName SourceImageSequence DerivationCodeSequence ReferencedPerformedProcedureStepSequence IrradiationEventUID
ImageComments WindowCenter WindowWidth WindowCenterWidthExplanation VOILUTFunction VOILUTSequence ModalityLUTSequence
SmallestImagePixelValue LargestImagePixelValue SmallestPixelValueInSeries LargestPixelValueInSeries PixelPaddingValue
PixelPaddingRangeLimit RescaleSlope RescaleIntercept RescaleType RedPaletteColorLookupTableDescriptor
GreenPaletteColorLookupTableDescriptor BluePaletteColorLookupTableDescriptor RedPaletteColorLookupTableData
GreenPaletteColorLookupTableData BluePaletteColorLookupTableData RealWorldValueMappingSequence PresentationLUTShape
PresentationLUTSequence IconImageSequence DigitalSignaturesSequence MACParametersSequence PlanarConfiguration
SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence
""")
# Functional groups that say where a frame lies, not how it was taken.
FRAME_GROUPS = _names("""
FrameContentSequence PlanePositionSequence PlaneOrientationSequence PixelMeasuresSequence FrameAnatomySequence
""")


@dataclass(frozen=True)
class Making:
    """What all files of one written series share."""

    modality: str
    shows: str  # the target domain's name, "" if unknown
    series: str
    study: str  # used where the source has none
    frame: str
    when: datetime

    @classmethod
    def of(cls, modality: str, shows: str) -> Making:
        """A new series, now."""
        return cls(modality, shows, new_uid(), new_uid(), new_uid(), datetime.now())


def derived(source: Dataset, making: Making, enhanced: bool = False) -> Dataset:
    """A header for an image derived from `source`, complete but for its pixels and their scale.

    `enhanced`: of the source's own class, with all its frames; else MR and CT become classic slices.
    """
    strict = making.modality in CLASSES
    kept = {*KEPT, *(FRAMED if enhanced else ())} if strict else None
    dataset = Dataset()
    for tag in list(source.keys()):
        if _stays(source, tag, kept):
            dataset.add(deepcopy(source[tag]))
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
                    "AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator"):  # fmt: skip
        dataset.setdefault(keyword, "")  # may be empty, not absent
    dataset.SOPClassUID = source.get("SOPClassUID") if enhanced or not strict else CLASSES[making.modality]
    dataset.SOPInstanceUID = new_uid()
    dataset.Modality = making.modality
    dataset.SeriesInstanceUID = making.series
    for keyword, uid in (("StudyInstanceUID", making.study), ("FrameOfReferenceUID", making.frame)):
        if not dataset.get(keyword) and (keyword != "FrameOfReferenceUID" or strict):
            setattr(dataset, keyword, uid)
    kind = list(source.get("ImageType") or [])[2:3]
    third = {"MR": "OTHER", "CT": "AXIAL"}.get(making.modality) or (kind or ["OTHER"])[0]
    dataset.ImageType = ["DERIVED", "SECONDARY", third] + ["NONE"] * enhanced
    dataset.SyntheticData = "YES"
    dataset.setdefault("BurnedInAnnotation", "NO")
    if source.file_meta.TransferSyntaxUID in LOSSY:
        dataset.setdefault("LossyImageCompression", "01")  # once lossy, lossy for ever: PS3.3, C.7.6.1.1.5
    _tell(dataset, source, making)
    if enhanced:
        _enhance(dataset)
    elif strict:
        _acquire(dataset, making.modality)
    dataset.remove_private_tags()  # those within sequences
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def new_uid() -> str:
    """A UID that nobody else has, from a random UUID (PS3.5, B.2)."""
    return generate_uid(prefix=None)


@cache
def _version() -> str:
    try:
        return version("gantk")
    except PackageNotFoundError:  # used without being installed
        return "from source"


def _tell(dataset: Dataset, source: Dataset, making: Making) -> None:
    """What it is, what made it, when, and from what."""
    number = int(source.get("SeriesNumber") or 0)
    words = source.get("SeriesDescription") or source.get("ProtocolName") or ""
    origin = f"series {number}" + f" ({words})" * bool(words)
    shown = re.sub(r"\s+", " ", making.shows).strip()
    kind = f"{shown} image".strip()
    dataset.SeriesNumber = number + 1000
    dataset.SeriesDescription = f"synthetic {shown[:40]} {MARK}".replace("  ", " ")
    dataset.DerivationDescription = (
        f"Synthetic {kind} made by gantk {_version()} with a neural network from {origin}; not acquired."
    )[:1024]
    if not dataset.DerivationDescription.isascii():
        dataset.decode()
        dataset.SpecificCharacterSet = "ISO_IR 192"
    if source.get("SOPInstanceUID"):
        dataset.SourceImageSequence = Sequence([_reference(source)])
    maker = Dataset()
    maker.PurposeOfReferenceCodeSequence = _coded(codes.cid7005.AcquisitionEquipment)
    for keyword in ("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions"):
        if source.get(keyword):
            maker.add(deepcopy(source[keyword]))
    if "Manufacturer" in maker:
        dataset.ContributingEquipmentSequence = Sequence([maker])
    dataset.Manufacturer = dataset.ManufacturerModelName = "gantk"
    dataset.SoftwareVersions = _version()
    dataset.pop("DeviceSerialNumber", None)
    for part in ("InstanceCreation", "Series", "Content"):
        setattr(dataset, part + "Date", making.when.strftime("%Y%m%d"))
        setattr(dataset, part + "Time", making.when.strftime("%H%M%S"))


def _reference(source: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = source.get("SOPClassUID") or MRImageStorage
    item.ReferencedSOPInstanceUID = source.SOPInstanceUID
    item.PurposeOfReferenceCodeSequence = _coded(codes.cid7202.SourceImageForImageProcessingOperation)
    return item


def _acquire(dataset: Dataset, modality: str) -> None:
    """What a classic MR or CT image has to have (PS3.3, C.8.3.1 and C.8.2.1), of an image that nobody acquired."""
    if modality == "MR":
        dataset.ScanningSequence, dataset.SequenceVariant = "RM", "NONE"  # research mode
        for keyword in ("ScanOptions", "MRAcquisitionType", "RepetitionTime", "EchoTime", "EchoTrainLength"):
            setattr(dataset, keyword, None)
    else:
        dataset.KVP = None
        dataset.setdefault("AcquisitionNumber", None)
    dataset.setdefault("SliceThickness", None)
    dataset.setdefault("PatientPosition", "")


def _enhance(dataset: Dataset) -> None:
    """What an enhanced image has to have besides (PS3.3, C.8.13.1 and C.8.16.2)."""
    dataset.ContentQualification = "RESEARCH"
    dataset.PresentationLUTShape = "IDENTITY"
    dataset.setdefault("PixelPresentation", "MONOCHROME")
    dataset.setdefault("VolumetricProperties", "VOLUME")
    dataset.setdefault("VolumeBasedCalculationTechnique", "NONE")
    dataset.setdefault("LossyImageCompression", "00")
    if dataset.Modality == "MR":
        dataset.setdefault("ComplexImageComponent", "MAGNITUDE")
        dataset.AcquisitionContrast = "UNKNOWN"


def frame_groups(source: Dataset, dataset: Dataset, chosen: list[int]) -> None:
    """The functional groups of the frames that are written (PS3.3, C.7.6.16.2): their places, one scale, one window.

    A file without such groups keeps scale and window where they are.
    """
    if "PerFrameFunctionalGroupsSequence" not in source:
        return
    shared = _placed((source.get("SharedFunctionalGroupsSequence") or [Dataset()])[0])
    scale = _moved(dataset, ("RescaleIntercept", "RescaleSlope", "RescaleType"))
    shared.PixelValueTransformationSequence = Sequence([scale])
    shared.FrameVOILUTSequence = Sequence([_moved(dataset, ("WindowCenter", "WindowWidth"))])
    kind = ENHANCED.get(source.get("SOPClassUID"))
    if kind:
        item = Dataset()
        item.FrameType = dataset.ImageType
        for keyword in ("PixelPresentation", "VolumetricProperties", "VolumeBasedCalculationTechnique",
                        "ComplexImageComponent", "AcquisitionContrast"):  # fmt: skip
            if keyword in dataset:
                item.add(deepcopy(dataset[keyword]))
        setattr(shared, kind, Sequence([item]))
    derivation = Dataset()
    derivation.DerivationDescription = dataset.DerivationDescription
    if "SourceImageSequence" in dataset:
        derivation.SourceImageSequence = dataset.SourceImageSequence
    shared.DerivationImageSequence = Sequence([derivation])
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = source.PerFrameFunctionalGroupsSequence
    dataset.PerFrameFunctionalGroupsSequence = Sequence([_placed(frames[number]) for number in chosen])


def _moved(dataset: Dataset, keywords: tuple[str, ...]) -> Dataset:
    item = Dataset()
    for keyword in keywords:
        item.add(dataset[keyword])
        del dataset[keyword]
    return item


def _placed(groups: Dataset) -> Dataset:
    item = Dataset()
    for keyword in FRAME_GROUPS:
        if keyword in groups:
            item.add(deepcopy(groups[keyword]))
    item.remove_private_tags()
    return item


def _stays(source: Dataset, tag: BaseTag, kept: set[str] | None) -> bool:
    """Whether an element is handed on: wanted, and readable and writable too, which not all in real files are."""
    try:
        element = source[tag]
        wanted = element.keyword not in DROPPED if kept is None else tag.group in GROUPS or element.keyword in kept
        if not wanted or tag.is_private or tag.group in (0x0002, 0x0400, 0x7FE0, 0xFFFA, 0xFFFC):
            return False
        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, False
        write_data_element(buffer, element)
        return True
    except Exception:  # pydicom raises whatever a broken value makes it raise
        return False


def _coded(code: Code) -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return Sequence([item])
