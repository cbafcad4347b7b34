"""The header of a DICOM file, read without its pixels: what it is, and whether the file can hold what it declares."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from gantk.errors import UserError
from gantk.formats.files import expect_room
from gantk.formats.voxels import expect_held

# Values that break the rules of their type are common in files of real scanners; what we need of them is checked here.
warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")

DEFLATED = DeflatedExplicitVRLittleEndian.encode()
LARGEST_INFLATED = 2**30  # bytes that a file of that transfer syntax may hold
# Storage classes whose pixels are no scan (PS3.4, B.5), though they have rows and columns.
NO_SCAN = {
    "1.2.840.10008.5.1.4.1.1.30",  # Parametric Map
    "1.2.840.10008.5.1.4.1.1.66.4",  # Segmentation
    "1.2.840.10008.5.1.4.1.1.66.7",  # Label Map Segmentation
    "1.2.840.10008.5.1.4.1.1.77.1.6",  # VL Whole Slide Microscopy Image
    "1.2.840.10008.5.1.4.1.1.481.2",  # RT Dose
}


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Whatever a broken file makes a reader raise becomes one UserError that names the file."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # parsers and codecs each have their own, and raise builtin ones too
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError(
            f"'{path}' cannot be read as DICOM: {reason}", remedy="copy it again, or leave it out"
        ) from error


def header(path: Path, tags: Sequence[str] | None = None) -> Dataset:
    """A file's header without pixels, overlays and private elements, or `tags` of it alone; UserError if unreadable.

    Its `held` is how many bytes follow, those of the pixels.
    """
    with readable(path), path.open("rb") as file:
        _expect_bounded(path)
        marked = file.read(132)[128:] == b"DICM"
        file.seek(0)
        only = None if tags is None else list(tags)
        dataset = dcmread(file, stop_before_pixels=True, force=not marked, specific_tags=only)
        dataset.held = path.stat().st_size - file.tell()
        if not hasattr(dataset, "file_meta"):
            dataset.file_meta = FileMetaDataset()
        if "TransferSyntaxUID" not in dataset.file_meta:
            dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        for tag in [tag for tag in dataset.keys() if tag.is_private or tag.group & 0xFF00 in (0x5000, 0x6000)]:  # noqa: SIM118
            del dataset[tag]
        _drop_broken(dataset)
        uid = str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or "")
        if "Rows" not in dataset and (not uid or UID(uid).name.endswith("Image Storage")):
            raise ValueError("its header is cut short" if uid else "it has none of the elements of a DICOM file")
        return dataset


def no_image(dataset: Dataset) -> str | None:
    """What a file is that holds no image, in words; None where it holds one."""
    uid = UID(str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or ""))
    if uid in NO_SCAN or "Rows" not in dataset or "Columns" not in dataset:
        return uid.name or "a file without rows and columns"
    return None


def frames_of(dataset: Dataset) -> int:
    """How many frames a file declares, 1 for a classic slice."""
    return int(dataset.get("NumberOfFrames") or 1)


def expect_possible(path: Path, dataset: Dataset) -> None:
    """UserError where the declared pixels would not fit into the file, are none, or are beyond what one may read."""
    rows, columns, frames = int(dataset.Rows), int(dataset.Columns), frames_of(dataset)
    samples, bits = int(dataset.get("SamplesPerPixel") or 1), int(dataset.get("BitsAllocated") or 16)
    if min(rows, columns) < 2 or min(frames, samples, bits) < 1:
        shape = f"{frames} x " * (frames != 1) + f"{rows} x {columns}"
        raise UserError(f"'{path}' declares {shape} pixels of {bits} bits", remedy="copy it again, or leave it out")
    expect_room(path, frames * rows * columns * samples)
    needed = (frames * rows * columns * samples * bits + 7) // 8
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    if dataset.get("PhotometricInterpretation") == "YBR_FULL_422":
        needed = needed * 2 // 3
    if not syntax.is_encapsulated or syntax == RLELossless:  # other codecs have no bound that means anything
        packed = syntax in (RLELossless, DeflatedExplicitVRLittleEndian)
        held = path.stat().st_size if packed else dataset.held
        expect_held(path, needed, held, packed)


def _drop_broken(dataset: Dataset) -> None:
    """Elements are parsed when they are first looked at; those that cannot be are as good as absent."""
    for tag in [tag for tag in dataset.keys() if tag.group <= 0x0028]:  # noqa: SIM118
        try:
            dataset[tag]
        except Exception:  # pydicom raises whatever a broken value makes it raise
            del dataset[tag]


def _expect_bounded(path: Path) -> None:
    """A deflated file is inflated whole when it is parsed: one that would grow beyond all reason is refused first."""
    with path.open("rb") as file:
        if DEFLATED not in file.read(1024):
            return
        meta = read_file_meta_info(path)
        if meta.TransferSyntaxUID != DeflatedExplicitVRLittleEndian:
            return
        # PS3.10, 7.1: preamble and mark take 132 bytes, the group's own length another 12.
        file.seek(132 + 12 + int(meta.FileMetaInformationGroupLength))
        inflating, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while part := inflating.unconsumed_tail or file.read(2**16):
            size += len(inflating.decompress(part, 2**20))
            if size > LARGEST_INFLATED:
                raise ValueError(f"it is compressed, and holds more than {LARGEST_INFLATED >> 30} GiB")
