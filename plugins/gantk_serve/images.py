"""The images of a translation, as files: what a series shows, whether its images belong together, and
the UIDs of what is made of it.

The UIDs of derived series are functions of the source images, the model and gantk's version: what is
made again is the same series, and what is made of corrected images is another one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import pydicom
from pydicom.filereader import read_file_meta_info
from pydicom.uid import generate_uid

from gantk import __version__
from gantk.errors import UserError, join_first
from gantk.formats.files import outline, scans, series_format
from gantk.inference.frame import FIT, FITS

MAX_NUMBERS = 6  # instance numbers of a group that a reason names


# ---- whether images belong together


def expect_one_acquisition(folder: Path) -> None:
    """UserError where the images of a series, all files of a folder, are not one volume of one
    patient, or by their header no whole scan; it names instance numbers, and no value of a header.
    """
    files = sorted(folder.iterdir())
    stacks = scans(folder)
    if len(stacks) > 1:
        shown = [_numbers(scan.files) for scan in stacks]
        raise UserError(
            f"the series mixes {len(stacks)} patients or acquisitions: {' against '.join(shown[:4])}",
            remedy="send each as a series of its own",
        )

    for scan in stacks:
        image = outline(scan)
        doubts = [line for line, is_no_scan in image.doubts if is_no_scan]
        # of a single file, which may be chosen among others, no doubt says that others lack
        first = series_format(scan.files[0]).header(scan.files[0])
        stated = int(first.get("ImagesInAcquisition") or 0)
        if len(files) == 1 and stated > 1 and not first.get("NumberOfFrames"):
            doubts.append(
                f"the series lacks {stated - 1} of the {stated} images that its header states"
            )
        if doubts:
            remedy = None if image.header.no_scan else "send all of its images"
            raise UserError(f"{'; '.join(doubts)}: it has {_numbers(files)}", remedy=remedy)


def _numbers(files: Iterable[Path]) -> str:
    """The instance numbers of files, which are their names."""
    numbers = [file.stem.removeprefix("instance ") for file in files]
    known = sorted(numbers, key=lambda text: (len(text), text))
    return f"instances {join_first(known, most=MAX_NUMBERS)}"


def worst_fit(notes: Iterable[str]) -> str:
    """Whether scans of which this was said fit the training data, one of FITS: the worst answer."""
    text = "\n".join(notes)
    said = [fits for fits in FITS if f"{FIT}: {fits} (" in text]
    return said[-1] if said else "not recorded"


# ---- UIDs


def source_digest(folder: Path) -> str:
    """The digest of the source images below a folder: of all their elements, pixels included, but
    not of the group of elements 0002, which says who sent them.
    """
    digests = []
    for file in filter(Path.is_file, folder.rglob("*")):
        content = file.read_bytes()
        # 128 bytes, the letters DICM, the length's own element, and so many bytes
        start = 132 + 12 + read_file_meta_info(file).FileMetaInformationGroupLength
        digests.append(hashlib.sha256(content[start:]).hexdigest())
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()


def translation_key(source: str, model: Mapping[str, str], to: str, label: str) -> str:
    """What the UIDs of a translation depend on: the digest of its source, its model as of
    `Model.identity`, and the settings.
    """
    parts = [source, model["sha256"], to, label, __version__]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def name_results(folder: Path, key: str) -> dict[str, dict[str, Path]]:
    """Give the DICOM files of a translation their UIDs; returns the files of each SeriesInstanceUID
    by their SOPInstanceUIDs.
    """
    series = {}
    for file in sorted(path for path in folder.rglob("*.dcm") if path.is_file()):
        place = file.relative_to(folder)
        dataset = pydicom.dcmread(file)
        dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[key, place.parent.as_posix()])
        dataset.SOPInstanceUID = generate_uid(entropy_srcs=[key, place.as_posix()])
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.save_as(file, enforce_file_format=True)
        series.setdefault(dataset.SeriesInstanceUID, {})[dataset.SOPInstanceUID] = file
    return series
