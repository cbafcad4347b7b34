"""Writing files and folders so that they are there whole or not at all; imports nothing heavy.

What is not complete yet has a hidden name of its own, `.NAME.HOST-PID-RANDOM.tmp`, which nobody can guess and no link
is followed at. Those whose process is gone are removed when another writes to the folder for the first time.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import math
import os
import platform
import re
import secrets
import shutil
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gantk.errors import UserError, printable

HOST = f"{zlib.crc32(platform.node().encode()):08x}"
TEMPORARY = re.compile(r"\.(.*?)(\.was)?\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.tmp", re.DOTALL)
LOST = 86400.0  # seconds after which what a process of another machine left is taken for lost
SPILLED = 2**27  # bytes of an array from which on it is kept on the disk, where there is a folder for it
LOCK = ".lock"  # in a folder that one process at a time writes into: who that is
_swept: set[Path] = set()
_holding: set[tuple[Path, int]] = set()  # folders, and the threads of this process that hold them


def temporary_beside(path: Path, kind: str = "") -> Path:
    """A hidden name in the same folder that nothing else has, for what is not complete yet, or (".was") no more."""
    if (folder := path.parent.absolute()) not in _swept:
        _swept.add(folder)
        sweep(folder)
    tail = f"{kind}.{HOST}-{os.getpid()}-{secrets.token_hex(4)}.tmp"
    name = os.fsencode(path.name)[: 254 - len(tail)].decode("utf-8", "ignore")
    return path.with_name(f".{name}{tail}")


def write_file(path: Path, content: bytes | Iterable[bytes | memoryview]) -> Path:
    """Write under a temporary name, sync to the disk, rename: a reader sees the old file or the new one. The path.

    `content` may come in parts. A link is replaced, not followed; a device or a pipe is written to as it is.
    """
    content = [content] if isinstance(content, bytes) else content
    if path.absolute().is_relative_to("/dev") or path.exists() and not (path.is_file() or path.is_dir()):
        with open(path, "ab") as file:
            file.writelines(content)
        return path
    temporary = temporary_beside(path)
    try:
        with open(temporary, "xb") as file:
            file.writelines(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None  # not the temporary one, and of a write at all
        raise
    return path


def zeros_beside(folder: Path | None, shape: tuple[int, ...]) -> Any:
    """Zeros of float32; large ones in a file of the folder that has no name, so that it is gone with the process.

    OSError where the disk has no room for it; in memory where it cannot keep that free.
    """
    import numpy as np

    if folder is not None and (size := 4 * math.prod(shape)) >= SPILLED and hasattr(os, "posix_fallocate"):
        with tempfile.TemporaryFile(dir=folder) as file:
            try:
                os.posix_fallocate(file.fileno(), 0, size)  # else a disk that fills up would end the process
                return np.memmap(file, np.float32, "w+", shape=shape)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENODEV):
                    raise OSError(error.errno, error.strerror, str(folder)) from None
    return np.zeros(shape, np.float32)


@contextmanager
def whole_folder(final: Path) -> Iterator[Path]:
    """A new hidden folder which takes the place of `final` at the end, all at once; removed where an error ends it."""
    made = temporary_beside(final)
    made.mkdir(parents=True)
    try:
        yield made
        for path in (each for each in [*made.rglob("*"), made] if each.is_file() or each.is_dir()):  # no pipe
            sync(path)
        if final.exists():
            _exchange(made, final)
        else:
            os.rename(made, final)
        sync(final.parent)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal digits, read in pieces; a small one at once, for which these take longer."""
    with open(path, "rb", buffering=0) as file:
        digest = hashlib.sha256(start := file.read(2**16))
        return (digest if len(start) < 2**16 else hashlib.file_digest(file, lambda: digest)).hexdigest()


def sync(path: Path) -> None:
    """fsync of a file or a folder (a rename is on the disk only once its folder is)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove what processes that are gone left half done in a folder; what they had put aside takes its place again."""
    with suppress(OSError):
        for path in folder.iterdir():
            match = TEMPORARY.fullmatch(path.name)
            if match and not _in_use(path, match[3], int(match[4])):
                with suppress(OSError):
                    if match[2] and not path.with_name(match[1]).exists():
                        path.rename(path.with_name(match[1]))
                    else:
                        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _in_use(path: Path, host: str, process: int) -> bool:
    return _runs(process) if host == HOST else abs(time.time() - path.lstat().st_mtime) < LOST


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """One process at a time, and one thread of it, writes into a folder: UserError says who does already.

    The system frees the folder when that process ends, however it ends. Where a disk knows no locks, who is written
    down in it counts: as long as it runs or, on another machine, until LOCK is removed. What cannot be written to, for
    it is another's or full, needs nobody to hold it.
    """
    lock, mine = None, (folder.resolve(), threading.get_ident())
    try:
        if mine not in _holding:
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise UserError(f"'{folder / LOCK}' is no file of gantk's", remedy="remove it") from None
    if lock is None:
        yield
        return
    try:
        _take(lock, folder)
        _holding.add(mine)
        try:
            yield
        finally:
            _holding.discard(mine)
            os.ftruncate(lock, 0)
    finally:
        os.close(lock)


def _take(lock: int, folder: Path) -> None:
    """Lock an open file of a folder and write down by whom; UserError where another process has."""
    command, since = " ".join(["gantk", *sys.argv[1:]]), time.strftime("%Y-%m-%d %H:%M:%S")
    me, free = {"pid": os.getpid(), "host": platform.node(), "since": since, "command": command[:160]}, True
    try:
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        free = False
    except (ImportError, OSError):  # the system, or a network disk, knows no locks
        free = not _holder(lock)
    if free:
        with suppress(OSError):  # on a full disk nobody is told who it was
            os.ftruncate(lock, 0)
            os.pwrite(lock, json.dumps(me).encode(), 0)
        return
    for _ in range(20):  # it may not have written it down yet
        if known := _holder(lock):
            break
        time.sleep(0.05)
    words = {key: printable(str(known.get(key, "?")))[:160] for key in me}
    who = "process {pid} on {host} writes into it since {since}: {command}".format(**words)
    remedy = "wait for it or stop it; reading is possible meanwhile (gantk translate, report, export)"
    away = f". Where it is gone, remove '{folder / LOCK}'" * (words["host"] != me["host"])
    raise UserError(f"'{folder}' is in use: {who}", remedy=remedy + away)


def _holder(lock: int) -> dict[str, Any]:
    """Who is written down in an open file, where that process may still run."""
    with suppress(ValueError, TypeError, KeyError):
        found = json.loads(os.pread(lock, 2000, 0))
        if found["host"] != platform.node() or _runs(int(found["pid"])):
            return found
    return {}


def _exchange(one: Path, other: Path) -> None:
    """Swap two folders in one step where the system can; else the old one goes aside first."""
    with suppress(OSError, AttributeError):
        library, names = ctypes.CDLL(None, use_errno=True), (os.fsencode(one), os.fsencode(other))
        if sys.platform == "darwin":
            done = library.renamex_np(*names, 2) == 0
        else:
            done = library.renameat2(-100, names[0], -100, names[1], 2) == 0
        if done:
            return
    aside = temporary_beside(other, ".was")
    os.rename(other, aside)
    os.rename(one, other)
    os.rename(aside, one)
