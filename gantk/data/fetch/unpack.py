"""Archives of others: unpacked into one folder and nowhere else, and never into more than they may hold."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from gantk.errors import GantkError

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
RATIO = 20  # an archive may hold so many times its own size: images are compressed already
LEAST = 64 * 2**20  # or so many bytes, for small ones
MEMBERS = 1_000_000  # files and folders
PIECE = 2**20  # bytes copied at a time
HEADER = 16 * 2**20  # bytes that a tar header may ask to be read at once

Open = Callable[[], BinaryIO]


class _Unfit(Exception):
    """What an archive holds that no archive of images does."""


def is_archive(path: str | Path) -> bool:
    """Whether the name says that this is an archive that can be unpacked."""
    return str(path).lower().endswith(SUFFIXES)


def unpack(archive: Path, folder: Path, report: Callable[[str], None] = lambda name: None) -> None:
    """Unpack into a folder; GantkError, and half of it there, where the archive is damaged or not to be trusted.

    Only files and folders come out: a link, a device, a name that leads out of the folder (absolute, `..`, a drive) or
    more bytes than 20 times the archive's own are refused. Files get ordinary permissions, whatever the archive says.
    OSError where the disk is full.
    """
    limit = max(LEAST, RATIO * archive.stat().st_size)
    members = _zipped(archive) if archive.name.lower().endswith(".zip") else _tarred(archive, limit)
    total = count = 0
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for name, size, opened in members:
            count, total = count + 1, total + size
            if total > limit or count > MEMBERS:
                raise _Unfit(f"holds more than {limit:,} bytes or {MEMBERS:,} files")
            place = _place(folder, name, opened is None)
            if opened is None:
                place.mkdir(parents=True, exist_ok=True)
            else:
                report(name)
                _copy(opened, place, size)
    except _Unfit as unfit:
        raise GantkError(f"'{archive.name}' {unfit}: it is not to be trusted, and nothing of it is kept.") from None
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise _damaged(archive, error) from None
    except (ValueError, NotImplementedError, RuntimeError) as error:  # what zipfile and tarfile raise of odd headers
        raise _damaged(archive, error) from None


def _zipped(path: Path) -> Iterator[tuple[str, int, Open | None]]:
    """(name, bytes, how to open it; None for a folder) of every member."""
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _Unfit(f"holds '{info.filename}', which is neither a file nor a folder")
            if info.flag_bits & 1:
                raise _Unfit(f"holds '{info.filename}', which is encrypted")
            yield info.filename, info.file_size, None if info.is_dir() else lambda info=info: archive.open(info)


def _tarred(path: Path, limit: int) -> Iterator[tuple[str, int, Open | None]]:
    """The same of a tar. Stricter than tarfile's own filter "data", which lets links inside the folder pass."""
    with _decompressed(path) as stream, tarfile.open(fileobj=_Bounded(stream, limit), mode="r:") as archive:
        for member in archive:
            if member.isdir():
                yield member.name, 0, None
            elif member.isreg() and not member.issparse():
                yield member.name, member.size, lambda member=member: archive.extractfile(member)
            else:
                raise _Unfit(f"holds '{member.name}', which is neither a file nor a folder")


@contextmanager
def _decompressed(path: Path) -> Iterator[BinaryIO]:
    openers = {".gz": gzip.open, ".tgz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    with openers.get(path.suffix.lower(), open)(path, "rb") as stream:
        yield stream


class _Bounded:
    """A stream of which only so many bytes are read, and not too many at once: headers are read whole into memory."""

    def __init__(self, stream: BinaryIO, limit: int):
        self.stream, self.limit = stream, limit + HEADER
        self.tell = stream.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= HEADER:
            raise _Unfit(f"asks for {size:,} bytes in one piece")
        data = self.stream.read(size)
        self._check(self.stream.tell())
        return data

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        self._check(place)
        return self.stream.seek(place, whence)

    def _check(self, place: int) -> None:
        if place > self.limit:
            raise _Unfit(f"holds more than {self.limit:,} bytes")


def _place(folder: Path, name: str, is_folder: bool) -> Path:
    """Where a member goes; _Unfit where its name leads elsewhere."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or re.search(r"[\\\x00-\x1f]|^[A-Za-z]:", name):
        raise _Unfit(f"holds '{name}', a name that leads out of its folder")
    if not path.parts and not is_folder:
        raise _Unfit("holds a file without a name")
    return folder.joinpath(*path.parts)


def _copy(opened: Open, place: Path, size: int) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with opened() as source, open(place, "wb") as target:
        while piece := source.read(PIECE):
            target.write(piece)
        if target.tell() != size:
            raise EOFError(f"'{place.name}' is cut short")


def _damaged(archive: Path, error: Exception) -> GantkError:
    detail = str(error).split("\n")[0][:160] or type(error).__name__
    return GantkError(f"'{archive.name}' is damaged: {detail}.")
