"""Unpacks archives of public data sets: verifies all checksums, bounds the size, and refuses names
that are not valid on every system.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import math
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Self, cast

from gantk.files import make_folder
from gantk.formats.budget import MAX_COMPRESSION, reading, spend

PIECE_BYTES = 2**20  # bytes
MEMBER_BYTES = 4096  # that a file or a folder takes on a disk, whatever its content
MAX_DEPTH = 50  # folders in a name
MAX_HEADER_BYTES = 2**16  # bytes of all headers before the content of one member of a tar
MAX_SHARED_ENTRIES = 100  # entries of headers that hold for all members of a tar
# names that Windows or macOS do not allow or treat as another name
UNREADABLE = re.compile(r'[<>:"|?*\\]|[ .]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.I)
# first two bytes -> reader
OPENERS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZ": bz2.open,
    b"\xfd7": lzma.open,
}


class Refused(ValueError):
    """Raised for an archive that may not be unpacked; its text says why."""


def unpack(
    archive: Path, folder: Path, compression: float = MAX_COMPRESSION, most: float = math.inf
) -> None:
    """Unpack the regular files and folders of a zip or tar archive into a folder.

    Args:
        archive: the archive.
        folder: the folder to write to.
        compression: the largest ratio of unpacked to packed size.
        most: the most bytes that are unpacked.

    Raises:
        OverBudget: it unpacks to more than it may.
        Refused: the archive contains links or devices, or a name is not valid on some system.

    A name that occurs twice, also by its case where the file system ignores it, raises
    FileExistsError; a damaged archive or a wrong checksum the error of zipfile, tarfile or gzip.
    """
    names = _Names()
    members = _of_zip(archive) if zipfile.is_zipfile(archive) else _of_tar(archive)
    with reading(archive, compression=compression, most=most):
        for name, size, source in members:
            place = folder / names.add(name, source is None)
            spend(unpacked=size)
            make_folder(place if source is None else place.parent)
            if source is not None:
                _write(place, size, source)


def _write(place: Path, size: int, source: IO[bytes]) -> None:
    """Write a new file; Refused where it has not the declared size."""
    with open(place, "xb") as file:
        while piece := source.read(min(PIECE_BYTES, size + 1)):
            spend()
            size -= len(piece)
            file.write(piece)
    if size:
        raise Refused(f"the size of '{place.name}' is not the declared one")


class _Names:
    """The names of an archive's members as relative paths, each valid on every system.

    Folders that only the names of files contain are paid for too, since each is created.
    """

    def __init__(self) -> None:
        self._known: set[str] = set()  # files and folders

    def add(self, name: str, folder: bool) -> str:
        """Check a member's name and return its path; Refused where it is invalid."""
        parts = [part for part in name.removesuffix("/").split("/") if part != "."]
        wrong = (
            part in ("", "..")
            or not part.isprintable()  # control characters, marks of direction, lone surrogates
            or UNREADABLE.search(part)
            or len(part.encode()) > 255
            for part in parts
        )
        if any(wrong) or len(name) > 1000 or not (parts or folder):
            raise Refused(f"it contains a name that some systems do not allow: '{name[:100]}'")

        if len(parts) > MAX_DEPTH:
            raise Refused(f"'{name[:100]}' is in more than {MAX_DEPTH} folders")

        folders = {"/".join(parts[:depth]) for depth in range(1, len(parts))} - self._known
        self._known |= folders
        spend(unpacked=MEMBER_BYTES * (1 + len(folders)))
        return "/".join(parts)


def _of_zip(archive: Path) -> Iterator[tuple[str, int, IO[bytes] | None]]:
    """Yield name, size and content (None for a folder) of each member; reading a content to its end
    checks it.
    """
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise Refused(f"'{member.filename[:100]}' is neither a file nor a folder")
            if member.is_dir():
                yield member.orig_filename, 0, None
            else:
                with opened.open(member) as source:
                    yield member.orig_filename, member.file_size, source


class _Header(tarfile.TarInfo):
    """A member of a tar archive; a broken or missing header raises Refused (tarfile takes it for
    the archive's end).
    """

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # missing in the stubs
            raise
        except tarfile.HeaderError as error:
            raise Refused(
                f"it is truncated or damaged after its first {tar.offset} bytes"
            ) from error


class _Limited:
    """A stream that ends with Refused after so many bytes: tarfile reads all headers before a member
    into memory, whatever size they state. Headers are paid for here, contents where they are written.
    """

    def __init__(self, stream: IO[bytes]):
        self.left = MAX_HEADER_BYTES  # bytes until the next header or content is allowed
        self.is_header = True
        self._stream = stream
        self.tell = stream.tell
        self.seek = stream.seek
        self.seekable = stream.seekable

    def read(self, size: int) -> bytes:
        if size > self.left:
            raise Refused(
                f"a header after its first {self.tell()} bytes has more than {MAX_HEADER_BYTES:,}"
                " bytes"
            )

        self.left -= size
        spend(unpacked=size if self.is_header else 0)
        return self._stream.read(size)


def _of_tar(archive: Path) -> Iterator[tuple[str, int, IO[bytes] | None]]:
    """As `_of_zip`, for a tar archive, compressed or not; reads a compressed one to the checksum at
    its end.
    """
    with archive.open("rb") as start:
        opener = OPENERS.get(start.read(2), open)

    with opener(archive, "rb") as stream:
        limited = _Limited(stream)
        with tarfile.open(fileobj=cast("IO[bytes]", limited), mode="r:", tarinfo=_Header) as opened:
            while (member := opened.next()) is not None:
                opened.members.clear()  # type: ignore[attr-defined]  # tarfile would keep all
                if not (member.isdir() or member.isreg()) or member.issparse():
                    raise Refused(f"'{member.name[:100]}' is neither a file nor a folder")
                if len(opened.pax_headers) > MAX_SHARED_ENTRIES:
                    raise Refused(f"its headers share more than {MAX_SHARED_ENTRIES} entries")

                limited.left = member.size
                limited.is_header = False
                yield member.name, 0 if member.isdir() else member.size, opened.extractfile(member)
                limited.left = MAX_HEADER_BYTES
                limited.is_header = True

        while piece := stream.read(PIECE_BYTES):
            spend(unpacked=len(piece))
