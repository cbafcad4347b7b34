"""Unpacks archives of public data sets: verifies all checksums, bounds the size, and refuses names
that are not valid on every system.
"""

from __future__ import annotations

import math
import re
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Self, cast

from gantk.files import make_folder
from gantk.formats.budget import MAX_COMPRESSION, reading, spend

PIECE_BYTES = 2**20  # bytes
MEMBER_BYTES = 4096  # that a file or a folder takes on a disk, whatever its content
MAX_DEPTH = 50  # folders in a name
# names that Windows or macOS do not allow or treat as another name
UNREADABLE = re.compile(r'[<>:"|?*\\]|[ .]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.I)


class Refused(ValueError):
    """Raised for an archive that may not be unpacked; its text says why."""


def unpack(
    archive: Path, folder: Path, compression: float = MAX_COMPRESSION, most: float = math.inf
) -> None:
    """Unpack the regular files and folders of a zip (.zip) or a tar archive into a folder.

    Args:
        archive: the archive; a tar from a source that is trusted, such as a published checksum.
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
    # `zipfile.is_zipfile` would take a tar that ends with a zip for that zip
    members = _of_zip(archive) if archive.suffix.lower() == ".zip" else _of_tar(archive)
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
    """A member of a tar archive; a broken or missing header is an error (tarfile takes it for the
    archive's end).
    """

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # missing in the stubs
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(
                f"it is truncated or damaged after its first {tar.offset} bytes"
            ) from error


def _of_tar(archive: Path) -> Iterator[tuple[str, int, IO[bytes] | None]]:
    """As `_of_zip`, for a tar archive, compressed or not; reads a compressed one to the checksum at
    its end. Its headers are trusted: tarfile reads each as a whole.
    """
    with tarfile.open(archive, tarinfo=_Header) as opened:
        for member in opened:
            if not (member.isdir() or member.isreg()) or member.issparse():
                raise Refused(f"'{member.name[:100]}' is neither a file nor a folder")
            yield member.name, 0 if member.isdir() else member.size, opened.extractfile(member)
        while piece := cast("IO[bytes]", opened.fileobj).read(PIECE_BYTES):
            spend(unpacked=len(piece))
