"""Archives of public data sets, unpacked: to the last checksum, not beyond a bound, under names for every system."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import stat
import tarfile
import unicodedata
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

PIECE = 2**20  # bytes
TIMES = 200  # what an archive unpacks to, in its own sizes: images pack to a half or a tenth
MEMBERS = 1_000_000
ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
# What Windows and macOS cannot have in a name, or take for another one, and what is no character.
UNREADABLE = re.compile(r'[<>:"|?*\\\0-\x1f\x7f-\x9f\ud800-\udfff]|[ .]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.I)
OPENERS = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}  # by the first bytes


class Refused(ValueError):
    """What is wrong with an archive, in words."""


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip or tar archive into a folder: regular files and folders, and nothing else.

    Refused, zipfile's and tarfile's errors: where it is damaged, where a checksum of it is wrong, where it holds links
    or devices, unpacks to more than `TIMES` its size, or has names that another system cannot read or tell apart.
    """
    room, names = TIMES * archive.stat().st_size + PIECE, {}
    members = _of_zip(archive) if zipfile.is_zipfile(archive) else _of_tar(archive, room)
    for number, (name, size, source) in enumerate(members):
        place, room = folder / _checked(name, names, source is None), room - size
        if room < 0 or number >= MEMBERS:
            raise Refused(f"it unpacks to more than {TIMES} times its size, or {MEMBERS} members")
        (place if source is None else place.parent).mkdir(parents=True, exist_ok=True)
        if source is not None:
            with open(place, "xb") as file:
                while piece := source.read(min(PIECE, size + 1)):
                    size -= len(piece)
                    file.write(piece)
            if size:
                raise Refused(f"'{name}' has another size than is declared")


def expect_sound(path: Path) -> None:
    """Read a gzipped file to its end, where its checksum is; zlib's and gzip's errors where it is damaged."""
    room = 2 * 1032 * path.stat().st_size + PIECE
    with gzip.open(path) as file:
        while room > 0 and (piece := file.read(PIECE)):
            room -= len(piece)


def _checked(name: str, known: dict[str, str], folder: bool) -> str:
    """A member's name as a relative path; Refused where some system has no such name, or has it already."""
    parts = [part for part in name.removesuffix("/").split("/") if part != "."]
    wrong = (part in ("", "..") or UNREADABLE.search(part) or len(part.encode()) > 255 for part in parts)
    if any(wrong) or len(name) > 1000:
        raise Refused(f"a name that not every system can read: '{name[:100]}'")
    for depth in range(1, len(parts) + 1):
        path = "/".join(parts[:depth])
        kind = path + "/" * (folder or depth < len(parts))
        alike = unicodedata.normalize("NFC", path).casefold()
        if known.get(alike, kind) != kind or (alike in known and kind == path):
            raise Refused(f"two names that are one on some systems: '{known[alike][:100]}' and '{name[:100]}'")
        known[alike] = kind
    return "/".join(parts)


def _of_zip(archive: Path) -> Iterator[tuple[str, int, BinaryIO | None]]:
    """Name, size and content of each member, None for a folder's; content ends with a test of its checksum."""
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
    """A member of a tar archive; where the next one's header is broken or missing, the archive does not just end."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> tarfile.TarInfo:
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.HeaderError as error:
            raise Refused(f"it is cut short or damaged behind its first {tar.offset} bytes") from error


def _of_tar(archive: Path, room: int) -> Iterator[tuple[str, int, BinaryIO | None]]:
    """The same of a tar archive, packed or not; at its end what is packed is read to its last checksum."""
    with archive.open("rb") as start:
        opener = OPENERS.get(start.read(2), open)
    with opener(archive, "rb") as stream, tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header) as opened:
        for member in opened:
            if not (member.isdir() or member.isreg()) or member.issparse():
                raise Refused(f"'{member.name[:100]}' is neither a file nor a folder")
            yield member.name, 0 if member.isdir() else member.size, opened.extractfile(member)
        while room > 0 and (piece := stream.read(PIECE)):
            room -= len(piece)
