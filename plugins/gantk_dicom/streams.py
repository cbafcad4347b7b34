"""The bytes of DICOM files, bounded: how much is read, inflated and decoded is known before it is."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, RLELossless

from gantk.formats.voxels import CHUNK

MOST_READS = 1_000_000  # of one header: an element takes two
MOST_ITEMS, MOST_TEXT = 2**25, 2**22  # bytes of a sequence, and of what is neither one nor binary
MOST_INFLATED = 64 * 2**20  # bytes of a deflated header
MOST_FRAMES = 65_536  # of one file
START = 2**17  # bytes in which a compressed picture states its size
SIZES = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})  # markers of JPEG and JPEG-LS that precede a size


class Broken(ValueError):
    """What is wrong with a file, in words of our own: without any text of the file."""


class Bounded(io.BufferedReader):
    """A file of which no more is asked for than it has, however long an element is said to be.

    `reads` is after how many a header that does not end is given up.
    """

    name = ""  # which pydicom asks for

    def __init__(self, raw: BinaryIO, reads: float = float("inf")):
        super().__init__(raw)
        self.size, self.reads = self.seek(0, io.SEEK_END), reads
        self.seek(0)

    def read(self, size: int | None = -1) -> bytes:
        """At most `size` bytes; None or -1: the rest."""
        self.reads -= 1
        if self.reads < 0:
            raise Broken(f"its header has more than {MOST_READS // 2} elements")
        if size is None or not 0 <= size <= io.DEFAULT_BUFFER_SIZE:
            rest = max(0, self.size - self.tell())
            size = rest if size is None or size < 0 else min(size, rest)
        return super().read(size)


@contextmanager
def header_of(path: Path) -> Iterator[tuple[Bounded, FileMetaDataset | None]]:
    """A file to parse a header from; of a deflated one what it inflates to, and the elements before that."""
    with io.FileIO(path) as raw:
        meta = _deflated(raw)
        raw = inflated(raw, MOST_INFLATED) if meta is not None else raw
        yield Bounded(raw, MOST_READS), meta


@contextmanager
def whole(path: Path, dataset: Dataset) -> Iterator[Bounded]:
    """A file with its pixels; of a deflated one what it inflates to, up to the pixels that its header declares."""
    with io.FileIO(path) as raw:
        deflated = _deflated(raw) is not None
        yield Bounded(inflated(raw, dataset.begins + declared(dataset) + 2**16) if deflated else raw)


def inflated(file: BinaryIO, most: int) -> io.BytesIO:
    """At most so many bytes of what a file inflates to from where it is: a few bytes may stand for any number."""
    found, inflate = io.BytesIO(), zlib.decompressobj(-zlib.MAX_WBITS)
    while found.tell() < most and not inflate.eof and (packed := file.read(CHUNK)):
        found.write(inflate.decompress(packed, most - found.tell()))
    found.seek(0)
    return found


def expect_short(dataset: Dataset) -> None:
    """Broken where parsing an element of a header would take long: elements are parsed when they are looked at."""
    for element in dataset.values():
        kind = (element.VR or "UN") if isinstance(element, RawDataElement) else "OB"
        if kind[0] != "O" and len(element.value or b"") > (MOST_ITEMS if kind in ("SQ", "UN") else MOST_TEXT):
            raise Broken(f"its element {element.tag} has {len(element.value)} bytes")


def declared(dataset: Dataset) -> int:
    """Bytes of the pixels that a header declares, before they are compressed."""
    count = int(dataset.get("NumberOfFrames") or 1) * int(dataset.Rows) * int(dataset.Columns)
    count *= int(dataset.get("SamplesPerPixel") or 1)
    count = count * 2 // 3 if dataset.get("PhotometricInterpretation") == "YBR_FULL_422" else count
    return (count * int(dataset.get("BitsAllocated") or 16) + 7) // 8


def places_of_frames(file: Bounded, dataset: Dataset) -> tuple[list[int], list[int]] | None:
    """Where each compressed frame lies behind the table of offsets, and its length; None where frames are in pieces.

    Broken where one states another size than the header, hence more memory than was asked for, or is far too long.
    """
    frames, size = int(dataset.get("NumberOfFrames") or 1), (int(dataset.Rows), int(dataset.Columns))
    rle = UID(dataset.file_meta.TransferSyntaxUID) == RLELossless
    most, places, lengths = 4 * declared(dataset) // frames + START, [], []
    file.seek(dataset.begins + 12)
    table = _item(file)
    file.seek(table or 0, io.SEEK_CUR)
    base = file.tell()
    while (length := _item(file)) is not None:
        start = file.tell()
        stated = None if rle else stated_size(file.read(min(length, START)))
        if stated != size and not rle and (stated or not places):
            raise Broken(f"its pixels are {stated or 'of no size'}, and its header says {size}")
        places.append(start - 8 - base)
        lengths.append(length)
        if length > most or len(places) > 16 * frames + 4096:
            raise Broken(f"it holds far more than the {size[0]} x {size[1]} pixels that its header says")
        file.seek(start + length)
    file.seek(0)
    if not table and len(places) * frames > 10**7 and len(places) != frames:
        raise Broken(f"its {frames} frames are in {len(places)} pieces, and no table says in which")
    return (places, lengths) if len(places) == frames else None


def stated_size(start: bytes) -> tuple[int, int] | None:
    """Rows and columns that a picture in JPEG, JPEG-LS or JPEG 2000 begins with; None where it states none."""
    if found := re.search(rb"\xff\x4f\xff\x51.{20}", start, re.DOTALL):
        right, bottom, left, top = struct.unpack(">4I", found[0][8:])
        return bottom - top, right - left
    at = 2 if start[:2] == b"\xff\xd8" else len(start)
    while at + 9 <= len(start) and start[at] == 0xFF:
        if start[at + 1] in SIZES:
            return struct.unpack(">HH", start[at + 5 : at + 9])
        at += 1 if start[at + 1] == 0xFF else 2 + int.from_bytes(start[at + 2 : at + 4])
    return None


def _item(file: Bounded) -> int | None:
    """The length of the item that begins here, None where none does."""
    head = file.read(8)
    return struct.unpack("<I", head[4:])[0] if len(head) == 8 and head[:4] == b"\xfe\xff\x00\xe0" else None


def _deflated(raw: io.FileIO) -> FileMetaDataset | None:
    """The first elements of a deflated file, which is then at what is deflated; None of others, at their start."""
    start = raw.read(4096)
    if start[128:132] == b"DICM" and DeflatedExplicitVRLittleEndian.encode() in start:
        file = io.BytesIO(start)
        file.seek(132)
        meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            raw.seek(file.tell())
            return FileMetaDataset(meta)
    raw.seek(0)
    return None
