"""Writes derived DICOM series of gray slices: patient and geometry of the source, new description
(PS3.3, A.3 and A.4). Frames of one file become slices, too.

Values become 16-bit integers and a slope (PS3.3, C.11.1), value = slope x number. Nothing is
clipped. Whole numbers are stored unchanged. All others are rounded, with an error of at most half a
step: 65,535 steps from 0 to the largest if none is negative, else 32,767 to the largest magnitude; 0
stays exactly 0.

highdicom (0.28) has no MR and CT images: its secondary captures lose position, rescale and source,
its parametric maps are no scans to a viewer, and it refuses a source with PatientSex '0000'.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from copy import deepcopy
from datetime import datetime
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
from pydicom import uid
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.valuerep import format_number_as_ds

from gantk import __version__
from gantk.catalog.contrasts import CONTRASTS, words_of
from gantk.errors import UserError
from gantk.files import whole_folder
from gantk.formats.image import MARK, Image, expect_grid, in_file_order, label_of
from gantk_dicom.files import header, kind_of, readable
from gantk_dicom.format import is_dicom
from gantk_dicom.names import first_number, text_of
from gantk_dicom.read import Headers

NAME = re.compile(r"IMG\d{4,}\.dcm")  # file name of a slice in a folder
WINDOW_PERCENTILES = (0.5, 99.5)  # percentiles of the values for a viewer's initial black and white
WHOLE_NUMBER_TOLERANCE = 1e-3  # tolerance for whole numbers
MAX_COMMENT_CHARACTERS = 10_240  # of an element of type LT
MAX_DESCRIPTION_CHARACTERS = 64  # of an element of type LO
SERIES_NUMBERS = 9_000  # thousands that are added to the source's SeriesNumber
CLASSES = {"MR": uid.MRImageStorage, "CT": uid.CTImageStorage}
# Elements copied from the source, in addition to GROUPS (patient, clinical trial, requests,
# procedure).
GROUPS = (0x0010, 0x0012, 0x0032, 0x0040)
KEPT_KEYWORDS = """
SpecificCharacterSet TimezoneOffsetFromUTC StudyDate StudyTime AcquisitionDate AcquisitionTime
AcquisitionDateTime AccessionNumber ReferringPhysicianName StudyDescription PhysiciansOfRecord
InstitutionName InstitutionalDepartmentName StationName OperatorsName ProcedureCodeSequence
ReferencedStudySequence AdmittingDiagnosesDescription AnatomicRegionSequence
BodyPartExamined SliceThickness SpacingBetweenSlices PatientPosition GantryDetectorTilt
StudyInstanceUID StudyID InstanceNumber AcquisitionNumber PatientOrientation ImagePositionPatient
ImageOrientationPatient Laterality ImageLaterality FrameOfReferenceUID PositionReferenceIndicator
SliceLocation PixelSpacing BurnedInAnnotation RecognizableVisualFeatures
MagneticFieldStrength LossyImageCompression LossyImageCompressionRatio LossyImageCompressionMethod
"""
# Must exist but may be empty (type 2): in all images, and in those of MR and CT (PS3.3, C.8.3.1 and
# C.8.2.1).
EMPTY = """
PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime StudyID AccessionNumber
ReferringPhysicianName PositionReferenceIndicator
"""
SLICE_KEYWORDS = {
    "MR": (
        "ScanOptions MRAcquisitionType RepetitionTime EchoTime EchoTrainLength SliceThickness"
        " PatientPosition"
    ),
    "CT": "KVP AcquisitionNumber SliceThickness PatientPosition",
}

new_uid = partial(uid.generate_uid, prefix=None)  # from a random UUID (PS3.5, B.2)


def write_file(path: Path, image: Image, description: str = "") -> None:
    """Write one .dcm file of one slice; UserError for several."""
    datasets = _derive_datasets(image, description)
    count = image.header.shape[2]
    if count > 1:
        raise UserError(
            f"a series of {count} slices needs one file per slice, but OUTPUT is one file",
            where="OUTPUT",
            remedy="name a folder (a path without .dcm)",
        )
    _save(next(datasets), path)


def write_series(folder: Path, image: Image, description: str = "") -> None:
    """Write a folder with one file per slice, atomically, in place of earlier results and of the
    files of `files_of_others`. Other files in the folder stay. UserError where it is a mount point.
    """
    _replace_series(folder, _derive_datasets(image, description))


def withdraw(folder: Path) -> None:
    """Delete an earlier result from its folder, atomically."""
    _replace_series(folder, ())


def files_of_others(folder: Path) -> list[Path]:
    """The DICOM files of a folder whose description does not say that gantk wrote them."""
    if not folder.is_dir():
        return []
    return [
        file
        for file in sorted(folder.iterdir())
        if file.is_file()
        and is_dicom(file)
        and not text_of(header(file), "SeriesDescription").endswith(MARK)
    ]


def _replace_series(folder: Path, datasets: Iterable[Dataset]) -> None:
    folder = Path(os.path.realpath(folder))
    if os.path.ismount(folder):
        raise UserError(
            f"'{folder}' is the mount point of a disk; a series would replace the folder",
            where="OUTPUT",
            remedy=f"name a folder inside it: {folder / 'series'}",
        )

    with whole_folder(folder) as made:
        if folder.exists():
            shutil.copytree(folder, made, symlinks=True, dirs_exist_ok=True)
        earlier = [file for file in made.iterdir() if NAME.fullmatch(file.name)]
        for file in {*earlier, *files_of_others(made)}:
            file.unlink()
        for number, dataset in enumerate(datasets, start=1):
            _save(dataset, made / f"IMG{number:04d}.dcm")


def modality_of(description: str, source: str) -> str:
    """The modality of a result: CT or MR by the domain's name if the source is one of them, else
    the source's.
    """
    modalities = {CONTRASTS.get(word.lower()) for word in words_of(description)} - {None, "pet"}
    if source not in ("CT", "MR") or not modalities:
        return source
    return "CT" if modalities == {"ct"} else "MR"


def _derive_datasets(image: Image, description: str) -> Iterator[Dataset]:
    """An iterator over the datasets of a derived series, one for each slice, with the source's
    instance numbers if they are unique.
    """
    headers = image.header
    if not isinstance(headers, Headers):
        raise UserError(
            "this image cannot be written as DICOM, because it was not read from DICOM: it lacks"
            " the patient and study",
            where="OUTPUT",
            remedy="write NIfTI (.nii.gz), or read the DICOM files",
        )

    modality = modality_of(description.partition(",")[0], str(headers[0].get("Modality")))
    if image.channels != 1 or image.affine is None or modality not in CLASSES:
        raise UserError(
            "this image cannot be written as a DICOM series",
            where="OUTPUT",
            allowed="gray slices of MR or CT with positions",
            remedy="write PNG or NIfTI: --format png, --format nii.gz",
        )
    affine = np.asarray(image.affine)
    expect_grid(image, headers.shape, affine)
    volume = in_file_order(image.pixels[0], headers.shape, affine).transpose(2, 1, 0)
    sources = [each for each in image.made_of if isinstance(each, Headers)]
    with readable(image.path):
        new = _new_elements(headers[0], modality, description, sources or [headers])
    if image.notes:
        new.ImageComments = ". ".join(image.notes)[:MAX_COMMENT_CHARACTERS]
    some = volume[:: max(1, len(volume) // 64)]
    low, high = map(float, np.percentile(some, WINDOW_PERCENTILES))
    new.WindowCenter = format_number_as_ds((low + high) / 2)
    new.WindowWidth = format_number_as_ds(max(high - low, 1e-3 * max(1.0, abs(high))))
    new.RescaleType = "HU" if new.Modality == "CT" else "US"  # unspecified
    if len(volume) > 1:
        new.SpacingBetweenSlices = format_number_as_ds(np.linalg.norm(affine[:3, 2]))
    new.ImagesInAcquisition = len(volume)  # lets a reader notice missing files
    return _slice_datasets(volume, headers, new, image.path)


def _slice_datasets(
    volume: np.ndarray, headers: Headers, new: Dataset, path: Path
) -> Iterator[Dataset]:
    """Yield a dataset with its values for each slice; UserError, which names the source's `path`,
    for a damaged element of its header, which is parsed only now.
    """
    slope = _slope(volume)
    numbers = {str(each.get("InstanceNumber") or "") for each in headers}
    keep_numbers = len(numbers - {""}) == len(volume)
    for k, (source, plane) in enumerate(zip(headers, volume, strict=True), start=1):
        with readable(path):
            dataset = _header(source, new)
        if not keep_numbers:
            dataset.InstanceNumber = k
        _add_values(dataset, plane, slope, signed=bool(volume.min() < 0))
        yield dataset


# --- values


def _slope(volume: np.ndarray) -> float:
    """The step from one stored number to the next: 1 where all values are whole numbers of 16 bits,
    else that which uses all 16 bits.
    """
    low = float(volume.min())
    high = float(volume.max())
    step = max(high / 32767, -low / 32768) if low < 0 else high / 65535
    fractions = (np.abs(plane - np.rint(plane)).max() for plane in volume)
    if step <= 1 and max(fractions) <= WHOLE_NUMBER_TOLERANCE:
        return 1.0
    return float(format_number_as_ds(step * (1 + 1e-8)))  # DS has 16 characters


def _add_values(dataset: Dataset, values: np.ndarray, slope: float, signed: bool) -> None:
    """Add values (rows, columns) to a dataset as stored numbers with their rescale."""
    numbers = np.rint(values.astype(np.float64) / slope).astype("<i2" if signed else "<u2")
    dataset.set_pixel_data(numbers, "MONOCHROME2", 16, generate_instance_uid=False)
    dataset.RescaleSlope = format_number_as_ds(slope)
    dataset.RescaleIntercept = "0.0"


def _save(dataset: Dataset, path: Path) -> None:
    content = BytesIO()
    try:
        dataset.save_as(content, enforce_file_format=True)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise UserError(
            f"the header of '{path.name}' cannot be written: {kind_of(error)}", remedy="write NIfTI"
        ) from None
    path.write_bytes(content.getbuffer())


# --- headers


def _new_elements(
    source: Dataset, modality: str, description: str, made_of: Sequence[Headers]
) -> Dataset:
    """The elements shared by all files of a derived series: modality, UIDs, description, the series
    that it was made of, date.
    """
    number = int(first_number(source, "SeriesNumber") or 0)
    shown = " ".join(description.split())
    new = Dataset()
    new.Modality = modality
    new.SeriesInstanceUID = new_uid()
    # another one for each series, also of one model and input
    new.SeriesNumber = number + 1000 * (1 + secrets.randbelow(SERIES_NUMBERS))
    new.SyntheticData = "YES"
    new.SeriesDescription = label_of(description, MAX_DESCRIPTION_CHARACTERS)
    image = f"image ({shown})" if shown else "image"
    series = ", ".join(_series_in_words(headers[0]) for headers in made_of)
    text = (
        f"Synthetic {image} generated by gantk {__version__} with a neural network"
        f" from series {series}; not acquired, and not for diagnosis."
    )
    new.DerivationDescription = text[:1024]
    new.ImageType = ["DERIVED", "SECONDARY", "AXIAL" if modality == "CT" else "OTHER"]
    new.StudyInstanceUID = source.get("StudyInstanceUID") or new_uid()
    new.FrameOfReferenceUID = source.get("FrameOfReferenceUID") or new_uid()

    new.Manufacturer = new.ManufacturerModelName = "gantk"
    new.SoftwareVersions = __version__
    for part in ("InstanceCreation", "Series", "Content"):
        now = datetime.now()
        setattr(new, part + "Date", now.strftime("%Y%m%d"))
        setattr(new, part + "Time", now.strftime("%H%M%S"))

    return new


def _series_in_words(source: Dataset) -> str:
    """The number and description of a series: `3 (T1 se)`."""
    number = int(first_number(source, "SeriesNumber") or 0)
    words = text_of(source, "SeriesDescription") or text_of(source, "ProtocolName")
    return f"{number} ({words})" if words else str(number)


def _header(source: Dataset, new: Dataset) -> Dataset:
    """Build the header of an image derived from `source`, with the elements `new`; complete except
    for pixels.
    """
    dataset = _copy_elements(source)
    dataset.update(deepcopy(new))
    dataset.SOPClassUID = CLASSES[new.Modality]
    dataset.SOPInstanceUID = new_uid()
    dataset.setdefault("BurnedInAnnotation", "NO")
    texts = (dataset.DerivationDescription, dataset.get("ImageComments", ""))
    if not "".join(texts).isascii():
        dataset.decode()
        dataset.SpecificCharacterSet = "ISO_IR 192"

    if source.get("SOPInstanceUID"):
        image = Dataset()
        image.ReferencedSOPClassUID = source.get("SOPClassUID") or uid.MRImageStorage
        image.ReferencedSOPInstanceUID = source.SOPInstanceUID
        dataset.SourceImageSequence = [image]
    if new.Modality == "MR":  # acquisition elements of a synthetic image: research mode
        dataset.ScanningSequence = "RM"
        dataset.SequenceVariant = "NONE"
    _set_defaults(dataset, SLICE_KEYWORDS[new.Modality], None)
    return dataset


def _copy_elements(source: Dataset) -> Dataset:
    """The elements of a source that images derived from it keep; required ones are empty if
    lacking.
    """
    keywords = KEPT_KEYWORDS.split()
    dataset = Dataset()
    for tag in list(source.keys()):
        if tag.group in GROUPS or keyword_for_tag(tag) in keywords:
            with suppress(Exception):  # pydicom can raise any exception for a damaged value
                dataset.add(deepcopy(source[tag]))

    dataset.remove_private_tags()  # inside sequences too
    _set_defaults(dataset, EMPTY, "")
    return dataset


def _set_defaults(dataset: Dataset, keywords: str, value: str | None) -> None:
    """Give elements that a dataset lacks a value."""
    for keyword in keywords.split():
        dataset.setdefault(keyword, value)
