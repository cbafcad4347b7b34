"""Cache of prepared images on disk: shared by all runs, memory-mapped, capped; the least recently used go first.

An entry is one `.npy` file that holds all images of one scan, named by what it was made of. Names are never reused for
other content, files appear whole by a rename, and nothing is locked: many threads, processes and runs may read and fill
one cache at once, and a run that is killed leaves at most a hidden file that the next one clears away.

Not joblib.Memory, which was measured: it fills half as fast (2.0 against 1.0 ms an entry), drops all entries of a
function whose source was edited, evicts by access times that most disks do not keep, and unpickles what it finds.
"""

from __future__ import annotations

import hashlib
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
JOURNAL_LIMIT = 64 * 2**20  # bytes; a larger journal is begun anew
NARROW = (np.uint8, np.int16, np.uint16)


class Cache:
    """Entries of images and small facts below one folder, in at most `limit` bytes; the least recently used go first.

    What was used through one instance stays while it lives. Where the folder cannot be written or no room is left,
    entries are still read, and the first refusal is told by a warning.
    """

    def __init__(self, folder: Path, limit: int):
        self.folder, self.limit = Path(folder), limit
        self.images = self.folder / "images"
        self.facts, self.hashes = Journal(self.folder / "facts.jsonl"), Journal(self.folder / "hashes.jsonl")
        self.full = False  # nothing more is stored: no room, or no permission
        self._used: set[str] = set()  # names of entries that were read or written here
        self._size: int | None = None  # bytes of all entries, as far as known
        self._lock, self._locks = threading.Lock(), {}

    @classmethod
    def default(cls) -> Cache | None:
        """The user's cache, by GANTK_CACHE (a folder) and GANTK_CACHE_GIB (its size, by default 20); None for 0."""
        said = os.environ.get("GANTK_CACHE_GIB", "20")
        try:
            limit = float(said)
        except ValueError:
            limit = -1.0
        if not 0 <= limit < float("inf"):
            remedy = "0 turns the cache off"
            raise UserError(f"'{said}' is no size", where="GANTK_CACHE_GIB", allowed="GiB, 0 or more", remedy=remedy)
        folder = os.environ.get("GANTK_CACHE")
        if not folder:
            folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gantk"
        return cls(Path(folder).expanduser().absolute(), int(limit * 2**30)) if limit else None

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
            return found if found is not None or self.full else self._store(key, narrowest(make()))

    def fact(self, key: str, make: Callable[[], Any]) -> Any:
        """A small value of JSON: remembered, or made and remembered."""
        found = self.facts.get(key)
        if found is None:
            found = make()
            self.facts.put(key, found)
        return found

    def content(self, path: Path) -> str:
        """SHA-256 of a file's bytes, read once for as long as path, size, time of change and inode stay the same."""
        found = path.stat()
        name = json.dumps([str(path.absolute()), found.st_size, found.st_mtime_ns, found.st_ino])
        known = self.hashes.get(name)
        if known is None:
            with open(path, "rb") as file:
                known = hashlib.file_digest(file, "sha256").hexdigest()
            # A file that changes again within one tick of the clock would look the same.
            self.hashes.put(name, known, lasting=time.time() - found.st_mtime > SETTLED)
        return known

    def _entry(self, key: str) -> np.ndarray | None:
        path = self.images / f"{key}.npy"
        try:
            images = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            return None
        except Exception:  # numpy has many words for a broken file
            images = None
        with suppress(OSError):
            if not isinstance(images, np.ndarray):  # cut short by a full disk, or no array at all: made anew
                path.unlink()
                return None
            if key not in self._used:
                os.utime(path)
        self._used.add(key)
        return images

    def _store(self, key: str, rows: np.ndarray) -> np.ndarray:
        temporary = self.images / f".{key}.{os.getpid()}.{threading.get_ident()}"
        try:
            self.images.mkdir(parents=True, exist_ok=True)
            self._make_room(rows.nbytes)
            with open(temporary, "wb") as file:
                np.save(file, rows, allow_pickle=False)
            os.replace(temporary, self.images / f"{key}.npy")
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            self._refuse(error)
            return rows
        return self._entry(key)

    def _refuse(self, error: OSError) -> None:
        with self._lock:
            first, self.full = not self.full, True
        if first:
            warnings.warn(
                f"the cache '{self.folder}' takes no more images, so some will be decoded again and again: {error}. "
                "Name another folder by GANTK_CACHE, allow it more by GANTK_CACHE_GIB, or set data.cache = false",
                RuntimeWarning,
                stacklevel=2,
            )

    def _make_room(self, needed: int) -> None:
        """Remove the entries that were not used for longest; OSError where that does not give enough."""
        with self._lock:
            if self._size is None or self._size + needed > self.limit:
                entries = self._entries()
                self._size = sum(size for _, size, _ in entries)
                for _, size, path in sorted(entries):
                    if self._size + needed <= self.limit:
                        break
                    if path.stem not in self._used:
                        with suppress(OSError):
                            path.unlink()
                            self._size -= size
            if self._size + needed > self.limit:
                raise OSError(f"this run alone fills its {self.limit / 2**30:g} GiB")
            if shutil.disk_usage(self.images).free < needed + SPARE:
                raise OSError(f"less than {SPARE / 2**30:g} GiB would be left on the disk")
            self._size += needed

    def _entries(self) -> list[tuple[float, int, Path]]:
        """(time of last use, bytes, path) of every entry; unfinished files that nobody writes any more are removed."""
        entries = []
        for path in self.images.iterdir():
            with suppress(OSError):  # another run has removed it
                stat = path.stat()
                if not path.name.startswith("."):
                    entries.append((stat.st_mtime, stat.st_size, path))
                elif time.time() - stat.st_mtime > FORGOTTEN:
                    path.unlink()
        return entries


class Journal:
    """Values of JSON by name, a line each, remembered from run to run.

    A line is written at once and at the end, so that several processes may share the file; one that a killed process
    did not finish is passed over. Where the file cannot be written, values are remembered for this process alone.
    """

    def __init__(self, path: Path):
        self.path, self._known, self._lock = Path(path), None, threading.Lock()

    def get(self, name: str) -> Any:
        """The value of that name, or None."""
        with self._lock:
            if self._known is None:
                self._known = self._load()
            return self._known.get(name)

    def put(self, name: str, value: Any, *, lasting: bool = True) -> None:
        """Remember a value; where it is not `lasting`, for this process alone."""
        self.get(name)
        with self._lock, suppress(OSError):
            self._known[name] = value
            if lasting:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                # The first line break ends what a killed process may have left unfinished.
                with open(self.path, "ab", buffering=0) as file:
                    file.write(("\n" + json.dumps([name, value]) + "\n").encode())

    def _load(self) -> dict[str, Any]:
        known: dict[str, Any] = {}
        with suppress(OSError):
            if self.path.stat().st_size > JOURNAL_LIMIT:
                self.path.unlink()
            for line in self.path.read_bytes().splitlines():
                with suppress(ValueError, TypeError):  # a line that was not finished
                    name, value = json.loads(line)
                    known[name] = value
        return known


def digest(*parts: Any) -> str:
    """A name for what these values of JSON say together: 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def narrowest(images: np.ndarray) -> np.ndarray:
    """The same values in the narrowest type of whole numbers that holds them all, else in float32."""
    images = np.ascontiguousarray(images)
    low, high = images.min(), images.max()
    for kind in NARROW:
        limits = np.iinfo(kind)
        if limits.min <= low and high <= limits.max:  # never of NaN
            narrow = images.astype(kind)
            return narrow if np.array_equal(narrow, images) else images.astype(np.float32, copy=False)
    return images.astype(np.float32, copy=False)
