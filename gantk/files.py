"""Writes files and folders atomically: a reader sees a complete file or none. Reads regular files of
bounded size, and follows no link out of a folder that others may have made. Imports no large package.

Until it is complete, a file has a hidden name, `.NAME.HOST-PID-RANDOM.tmp`, which cannot be
guessed; a link of that name is not followed. The next process that writes to the folder removes
such files of ended processes.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import stat
import sys
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any

from gantk.errors import DENIED_REMEDY, UserError, join_first, one_line, writing_file

HOST = f"{zlib.crc32(platform.node().encode()):08x}"
TEMPORARY = re.compile(r"\.(.*?)(\.was)?\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.tmp", re.DOTALL)
LOST = 86400.0  # seconds after which another machine's unfinished file counts as abandoned
MAX_READ_BYTES = 2**26  # bytes of a file that is read whole: texts, tables, JSON
MAX_TENSORS_BYTES = 2**34  # bytes of a file of tensors, of which only the parts in use are read
ANY_SIZE = sys.maxsize
READ_AT_ONCE = 2**20  # bytes: Python reserves what a read may return
# permissions at most: of what may be shared, and of what shows patients or unblinds a study
SHARED_FILE, SHARED_FOLDER = 0o644, 0o755
PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700
LOCK = ".lock"  # lock file in a folder, which names the process that writes into it
# Extended attribute of each result that gantk wrote: its name, size and modification time. On file
# systems without attributes these are the lines of a hidden file in the folder.
MARK = "user.gantk.written"
WRITTEN = ".gantk-written"
_swept: set[Path] = set()
# folders that this process has locked, with the locking thread
_locked: set[tuple[Path, int]] = set()
_linked: set[str] = set()  # folders whose links are followed wherever they lead


def follow_links(folder: Path) -> Path:
    """Follow links out of this folder from now on, and return it: package managers and the hub's
    cache install models as links.
    """
    _linked.add(os.path.realpath(folder))
    return folder


def expect_inside(folder: Path, path: Path) -> Path:
    """Return the path if it lies in the folder once links are followed; else UserError."""
    root = os.path.realpath(folder)
    real = os.path.realpath(path)
    if root in _linked or real == root or real.startswith(os.path.join(root, "")):
        return path
    raise UserError(
        f"'{path}' is a link that leads out of the folder '{folder}'",
        remedy="put the files themselves in the place of the link",
    )


def place_in(folder: Path, name: str | os.PathLike[str]) -> Path:
    """The path `folder/name`, to be written or removed; UserError where a link on the way to it
    leads out of the folder. `name` itself may be a link: it is replaced, not followed.
    """
    path = folder / name
    expect_inside(folder, path.parent)
    return path


def regular_file(path: Path, folder: Path | None = None, max_bytes: int = MAX_READ_BYTES) -> Path:
    """Return the path if it may be read: a regular file of at most `max_bytes` bytes.

    With `folder`, which others may have made, it must lie in that folder once links are followed.
    OSError where it is missing, UserError where it is a pipe, a device, too large or outside.
    """
    if folder is not None:
        expect_inside(folder, path)

    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
        raise UserError(f"'{path}' is {kind}, not a file", remedy="put a file in its place")
    if status.st_size > max_bytes:
        raise _too_large(path, max_bytes)
    return path


def open_file(
    path: Path, folder: Path | None = None, max_bytes: int = MAX_READ_BYTES
) -> BufferedReader:
    """Open a file that `regular_file` accepts for reading."""
    return open(regular_file(path, folder, max_bytes), "rb")


def read_file(path: Path, folder: Path | None = None, max_bytes: int = MAX_READ_BYTES) -> bytes:
    """The content of a file that `regular_file` accepts."""
    content = BytesIO()
    with open_file(path, folder, max_bytes) as file:
        while part := file.read(READ_AT_ONCE):
            content.write(part)
            if content.tell() > max_bytes:  # files of /proc state no size
                raise _too_large(path, max_bytes)
    return content.getvalue()


def json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; {} where there is none that can be read."""
    with suppress(OSError, ValueError, UserError, RecursionError):
        content = json.loads(read_file(path))
        if isinstance(content, dict):
            return content
    return {}


def _too_large(path: Path, max_bytes: int) -> UserError:
    return UserError(
        f"'{path}' is larger than {max_bytes >> 20} MB, which no such file needs",
        remedy="restore it from the original",
    )


def make_folder(folder: Path, *, private: bool = False, new: bool = False) -> Path:
    """Create a folder and its parents where they are missing, and return it.

    `private`: for this user only, else others may read it, but never write into it, whatever the
    umask. `new`: FileExistsError where it exists.
    """
    if new or not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(PRIVATE_FOLDER if private else SHARED_FOLDER, exist_ok=not new)
    return folder


def restrict(path: Path, *, private: bool = False) -> None:
    """Take from others the right to change a file or a folder; `private`: also to read it. Links,
    and files that have another name too, stay as they are.
    """
    status = path.lstat()
    if path.is_symlink() or (status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode)):
        return

    mode = stat.S_IMODE(status.st_mode)
    allowed = mode & (PRIVATE_FOLDER if private else SHARED_FOLDER)
    if allowed != mode:
        path.chmod(allowed)


def remove(path: Path) -> None:
    """Remove a file, a folder with its content, or a link, but not what the link leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def temporary_beside(path: Path, kind: str = "") -> Path:
    """A unique hidden path in the same folder, for an unfinished file, or (kind ".was") for one
    being replaced.
    """
    if (folder := path.parent.absolute()) not in _swept:
        _swept.add(folder)
        sweep(folder)

    tail = f"{kind}.{HOST}-{os.getpid()}-{secrets.token_hex(4)}.tmp"
    name = os.fsencode(path.name)[: 254 - len(tail)].decode("utf-8", "ignore")
    return path.with_name(f".{name}{tail}")


def expect_file(file: str | Path, where: str | None = None, *, overwrite: bool = False) -> str:
    """Return the path of a file to be written; UserError if it is a folder, if its folder does not
    exist, or if `expect_replaceable` refuses it.
    """
    if os.path.isdir(file):
        raise UserError(f"'{file}' is a folder", where=where, remedy="name a file")

    expect_parent(Path(file), where)
    with writing_file(file, where=where):
        expect_replaceable([Path(file)], overwrite, where)
    return str(file)


def expect_parent(path: Path, where: str | None) -> None:
    """UserError where the folder in which a file or folder is to be written does not exist."""
    if not path.absolute().parent.is_dir():
        raise UserError(
            f"the folder '{path.parent}' does not exist", where=where, remedy="create it first"
        )


def expect_replaceable(
    paths: Iterable[Path], overwrite: bool = False, where: str | None = "OUTPUT"
) -> None:
    """UserError where results written to these paths, files or whole folders, would replace what
    gantk did not write, or what was changed since; `overwrite` allows it.

    What gantk wrote has the attribute MARK, which says when it was complete; slices of DICOM say so
    in their fields (see `gantk.formats.image.SeriesFormat.replaced`). Empty files can be replaced.
    UserError too where this user may not write to the folder, or to the one in which it is to be made.
    """
    paths = list(paths)
    for folder in {path.absolute().parent for path in paths if not _is_device(path)}:
        expect_permission(folder, where)
    if overwrite:
        return

    records = {}
    foreign = []
    for path in paths:
        if path.parent not in records:
            records[path.parent] = _record_of(path.parent)
        lines = _lines_of(path, path)
        foreign += [
            file
            for file, line in lines.items()
            if line != _mark_of(file) and line not in records[path.parent]
        ]

    if foreign:
        named = join_first([f"'{file}'" for file in foreign], most=1)
        raise UserError(
            f"gantk would replace what it did not write, or what was changed since: {named}",
            where=where,
            remedy="name another place, or add --overwrite (in Python overwrite=True)",
        )


def expect_permission(folder: Path, where: str | None) -> None:
    """UserError where a folder that exists, or else the nearest one above it, is a file, or this user
    may not write to it.
    """
    whole = folder.absolute()
    place = next(each for each in (whole, *whole.parents) if os.path.exists(each))
    if not os.path.isdir(place):
        raise UserError(
            f"'{place}' is a file, not a folder", where=where, remedy="name another folder"
        )
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(
            f"this user may not write to the folder '{place}'", where=where, remedy=DENIED_REMEDY
        )


def _is_device(path: Path) -> bool:
    """Whether a path is a device or a pipe, which is written to directly."""
    named_device = str(path.absolute().parent) in ("/dev", "/dev/fd")
    return named_device or (os.path.exists(path) and not (path.is_file() or path.is_dir()))


def record_written(path: Path, complete: Path) -> None:
    """Mark a file, or those of a folder, as written by gantk, before `complete` is renamed to its
    path.
    """
    unmarked = []
    for file, line in _lines_of(path, complete).items():
        try:
            os.setxattr(file, MARK, line, follow_symlinks=False)
        except (AttributeError, OSError):  # the system or the file system has no attributes
            unmarked.append(line)

    if unmarked:
        with suppress(PermissionError, UserError):  # what has no mark is not replaced
            append_to_file(path.parent / WRITTEN, b"".join(unmarked))


def _mark_of(file: Path) -> bytes:
    with suppress(AttributeError, OSError):
        return os.getxattr(file, MARK, follow_symlinks=False)
    return b""


def _record_of(folder: Path) -> bytes:
    with suppress(OSError, UserError):
        return read_file(folder / WRITTEN)
    return b""


def _lines_of(path: Path, complete: Path) -> dict[Path, bytes]:
    """The marks of the files and links of a folder, or for a file or link that is not
    empty: [name beside `path`, size in bytes, modification time in ns].
    """
    files = []
    if complete.is_dir() and not complete.is_symlink():
        files = [file for file in complete.rglob("*") if file.is_symlink() or file.is_file()]
    elif complete.is_symlink() or (complete.is_file() and complete.stat().st_size > 0):
        files = [complete]

    lines = {}
    for file in files:
        name = Path(path.name, file.relative_to(complete)).as_posix()
        status = file.lstat()
        lines[file] = f"{json.dumps([name, status.st_size, status.st_mtime_ns])}\n".encode()
    return lines


def expect_name(path: str | Path, where: str) -> Path:
    """A path that ends in a name; UserError for `/`, `.` and `..`, beside which nothing can lie."""
    if Path(path).name in ("", ".."):
        raise UserError(f"'{path}' has no name of its own", where=where, remedy="add a name to it")
    return Path(path)


def write_output(
    path: Path, content: bytes | Iterable[bytes | memoryview], *, private: bool = False
) -> Path:
    """Write a file that the user named, after `expect_replaceable`: like `write_file`, and recorded;
    devices, pipes and /dev/stdout are written to directly.
    """
    if _is_device(path):
        with open(path, "ab") as file:
            file.writelines([content] if isinstance(content, bytes) else content)
        return path

    with writing_file(path):
        return write_file(path, content, private=private, record=True)


def write_file(
    path: Path,
    content: bytes | Iterable[bytes | memoryview],
    *,
    private: bool = False,
    record: bool = False,
    durable: bool = True,
) -> Path:
    """Write a file under a temporary name, sync it and rename it, so that it is always whole;
    returns the path.

    `content` may come in parts; `private`: only this user may read the file; `record`: it is a
    result, see `record_written`; `durable`: it is synced. A link, a pipe or a
    device of that name is replaced, neither followed nor written to.
    """
    content = [content] if isinstance(content, bytes) else content
    mode = PRIVATE_FILE if private else SHARED_FILE
    temporary = temporary_beside(path)
    try:
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.writelines(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        if record:
            record_written(path, temporary)
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            # errors of writes name no file
            error.filename = str(path)
        raise

    return path


def append_to_file(path: Path, content: bytes) -> None:
    """Append to a file in a single write, so that lines of several processes do not mix; UserError
    where it is a link, a pipe or a device.
    """
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        raise UserError(f"'{path}' is a link or a device, not a file", remedy="remove it")
    with open(path, "ab", opener=lambda name, flags: os.open(name, flags, SHARED_FILE)) as file:
        file.write(content)


@contextmanager
def whole_folder(final: Path, *, private: bool = False, record: bool = False) -> Iterator[Path]:
    """Yield a new hidden folder, which replaces `final`, or a link of that name, in one step at the
    end; after an error it is removed. `private`: only this user may enter it; `record`: it is a
    result, see `record_written`.
    """
    folder = make_folder(temporary_beside(final), private=private)
    try:
        yield folder
        # no pipe
        for path in (
            each for each in [*folder.rglob("*"), folder] if each.is_file() or each.is_dir()
        ):
            restrict(path, private=private)
            sync(path)

        if record:
            record_written(final, folder)
        if os.path.lexists(final):
            _exchange(folder, final)
        else:
            os.rename(folder, final)

        sync(final.parent)
    finally:
        with suppress(OSError):
            remove(folder)


def sha256_of(path: Path, folder: Path | None = None) -> str:
    """The SHA-256 of a file that `regular_file` accepts, however large, in hexadecimal digits."""
    with open_file(path, folder, ANY_SIZE) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """fsync a file or a folder (a rename is on the disk only after an fsync of the folder)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove the unfinished files of ended processes from a folder; files they had moved aside are
    moved back.
    """
    with suppress(OSError):
        for path in folder.iterdir():
            match = TEMPORARY.fullmatch(path.name)
            if match and not _in_use(path, match[3], int(match[4])):
                with suppress(OSError):
                    if match[2] and not os.path.lexists(folder / match[1]):
                        path.rename(folder / match[1])
                    else:
                        remove(path)


def _in_use(path: Path, host: str, process: int) -> bool:
    return _is_running(process) if host == HOST else abs(time.time() - path.lstat().st_mtime) < LOST


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, PermissionError, OverflowError) as error:
        return isinstance(error, PermissionError)  # another user's
    return True


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock a folder, so that one thread of one process writes into it; UserError names a process
    that has the lock.

    The system releases the lock when that process ends, however it ends. Without locks in the file
    system, the process named in the file LOCK has it: as long as it runs or, on another machine,
    until LOCK is removed. A folder that cannot be written to (another user's, or on a full disk) is
    not locked.
    """
    lock = None
    key = (folder.resolve(), threading.get_ident())
    try:
        if key not in _locked:
            lock = os.open(
                folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, SHARED_FILE
            )
            if not stat.S_ISREG(os.fstat(lock).st_mode):
                os.close(lock)
                raise OSError(errno.ENXIO, "it is a pipe or a device")
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise UserError(
                f"'{folder / LOCK}' is not a lock file of gantk", remedy="remove it"
            ) from None

    if lock is None:
        yield
        return

    try:
        _lock_file(lock, folder)
        _locked.add(key)
        try:
            yield
        finally:
            _locked.discard(key)
            os.ftruncate(lock, 0)
    finally:
        os.close(lock)


def _lock_file(lock: int, folder: Path) -> None:
    """Lock the open lock file of a folder and write this process into it; UserError where another
    one has the lock.
    """
    free = True
    this_process = {
        "pid": os.getpid(),
        "host": platform.node(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": " ".join(["gantk", *sys.argv[1:]])[:160],
    }
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        free = False
    except OSError:  # a network disk has no locks
        free = not writer_of(folder)

    if free:
        with suppress(OSError):  # on a full disk the lock file stays empty
            os.ftruncate(lock, 0)
            os.pwrite(lock, json.dumps(this_process).encode(), 0)
        return

    for _ in range(20):  # the other process may not have written its name yet
        if holder := writer_of(folder):
            break
        time.sleep(0.05)

    pid, host, since, command = (
        one_line(str(holder.get(key, "?"))) for key in ("pid", "host", "since", "command")
    )
    remedy = (
        "wait for this process, or stop it. Commands that only read work meanwhile (gantk translate,"
        " report, export)"
    )
    if host != this_process["host"]:
        remedy += f". If the process has ended, remove '{folder / LOCK}'"
    raise UserError(
        f"'{folder}' is in use: process {pid} on {host} has been writing to it since {since}"
        f" ({command})",
        remedy=remedy,
    )


def writer_of(folder: Path) -> dict[str, Any]:
    """The process that the lock file of a folder names, if it may still run; else {}."""
    with suppress(ValueError, TypeError, KeyError):
        holder = json_object(folder / LOCK)
        if _is_running(int(holder["pid"])) or holder["host"] != platform.node():
            return holder
    return {}


def _exchange(new: Path, old: Path) -> None:
    """Swap two folders, in one step where the system can; else the old one is moved aside first, and
    `sweep` moves it back after a kill.
    """
    with suppress(OSError, AttributeError):
        here, names = -100, [os.fsencode(each) for each in (new, old)]
        if ctypes.CDLL(None).renameat2(here, names[0], here, names[1], 2) == 0:
            return

    aside = temporary_beside(old, ".was")
    os.rename(old, aside)
    os.rename(new, old)
    os.rename(aside, new)
