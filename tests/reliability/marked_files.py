"""Files with marked identifiers wherever a format has room for text, and damaged copies of them."""

from __future__ import annotations

import random
from itertools import count
from pathlib import Path

import dicom_files as made
import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin

BROKEN = 24  # damaged copies of each file
# of marks, and where each was put
NUMBERS = count(10000)
PLACES = {}


def mark(place: str, digits: bool = False) -> str:
    """A text that is found again: letters and a number, or a number alone."""
    number = next(NUMBERS)
    PLACES[str(number)] = place
    return f"99877{number}" if digits else f"Markzq{number}"


def dicom_tree(root: Path) -> Path:
    for number in range(6):
        name = f"{mark('PatientName')}^{mark('PatientName')}"
        identity = {"PatientName": name, "PatientID": mark("PatientID", digits=number % 2 == 0)}
        study = {
            "StudyInstanceUID": f"1.2.{mark('study UID', True)}",
            "StudyID": mark("StudyID"),
            **identity,
        }
        study |= {"FrameOfReferenceUID": f"1.3.{mark('frame UID', True)}"}
        for place, contrast in enumerate(("T1", "T2")):
            folder = root / f"export{number}" / f"SE{place}"
            words = {
                key: mark(key)
                for key in (
                    "PatientAddress",
                    "OtherPatientIDs",
                    "PatientTelephoneNumbers",
                    "PatientComments",
                    "AccessionNumber",
                    "InstitutionName",
                    "InstitutionAddress",
                    "ReferringPhysicianName",
                    "PerformingPhysicianName",
                    "OperatorsName",
                    "StudyDescription",
                    "StationName",
                    "ImageComments",
                    "RequestingPhysician",
                    "AdditionalPatientHistory",
                    "DeviceSerialNumber",
                    "PatientBirthName",
                )
            }
            uid = f"1.4.{mark('series UID', True)}"
            text = f"{contrast} tse {name.split('^')[0]} {identity['PatientID']}"
            paths = made.series(
                folder,
                made.head(4, 32, 32, seed=10 * number + place),
                SeriesInstanceUID=uid,
                **study,
                **words,
                SeriesDescription=text,
                ProtocolName=text,
                SeriesNumber=place + 1,
            )
            for path in paths:
                hide(path)

    return root


def hide(path: Path) -> None:
    """Private elements at three depths, an overlay, and the file meta group."""
    found = pydicom.dcmread(path)
    inner = pydicom.Dataset()
    middle = pydicom.Dataset()
    for depth, part in enumerate((inner, middle, found)):
        block = part.private_block(0x0009 + 2 * depth, mark("private creator"), create=True)
        block.add_new(1, "LO", mark(f"private element at depth {3 - depth}"))
        block.add_new(2, "UN", mark("private bytes").encode() + b" ")

    middle.RequestedProcedureDescription = mark("sequence")
    middle.ReferencedPatientSequence = [inner]
    inner.PatientID = mark("nested PatientID")
    found.RequestAttributesSequence = [middle]
    (
        found.add_new(0x60000010, "US", 32),
        found.add_new(0x60000011, "US", 32),
        found.add_new(0x60000100, "US", 1),
    )
    found.add_new(0x60003000, "OW", mark("overlay").encode().ljust(128, b"\0"))
    found.add_new(0x60000022, "LO", mark("overlay description"))
    found.file_meta.SourceApplicationEntityTitle = mark("application")
    found.file_meta.PrivateInformationCreatorUID = "1.2.3"
    found.file_meta.PrivateInformation = mark("file meta").encode() + b" "
    found.preamble = mark("preamble").encode().ljust(128, b"\0")
    found.save_as(path)


def nifti_tree(root: Path) -> Path:
    for number in range(6):
        for place, contrast in enumerate(("t1", "t2")):
            kind = (nib.Nifti1Image, nib.Nifti2Image, nib.Nifti1Image)[number % 3]
            image = kind(made.head(16, 32, 32, seed=10 * number + place).T, np.diag([1.0, 1, 2, 1]))
            for field in ("descrip", "aux_file", "db_name", "data_type", "intent_name"):
                if field in image.header.template_dtype.names:
                    image.header[field] = mark(field)[
                        : image.header.template_dtype[field].itemsize
                    ].encode()

            for code in ("comment", "dicom", "afni"):
                if code == "dicom":
                    content = made.dataset(PatientName=mark("dicom extension"))
                else:
                    content = mark(f"{code} extension").encode()

                if code == "dicom":
                    extension = nib.nifti1.Nifti1DicomExtension
                else:
                    extension = nib.nifti1.Nifti1Extension

                image.header.extensions.append(extension(2 if code == "dicom" else code, content))

            path = root / f"p{number}" / f"p{number}_{contrast}.nii{'.gz' * (number % 2)}"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(image, path)

    return root


def itk_files(root: Path) -> list[Path]:
    sitk = pytest.importorskip("SimpleITK")
    root.mkdir(parents=True)
    for name in ("a.nrrd", "b.nhdr", "c.mha", "d.mhd"):
        image = sitk.GetImageFromArray(made.head(16, 32, 32))
        for key in (
            "DICOM_0010_0010",
            "DICOM_PatientName",
            "Comment",
            "Name",
            "content",
            "NRRD_content",
            "Study",
        ):
            image.SetMetaData(key, mark(f"{name}: {key}"))

        sitk.WriteImage(image, str(root / name), name != "b.nhdr")

    return sorted(path for path in root.iterdir() if path.suffix not in (".raw", ".zraw"))


def picture_tree(root: Path) -> Path:
    for number, kind in enumerate(["png", "jpg", "tif"] * 2):
        for place, contrast in enumerate(("T1", "T2")):
            (root / contrast).mkdir(parents=True, exist_ok=True)
            path = root / contrast / f"p{number}.{kind}"
            exif = Image.Exif()
            pixels = made.head(1, 32, 32, seed=10 * number + place)[0]
            picture = Image.fromarray((pixels / 5).astype(np.uint8))
            exif[0x013B] = mark("artist")
            exif[0x010E] = mark("EXIF")
            exif[0x9C9D] = mark("author").encode("utf-16-le")
            exif.get_ifd(0x8769)[0x9286] = mark("user comment").encode()
            if kind == "png":
                text = PngImagePlugin.PngInfo()
                (
                    text.add_text("Patient", mark("tEXt")),
                    text.add_text("Name", mark("zTXt"), zip=True),
                )
                text.add_itxt("Title", mark("iTXt"))
                picture.save(path, pnginfo=text, exif=exif)
            elif kind == "jpg":
                picture.save(path, exif=exif, comment=mark("JPEG comment"), quality=95)
            else:
                tags = TiffImagePlugin.ImageFileDirectory_v2()
                tags[270] = mark("description")
                tags[315] = mark("artist")
                tags[65000] = mark("private tag")
                picture.save(path, tiffinfo=tags, exif=exif)

    return root


def broken(files: list[Path], root: Path) -> Path:
    """Copies of files, each with one byte changed or an end cut off, most of them in the header."""
    rng = random.Random(0)
    root.mkdir(parents=True)
    for number, file in enumerate(files):
        for which in range(BROKEN):
            content = bytearray(file.read_bytes())
            for _ in range(1 if which % 4 else 3):
                content[rng.randrange(min(len(content), 3000) if which % 5 else len(content))] = (
                    rng.randrange(256)
                )
            name = f"{number:02d}-{which:02d}{''.join(file.suffixes[-2:])}"
            (root / name).write_bytes(content[: len(content) // (1 + (which == 3))])

    return root
