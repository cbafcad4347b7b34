"""Cache of prepared images on disk: shared by all runs, memory-mapped, capped; the least recently used go first.

An entry is one `.npy` file that holds all images of one scan, named by what it was made of. Names are never reused for
other content, files appear whole by a rename, and nothing is locked: many threads, processes and runs may read and fill
one cache at once. Not joblib.Memory: measured, it fills half as fast, evicts by access times that few disks keep,
and unpickles what it finds.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from gantk.errors import UserError

SETTLED = 2.0  # seconds after which another change of a file is sure to change its time stamp
FORGOTTEN = 3600.0  # seconds after which an unfinished file belongs to no run any more
SPARE = 2**30  # bytes that the cache leaves free on its disk
NARROW = (np.uint8, np.int16, np.uint16)


class Cache:
    """Entries of images and small facts below one folder, in at most `limit` bytes; the least recently used go first.

    What was used through one instance stays while it lives. Where the folder cannot be written or no room is left,
    entries are still read, and the first refusal is a warning.
    """

    def __init__(self, folder: Path, limit: int):
        self.folder, self.limit = Path(folder), limit
        self.entries = self.folder / "images"
        self.full = False  # nothing more is stored: no room, or no permission
        self._facts: dict[str, Any] = {}
        self._used: set[str] = set()  # names of entries that were read or written here
        self._size: int | None = None  # bytes of all entries, as far as known
        self._lock, self._locks = threading.Lock(), {}

    @classmethod
    def default(cls) -> Cache | None:
        """The user's cache, by GANTK_CACHE (a folder) and GANTK_CACHE_GIB (its size, by default 20); None for 0."""
        said = os.environ.get("GANTK_CACHE_GIB", "20")
        limit = float(said) if said.replace(".", "", 1).isdecimal() else None
        if limit is None:
            remedy = "0 turns the cache off"
            raise UserError(f"'{said}' is no size", where="GANTK_CACHE_GIB", allowed="GiB, 0 or more", remedy=remedy)
        usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gantk"
        folder = Path(os.environ.get("GANTK_CACHE") or usual).expanduser().absolute()
        return cls(folder, int(limit * 2**30)) if limit else None

    def rows(self, key: str, make: Callable[[], np.ndarray]) -> np.ndarray | None:
        """The entry `key`, mapped read-only; where there is none, the array that `make` returns, stored.

        Whole numbers come back in the narrowest type that holds them, others as float32. None where the entry is not
        there and could not be stored: then `make` is not called. One thread of this process makes an entry while the
        others wait for it.
        """
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            found = self._entry(key)
            if found is not None or self.full:
                return found
            rows, file = narrowest(make()), io.BytesIO()
            np.save(file, rows, allow_pickle=False)
            try:
                self._write(self.entries / f"{key}.npy", file.getbuffer())
            except OSError as error:
                with self._lock:
                    first, self.full = not self.full, True
                if first:
                    what = f"the cache '{self.folder}' takes no more images, so some will be decoded again: {error}. "
                    what += "Name another folder by GANTK_CACHE, allow it more by GANTK_CACHE_GIB, "
                    warnings.warn(what + "or set data.cache = false", RuntimeWarning, stacklevel=2)
                return rows
            return self._entry(key)

    def fact(self, key: str, make: Callable[[], Any], *, lasting: bool = True) -> Any:
        """A small value of JSON: remembered, or made and remembered; not `lasting`: by this process alone."""
        if key not in self._facts:
            path = self.entries / f"{key}.json"
            try:
                self._facts[key] = json.loads(path.read_bytes())
                self._touch(path)
            except (OSError, ValueError):  # not there, or not whole
                self._facts[key] = made = make()
                if lasting and not self.full:
                    with suppress(OSError):
                        self._write(path, json.dumps(made).encode())
        return self._facts[key]

    def content(self, path: Path) -> str:
        """SHA-256 of a file's bytes, read once for as long as path, size, time of change and inode stay the same."""
        found = path.stat()

        def read() -> str:
            with open(path, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()

        # A file that changes again within one tick of the clock would look the same.
        lasting = time.time() - found.st_mtime > SETTLED
        return self.fact(digest(path.absolute(), found.st_size, found.st_mtime_ns, found.st_ino), read, lasting=lasting)

    def _entry(self, key: str) -> np.ndarray | None:
        path = self.entries / f"{key}.npy"
        try:
            images = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            return None
        except Exception:  # numpy has many words for a broken file
            images = None
        if not isinstance(images, np.ndarray):  # cut short by a full disk, or no array at all: made anew
            with suppress(OSError):
                path.unlink()
            return None
        self._touch(path)
        return images

    def _touch(self, path: Path) -> None:
        """Note that an entry was used, once: a time that other runs see."""
        if path.name not in self._used:
            self._used.add(path.name)
            with suppress(OSError):
                os.utime(path)

    def _write(self, path: Path, content: bytes) -> None:
        """A file that is there whole or not at all; OSError where there is no room for it."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            self.entries.mkdir(parents=True, exist_ok=True)
            self._make_room(len(content))
            temporary.write_bytes(content)
            os.replace(temporary, path)
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            raise
        self._used.add(path.name)

    def _make_room(self, needed: int) -> None:
        """Remove the entries that were not used for longest, and unfinished files that nobody writes any more."""
        with self._lock:
            if self._size is None or self._size + needed > self.limit:
                entries = []
                for path in self.entries.iterdir():
                    with suppress(OSError):  # another run has removed it
                        stat = path.stat()
                        if not path.name.startswith("."):
                            entries.append((stat.st_mtime, stat.st_size, path))
                        elif time.time() - stat.st_mtime > FORGOTTEN:
                            path.unlink()
                self._size = sum(size for _, size, _ in entries)
                for _, size, path in sorted(entries):
                    if self._size + needed > self.limit and path.name not in self._used:
                        with suppress(OSError):
                            path.unlink()
                            self._size -= size
            if self._size + needed > self.limit:
                raise OSError(f"this run alone fills its {self.limit / 2**30:g} GiB")
            if shutil.disk_usage(self.entries).free < needed + SPARE:
                raise OSError(f"less than {SPARE / 2**30:g} GiB would be left on the disk")
            self._size += needed


def digest(*parts: Any) -> str:
    """A name for what these values of JSON say together: 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def narrowest(images: np.ndarray) -> np.ndarray:
    """The same values in the narrowest type of whole numbers that holds them all, else in float32."""
    images = np.ascontiguousarray(images)
    for kind in NARROW:
        limits = np.iinfo(kind)
        if limits.min <= images.min() and images.max() <= limits.max and (images == np.trunc(images)).all():
            return images.astype(kind)
    return images.astype(np.float32, copy=False)
