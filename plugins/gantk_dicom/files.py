"""Opens DICOM files by pydicom, within limits of bytes and time.

Files of a compressed transfer syntax are refused by its name: media and networks of hospitals have
uncompressed ones (IHE PDI), and programs that decompress are well kept.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from pydicom import dcmread, uid
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.pixels import iter_pixels

from gantk.errors import reading_file
from gantk.formats.budget import (
    PARSING_SECONDS_PER_MIB,
    Broken,
    expect_held,
    reading,
    spend,
)

# Files of real scanners often hold values that violate their type's rules; the elements used here
# are checked here. Silence pydicom's warnings and logs: they quote values, which may identify
# patients.
warnings.filterwarnings("ignore", module=r"(pydicom|gantk_dicom)(\.|$)")
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)

SYNTAXES = {
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
}
# Storage classes whose pixels are not a scan (PS3.4, B.5): parametric map, segmentations, whole
# slide, dose.
NO_SCAN_CLASSES = {
    f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("30", "66.4", "66.7", "77.1.6", "481.2")
}
GRAY = ("MONOCHROME1", "MONOCHROME2")  # PhotometricInterpretation
MAX_KEPT_HEADERS = 2048  # of files that are listed, described and read; about 60 kB each
READS_PER_LOOK = 256  # read calls after which the time is looked at: an element takes two


class Bounded(io.BufferedReader):
    """A file reader that never allocates more than the file's size, whatever length an element
    states, and looks at the time that is left for the file.
    """

    name = ""  # pydicom reads this attribute

    def __init__(self, raw: BinaryIO):
        super().__init__(raw)
        self.size = self.seek(0, io.SEEK_END)
        self.reads = 0
        self.seek(0)

    def read(self, size: int | None = -1) -> bytes:
        """Read at most `size` bytes; None or -1: the rest."""
        self.reads += 1
        if self.reads % READS_PER_LOOK == 0:
            spend()
        if size is None or not 0 <= size <= io.DEFAULT_BUFFER_SIZE:
            rest = max(0, self.size - self.tell())
            size = rest if size is None or size < 0 else min(size, rest)
        return super().read(size)


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


# --- headers


def header(path: Path) -> Dataset:
    """A file's header, read once while the file does not change; UserError if unreadable.

    `pixels_at` is the byte at which the pixels' element begins, `held` the number of bytes from
    there. Elements are parsed at first access: a damaged one is an error only for code that uses it.
    """
    with readable(path):
        state = path.stat()
    return _read_header(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=MAX_KEPT_HEADERS)
def _read_header(path: Path, changed: int, size: int) -> Dataset:
    """As `header`, for one state of the file."""
    with readable(path), reading(path), io.FileIO(path) as raw:
        file = Bounded(raw)
        _expect_bounded(file)
        dataset = dcmread(file, stop_before_pixels=True, force=True)
        _pay_for_parsing(dataset)
        dataset.pixels_at = file.tell()
        dataset.held = file.size - dataset.pixels_at
        dataset.file_meta.setdefault("TransferSyntaxUID", uid.ImplicitVRLittleEndian)
        of_class = class_of(dataset)
        if "Rows" not in dataset and (not of_class or of_class.name.endswith("Image Storage")):
            raise Broken(
                "its header is truncated" if of_class else "it has no elements of a DICOM file"
            )

        return dataset


def _expect_bounded(file: Bounded) -> None:
    """Broken for a deflated file, which is inflated as a whole, to any size; else the file is at its
    start again.
    """
    file.seek(132 if file.peek(132)[128:132] == b"DICM" else 0)
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    if meta.get("TransferSyntaxUID") == uid.DeflatedExplicitVRLittleEndian:
        raise _unread_syntax(uid.DeflatedExplicitVRLittleEndian)
    file.seek(0)


def _unread_syntax(syntax: uid.UID) -> Broken:
    name = "an unknown one" if syntax.name == syntax else syntax.name
    return Broken(
        f"its transfer syntax is {name}, which gantk does not read: convert it with gdcmconv --raw, or"
        " with dcm2niix"
    )


def _pay_for_parsing(dataset: Dataset) -> None:
    """Pay for the elements that are parsed at first access."""
    for element in dataset.values():
        kind = (element.VR or "UN") if isinstance(element, RawDataElement) else "OB"
        if kind[0] != "O":
            spend(seconds=len(element.value or b"") / 2**20 * PARSING_SECONDS_PER_MIB)


def open_image(path: Path) -> Dataset:
    """Read the header of a file that holds a supported image; UserError for all others."""
    dataset = header(path)
    with readable(path):
        if other := no_image(dataset):
            raise Broken(f"it is {other}, not an image")
        if "MOSAIC" in (dataset.get("ImageType") or ()):
            raise Broken(
                "it is a mosaic, which stores all slices of a volume as tiles of one picture:"
                " convert it with dcm2niix"
            )

        syntax = uid.UID(dataset.file_meta.TransferSyntaxUID)
        if syntax not in SYNTAXES:
            raise _unread_syntax(syntax)
        bits = int(dataset.get("BitsAllocated") or 16)
        frames = frames_of(dataset)
        rows, columns = shape_of(dataset)
        if int(dataset.get("SamplesPerPixel") or 1) != 1 or not is_gray(dataset):
            raise Broken("it is not gray: export pictures in colour as PNG")
        if min(rows, columns) < 2:
            raise Broken(f"it declares {rows} x {columns} pixels")

        spend(values=frames * rows * columns)
        bits_of_all = frames * rows * columns * bits
        expect_held((bits_of_all + 7) // 8, dataset.held)
        return dataset


def no_image(dataset: Dataset) -> str:
    """Describe a file without an image; "" where it holds one."""
    of_class = class_of(dataset)
    if of_class not in NO_SCAN_CLASSES and "Rows" in dataset and "Columns" in dataset:
        return ""
    if of_class.name != of_class:
        return of_class.name
    return "a file of an unknown class" if of_class else "a file without rows and columns"


def class_of(dataset: Dataset) -> uid.UID:
    """The storage class of a file."""
    meta = dataset.file_meta.get("MediaStorageSOPClassUID")
    return uid.UID(str(dataset.get("SOPClassUID") or meta or ""))


def frames_of(dataset: Dataset) -> int:
    """The number of frames that a file declares."""
    return int(dataset.get("NumberOfFrames") or 1)


def shape_of(dataset: Dataset) -> tuple[int, int]:
    """Rows and columns."""
    return int(dataset.Rows), int(dataset.Columns)


def is_gray(dataset: Dataset) -> bool:
    """Whether a file has one channel, and no palette."""
    return (dataset.get("PhotometricInterpretation") or GRAY[0]) in GRAY


# --- stored numbers


def stored_frames(path: Path) -> Iterator[np.ndarray]:
    """Yield the frames of a file as stored, (rows, columns); UserError if damaged."""
    dataset = header(path)
    with readable(path):
        with io.FileIO(path) as raw:
            file = Bounded(raw)
            file.seek(dataset.pixels_at)
            stored = read_dataset(file, *dataset.original_encoding)
        stored.update(dataset[0x280000:0x280120])  # the elements of how pixels are stored
        stored.file_meta = dataset.file_meta
        for frame in iter_pixels(stored):
            spend()
            yield frame
