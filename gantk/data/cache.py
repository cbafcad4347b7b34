"""Cache of prepared images on disk: shared by all runs, memory-mapped, capped; the least recently used go first.

An entry is one `.npy` file, named by what it was made of, and appears whole by a rename: many processes may use one
cache at once. Not joblib.Memory: measured, it fills half as fast, evicts by access times, and unpickles.
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

from gantk.errors import UserError, told

IN_USE = 3600.0  # seconds within which what was read or written is not removed
SPARE = 2**30  # bytes that the cache leaves free on its disk


class Cache:
    """At most `limit` bytes of arrays and facts in a folder; where it takes no more, one warning; reading goes on."""

    def __init__(self, folder: Path, limit: int):
        self.folder, self.limit = Path(folder), limit
        self.entries = self.folder / "images"
        self.full = False  # nothing more is stored: no room, or no permission
        self._size: int | None = None  # bytes of all entries, as far as known
        self._used: dict[str, float] = {}  # when each entry was last known to be in use
        self._lock = threading.Lock()

    @classmethod
    def default(cls) -> Cache | None:
        """The user's cache, by GANTK_CACHE (a folder) and GANTK_CACHE_GIB (its size, by default 20); None for 0."""
        said = os.environ.get("GANTK_CACHE_GIB", "20")
        if not said.replace(".", "", 1).isdecimal():
            remedy = "0 turns the cache off"
            raise UserError(f"'{said}' is no size", where="GANTK_CACHE_GIB", allowed="GiB, 0 or more", remedy=remedy)
        usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gantk"
        folder = Path(os.environ.get("GANTK_CACHE") or usual).expanduser().absolute()
        return cls(folder, int(float(said) * 2**30)) if float(said) else None

    def rows(self, key: str, make: Callable[[], np.ndarray]) -> np.ndarray | None:
        """The entry `key`, mapped read-only; where there is none, the array that `make` returns, stored.

        None where the entry is not there and nothing can be stored: then `make` is not called.
        """
        path = self.entries / f"{key}.npy"
        found = None
        with suppress(Exception):  # not there, or broken, for which numpy has many words: made anew
            found = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(found, np.ndarray):
            if time.time() - self._used.get(key, 0.0) > IN_USE / 4:
                self._used[key] = time.time()
                with suppress(OSError):
                    os.utime(path)  # tells all runs
            return found
        if self.full:
            return None
        made = make()
        self._store(path, made)
        return made

    def fact(self, key: str, make: Callable[[], Any]) -> Any:
        """A small value of JSON: remembered, or made and remembered."""
        known = self.rows(key, lambda: np.frombuffer(json.dumps(make()).encode(), np.uint8))
        return make() if known is None else json.loads(known.tobytes())

    def _store(self, path: Path, rows: np.ndarray) -> None:
        """Write an entry, whole or not at all; where that fails, warn once, and store nothing more."""
        temporary, file = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}"), io.BytesIO()
        np.save(file, rows, allow_pickle=False)
        try:
            self.entries.mkdir(parents=True, exist_ok=True)
            self._make_room(file.tell())
            temporary.write_bytes(file.getbuffer())
            os.replace(temporary, path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            said, self.full = self.full, True
            if not said:
                what = f"the cache '{self.folder}' takes no more images, which are decoded again: {told(error)}. Name "
                what += "another folder by GANTK_CACHE, allow it more by GANTK_CACHE_GIB, or set data.cache = false"
                warnings.warn(what, RuntimeWarning, stacklevel=2)

    def _make_room(self, needed: int) -> None:
        """Count on so many bytes more; what was not used for longest makes way. OSError where there is no room."""
        with self._lock:
            if self._size is None or self._size + needed > self.limit:
                self._size, old = 0, []
                for path in self.entries.iterdir():
                    with suppress(OSError):  # another run has removed it
                        stat = path.stat()
                        self._size += stat.st_size
                        if time.time() - stat.st_mtime > IN_USE:
                            old.append((not path.name.startswith("."), stat.st_mtime, stat.st_size, path))
                for finished, _, size, path in sorted(old):
                    if not finished or self._size + needed > self.limit:
                        with suppress(OSError):
                            path.unlink()
                            self._size -= size
            if self._size + needed > self.limit:
                raise OSError(f"what was used within the hour fills its {self.limit / 2**30:g} GiB")
            if shutil.disk_usage(self.entries).free < needed + SPARE:
                raise OSError(f"less than {SPARE / 2**30:g} GiB would be left on the disk")
            self._size += needed


def digest(*parts: Any) -> str:
    """A name for what these values of JSON say together: 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]
