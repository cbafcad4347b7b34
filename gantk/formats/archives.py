"""Unpacks archives of public data sets: verifies all checksums, bounds the size, and refuses names
that are not valid on every system.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import stat
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Self

from gantk.files import make_folder

PIECE_BYTES = 2**20  # bytes
MAX_COMPRESSION = 200  # largest ratio of unpacked to packed size; that of images is 2 to 10
MAX_MEMBERS = 1_000_000
ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
# Names that Windows or macOS do not allow or treat as another name, and invalid characters.
UNREADABLE = re.compile(
    r'[<>:"|?*\\\0-\x1f\x7f-\x9f\ud800-\udfff]|[ .]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.I
)
# first two bytes -> reader
OPENERS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZ": bz2.open,
    b"\xfd7": lzma.open,
}


class Refused(ValueError):
    """Raised for an archive that may not be unpacked; its text says why."""


def unpack(archive: Path, folder: Path, ratio: float = MAX_COMPRESSION) -> None:
    """Unpack the regular files and folders of a zip or tar archive into a folder.

    Args:
        archive: the archive.
        folder: the folder to write to.
        ratio: the largest ratio of unpacked to packed size.

    Raises:
        Refused: the archive contains links or devices, its content is more than `ratio` times its
            size, or a name is not valid or occurs twice on some system.

    A damaged archive or a wrong checksum raises the error of zipfile, tarfile or gzip.
    """
    room = int(ratio * archive.stat().st_size) + PIECE_BYTES
    names: dict[str, str] = {}
    members = _of_zip(archive) if zipfile.is_zipfile(archive) else _of_tar(archive, room)
    for number, (name, size, source) in enumerate(members):
        place = folder / _safe_path(name, names, source is None)
        room = room - size
        if room < 0 or number >= MAX_MEMBERS:
            raise Refused(
                f"its content is more than {ratio} times its size, or has more than"
                f" {MAX_MEMBERS} members"
            )

        make_folder(place if source is None else place.parent)
        if source is not None:
            with open(place, "xb") as file:
                while piece := source.read(min(PIECE_BYTES, size + 1)):
                    size -= len(piece)
                    file.write(piece)
            if size:
                raise Refused(f"the size of '{name}' is not the declared one")


def expect_sound(path: Path) -> None:
    """Read a gzipped file to the checksum at its end; raises zlib's or gzip's error where it is
    damaged.
    """
    room = 2 * 1032 * path.stat().st_size + PIECE_BYTES
    with gzip.open(path) as file:
        while room > 0 and (piece := file.read(PIECE_BYTES)):
            room -= len(piece)


def _safe_path(name: str, known: dict[str, str], folder: bool) -> str:
    """Check a member's name and return it as a relative path; Refused where it is invalid or taken
    on some system.
    """
    parts = [part for part in name.removesuffix("/").split("/") if part != "."]
    wrong = (
        part in ("", "..") or UNREADABLE.search(part) or len(part.encode()) > 255 for part in parts
    )
    if any(wrong) or len(name) > 1000:
        raise Refused(f"it contains a name that some systems do not allow: '{name[:100]}'")

    for depth in range(1, len(parts) + 1):
        path = "/".join(parts[:depth])
        is_folder = folder or depth < len(parts)
        kind = f"{path}/" if is_folder else path
        alike = unicodedata.normalize("NFC", path).casefold()
        if known.get(alike, kind) != kind or (alike in known and kind == path):
            raise Refused(
                f"some systems cannot distinguish two of its names: '{known[alike][:100]}' and"
                f" '{name[:100]}'"
            )
        known[alike] = kind

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


def _of_tar(archive: Path, room: int) -> Iterator[tuple[str, int, IO[bytes] | None]]:
    """As `_of_zip`, for a tar archive, compressed or not; reads a compressed one to the checksum at
    its end.
    """
    with archive.open("rb") as start:
        opener = OPENERS.get(start.read(2), open)

    with (
        opener(archive, "rb") as stream,
        tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header) as opened,
    ):
        for member in opened:
            if not (member.isdir() or member.isreg()) or member.issparse():
                raise Refused(f"'{member.name[:100]}' is neither a file nor a folder")
            yield member.name, 0 if member.isdir() else member.size, opened.extractfile(member)
        while room > 0 and (piece := stream.read(PIECE_BYTES)):
            room -= len(piece)
