"""Reads the bytes of DICOM files with limits on how much is read, inflated and decoded, against
damaged files.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import BinaryIO

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, RLELossless

from gantk.formats.budget import (
    CHUNK_BYTES,
    FREE_BYTES,
    PARSING_SECONDS_PER_MIB,
    Broken,
    pay_for_scans,
    spend,
)

READS_PER_LOOK = 256  # read calls after which the time is looked at: an element takes two
PIECE_SECONDS = 1e-6  # of looking for one frame among the pieces of a file
PICTURE_START_BYTES = 2**17  # leading bytes of a compressed picture that must state its size
# markers of JPEG and JPEG-LS that precede a size
SIZES = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})


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


@contextmanager
def header_of(path: Path) -> Iterator[tuple[Bounded, FileMetaDataset | None]]:
    """Open a file to parse its header; yields (reader, None), or for a deflated file (inflated
    reader, file meta).
    """
    with io.FileIO(path) as raw:
        meta = _deflated_meta(raw)
        yield Bounded(raw if meta is None else inflate_file(raw, FREE_BYTES)), meta


@contextmanager
def whole(path: Path, dataset: Dataset) -> Iterator[Bounded]:
    """Open a file with its pixels; a deflated one is inflated, at most to the size that its header
    declares.
    """
    with io.FileIO(path) as raw:
        deflated = _deflated_meta(raw) is not None
        yield Bounded(
            inflate_file(raw, dataset.begins + declared_bytes(dataset) + 2**16) if deflated else raw
        )


def inflate_file(file: BinaryIO, most: int) -> io.BytesIO:
    """Inflate a file from its current position, at most `most` bytes: a few bytes can expand to any
    number.
    """
    found = io.BytesIO()
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    while found.tell() < most and not inflate.eof and (packed := file.read(CHUNK_BYTES)):
        piece = inflate.decompress(packed, most - found.tell())
        found.write(piece)
        spend(unpacked=len(piece))

    found.seek(0)
    return found


def pay_for_parsing(dataset: Dataset) -> None:
    """Pay for the elements that are parsed at first access."""
    for element in dataset.values():
        kind = (element.VR or "UN") if isinstance(element, RawDataElement) else "OB"
        if kind[0] != "O":
            spend(seconds=len(element.value or b"") / 2**20 * PARSING_SECONDS_PER_MIB)


def declared_bytes(dataset: Dataset) -> int:
    """The uncompressed size in bytes of the pixels that a header declares."""
    count = int(dataset.get("NumberOfFrames") or 1) * int(dataset.Rows) * int(dataset.Columns)
    count *= int(dataset.get("SamplesPerPixel") or 1)
    count = count * 2 // 3 if dataset.get("PhotometricInterpretation") == "YBR_FULL_422" else count
    return (count * int(dataset.get("BitsAllocated") or 16) + 7) // 8


def places_of_frames(file: Bounded, dataset: Dataset) -> tuple[list[int], list[int]] | None:
    """Offsets after the offset table and lengths of the compressed frames; None where a frame has
    several fragments.

    Broken where a frame is far too long, or states another size than the header: memory was checked
    for the latter.
    """
    frames = int(dataset.get("NumberOfFrames") or 1)
    size = (int(dataset.Rows), int(dataset.Columns))
    rle = UID(dataset.file_meta.TransferSyntaxUID) == RLELossless
    max_length = 4 * declared_bytes(dataset) // frames + PICTURE_START_BYTES
    offsets = []
    lengths = []
    file.seek(dataset.begins + 12)
    table = _item(file)
    file.seek(table or 0, io.SEEK_CUR)
    base = file.tell()
    while (length := _item(file)) is not None:
        start = file.tell()
        if not rle:
            first = not offsets
            content = file.read(length)
            _expect_size(content[:PICTURE_START_BYTES], size, first)
            pay_for_scans(content, prod(size))

        offsets.append(start - 8 - base)
        lengths.append(length)
        if length > max_length or len(offsets) > 16 * frames + 4096:
            raise Broken(
                f"it has far more pixels than the {size[0]} x {size[1]} that its header states"
            )

        file.seek(start + length)

    file.seek(0)
    pieces = len(offsets)
    if pieces == frames:
        return offsets, lengths
    if not table:
        spend(seconds=PIECE_SECONDS * pieces * frames)
    return None


def _expect_size(start: bytes, size: tuple[int, int], first: bool) -> None:
    """Broken where a fragment states another size than the header, or the first one states none."""
    stated = stated_size(start)
    if stated is None and not first:  # a later fragment of a frame
        return
    if stated != size:
        raise Broken(f"its pixel data state {stated or 'no size'}, but its header says {size}")


def stated_size(start: bytes) -> tuple[int, int] | None:
    """Rows and columns stated in the first bytes of a JPEG, JPEG-LS or JPEG 2000 picture; None
    where there are none.
    """
    found = re.search(rb"\xff\x4f\xff\x51.{20}", start, re.DOTALL)
    if found:  # JPEG 2000
        right, bottom, left, top = struct.unpack(">4I", found[0][8:])
        return bottom - top, right - left
    if start[:2] != b"\xff\xd8":
        return None

    at = 2
    while at + 9 <= len(start) and start[at] == 0xFF:
        marker = start[at + 1]
        if marker in SIZES:
            return struct.unpack(">HH", start[at + 5 : at + 9])
        if marker == 0xFF:  # a fill byte
            at += 1
        else:
            at += 2 + int.from_bytes(start[at + 2 : at + 4])

    return None


def _item(file: Bounded) -> int | None:
    """Read the header of an item and return the item's length; None where no item begins here."""
    head = file.read(8)
    if len(head) == 8 and head[:4] == b"\xfe\xff\x00\xe0":
        return struct.unpack("<I", head[4:])[0]
    return None


def _deflated_meta(raw: io.FileIO) -> FileMetaDataset | None:
    """File meta elements of a deflated file, positioned at its deflated part; None for others,
    positioned at 0.
    """
    file = Bounded(raw)
    begin = 132 if file.peek(132)[128:132] == b"DICM" else 0  # pydicom reads files without it, too
    file.seek(begin)
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    is_deflated = meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian
    end = file.tell()
    file.detach()  # else it would close the file
    raw.seek(end if is_deflated else 0)
    return FileMetaDataset(meta) if is_deflated else None
