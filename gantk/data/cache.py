"""Prepared images on disk, shared by all runs: what was decoded once is mapped into memory from then on.

An entry is one `.npy` file that holds all images of one scan, named by what it was made of. Names are never reused for
other content, files appear whole by a rename, and nothing is locked: many threads, processes and runs may read and fill
one cache at once, and a run that is killed leaves at most a hidden file that the next one clears away.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
import warnings
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gantk.errors import UserError

MARK = b"gtk1"  # ends a file that was written to the end, behind the checksum of its images
OPEN = 128  # entries that are kept mapped; each takes a file handle
SETTLED = 2.0  # seconds after which another change of a file is sure to change its time stamp
FORGOTTEN = 3600.0  # seconds after which an unfinished file belongs to no run any more
SPARE = 2**30  # bytes that the cache leaves free on its disk
NARROW = (np.uint8, np.int16, np.uint16)


class Cache:
    """Entries of images and small facts below one folder, in at most `limit` bytes; the least recently used go first.

    What was used through one instance stays while it lives. Where the folder cannot be written or no room is left,
    what is there is still read, and the first refusal is told by a warning.
    """

    def __init__(self, folder: Path, limit: int):
        self.folder, self.limit = Path(folder), limit
        self.images = self.folder / "images"
        self.facts = Journal(self.folder / "facts.jsonl")
        self.hashes = Journal(self.folder / "hashes.jsonl")
        self.full = False  # nothing more is stored: no room, or no permission
        self._maps: OrderedDict[str, np.ndarray] = OrderedDict()
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
        if os.environ.get("GANTK_CACHE"):
            folder = Path(os.environ["GANTK_CACHE"]).expanduser()
        else:
            folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gantk"
        return cls(folder.absolute(), int(limit * 2**30)) if limit else None

    def rows(self, key: str, make: Callable[[], np.ndarray]) -> np.ndarray | None:
        """The entry `key`, mapped read-only; where there is none, what `make` gives, stored. float32 or narrower.

        None where it is not there and could not be stored: then `make` is not called. One thread of this process makes
        an entry while the others wait for it.
        """
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            found = self._entry(key)
            if found is not None or self.full:
                return found
            return self._store(key, make())

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

    def _path(self, key: str) -> Path:
        return self.images / f"{key}.npy"

    def _entry(self, key: str) -> np.ndarray | None:
        with self._lock:
            if key in self._maps:
                self._maps.move_to_end(key)
                return self._maps[key]
        path = self._path(key)
        try:
            images = np.load(path, mmap_mode="r", allow_pickle=False)
            whole = key in self._used or _whole(path, images)
        except FileNotFoundError:
            return None
        except Exception:  # numpy has many words for a broken file
            whole = False
        if not whole:
            _quietly(path.unlink)
            return None
        _quietly(lambda: os.utime(path))
        return self._keep(key, images)

    def _keep(self, key: str, images: np.ndarray) -> np.ndarray:
        with self._lock:
            self._used.add(key)
            self._maps[key] = images
            while len(self._maps) > OPEN:
                self._maps.popitem(last=False)
        return images

    def _store(self, key: str, made: np.ndarray) -> np.ndarray:
        made = narrowest(made)
        path = self._path(key)
        temporary = self.images / f".{key}.{os.getpid()}.{threading.get_ident()}"
        try:
            self.images.mkdir(parents=True, exist_ok=True)
            self._make_room(made.nbytes)
            with open(temporary, "wb") as file:
                np.lib.format.write_array(file, made, allow_pickle=False)
                file.write(zlib.crc32(made).to_bytes(4, "little") + MARK)
            os.replace(temporary, path)
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        except OSError as error:
            _quietly(temporary.unlink)
            self._stop(error)
            return made
        return self._keep(key, mapped)

    def _stop(self, error: OSError) -> None:
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
        """Remove what was not used for longest; OSError where that does not give enough."""
        with self._lock:
            if self._size is None or self._size + needed > self.limit:
                entries = self._entries()
                self._size = sum(size for _, size, _ in entries)
                for _, size, name in sorted(entries):
                    if self._size + needed <= self.limit:
                        break
                    if name.removesuffix(".npy") not in self._used and _quietly((self.images / name).unlink):
                        self._size -= size
            if self._size + needed > self.limit:
                raise OSError(f"this run alone fills its {self.limit / 2**30:g} GiB")
            if shutil.disk_usage(self.images).free < needed + SPARE:
                raise OSError(f"less than {SPARE / 2**30:g} GiB would be left on the disk")
            self._size += needed

    def _entries(self) -> list[tuple[float, int, str]]:
        """(time of last use, bytes, name) of every entry; unfinished files that nobody writes any more are removed."""
        entries = []
        with os.scandir(self.images) as found:
            for file in found:
                try:
                    stat = file.stat()
                except OSError:  # another run has removed it
                    continue
                if not file.name.startswith("."):
                    entries.append((stat.st_mtime, stat.st_size, file.name))
                elif time.time() - stat.st_mtime > FORGOTTEN:
                    _quietly(Path(file.path).unlink)
        return entries


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


def _whole(path: Path, images: np.ndarray) -> bool:
    """Whether the file ends behind these images, with their checksum."""
    end = images.offset + images.nbytes
    with open(path, "rb") as file:
        file.seek(end)
        return file.read() == zlib.crc32(images).to_bytes(4, "little") + MARK


def _quietly(change: Callable[[], Any]) -> bool:
    try:
        change()
    except OSError:
        return False
    return True


JOURNAL_LIMIT = 64 * 2**20  # bytes; a larger file is begun anew


class Journal:
    """Values of JSON by name, a line each, remembered from run to run.

    A line is written at once and at the end, so that several processes may share the file; one that a killed process
    did not finish is passed over. Where the file cannot be written, values are remembered for this process alone.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self._known: dict[str, Any] | None = None
        self._lock = threading.Lock()

    def get(self, name: str) -> Any:
        """The value of that name, or None."""
        with self._lock:
            if self._known is None:
                self._known = self._load()
            return self._known.get(name)

    def put(self, name: str, value: Any, *, lasting: bool = True) -> None:
        """Remember a value; where it is not `lasting`, for this process alone."""
        self.get(name)
        with self._lock:
            self._known[name] = value
            if lasting:
                # The first line break ends what a killed process may have left unfinished.
                self._append(("\n" + json.dumps([name, value]) + "\n").encode())

    def _append(self, line: bytes) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(file, line)
            finally:
                os.close(file)
        except OSError:
            return

    def _load(self) -> dict[str, Any]:
        known: dict[str, Any] = {}
        try:
            if self.path.stat().st_size > JOURNAL_LIMIT:
                self.path.unlink()
            content = self.path.read_bytes()
        except OSError:
            return known
        for line in content.splitlines():
            try:
                name, value = json.loads(line)
            except (ValueError, TypeError):
                continue
            if isinstance(name, str):
                known[name] = value
        return known
