"""Cache of prepared images on disk: shared by all runs, memory-mapped, capped; least recently used
are removed first.

An entry is one `.npy` file, named by a hash of its inputs, with a checksum of name and content at
its end. A rename makes it appear whole, so that many processes may share a cache. An entry that is
damaged, or that another user could have written, is computed again. Not joblib.Memory: measured, it
fills half as fast, evicts by access times, and unpickles.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import threading
import time
import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from gantk.errors import UserError, one_line
from gantk.files import ANY_SIZE, make_folder, regular_file, sweep, write_file

IN_USE = 3600.0  # seconds for which an entry that was read or written is not removed
MIN_FREE_BYTES = 2**30  # bytes that the cache leaves free on its disk


class Cache:
    """At most `limit` bytes of arrays and JSON values in a folder; if storing fails, it warns once
    and only reads.
    """

    def __init__(self, folder: Path, limit: int):
        self.folder = Path(folder)
        self.limit = limit
        self.entries = self.folder / "images"
        self.full = False  # nothing more is stored: no room, or no permission
        # bytes of all entries, estimated; at how many they are counted again
        self._size = self._until = 0
        self._used: dict[str, float] = {}  # checked entry -> when its time of use was last written
        self._lock = threading.Lock()

    @classmethod
    def default(cls) -> Cache | None:
        """The user's cache, by GANTK_CACHE (a folder) and GANTK_CACHE_GIB (its size, by default
        20); None for 0.
        """
        gib = os.environ.get("GANTK_CACHE_GIB", "20")
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]*)?|\.[0-9]+", gib, re.ASCII):
            raise UserError(
                f"'{gib}' is not a valid cache size",
                where="GANTK_CACHE_GIB",
                allowed="a number of GiB up to 999999999; 0 turns the cache off",
            )

        usual = os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "gantk")
        folder = os.path.expanduser(os.environ.get("GANTK_CACHE") or usual)
        known = not folder.startswith("~")  # else this user has no home, as in a container
        if known and float(gib):
            return cls(Path(folder).absolute(), int(float(gib) * 2**30))

        return None

    def rows(self, key: str, make: Callable[[], np.ndarray]) -> np.ndarray | None:
        """The entry `key`, mapped read-only; if missing, the array that `make` returns, which is
        stored.

        None, without a call of `make`, where the entry is missing and nothing can be stored.
        """
        path = self.entries / f"{key}.npy"
        # missing, or broken, for which numpy raises many errors: written again
        with suppress(Exception):
            entry = np.lib.format.open_memmap(regular_file(path, max_bytes=ANY_SIZE), mode="r")
            now = time.monotonic()
            if key in self._used or _is_good(path, key, entry):
                if key not in self._used or now - self._used[key] > IN_USE / 4:
                    self._used[key] = now
                    with suppress(OSError):
                        os.utime(path)  # for all runs
                return entry

        if self.full:
            return None

        made = make()
        self._store(path, key, made)
        return made

    def fact(self, key: str, make: Callable[[], Any]) -> Any:
        """A small JSON value: from the cache, or else from `make` and then stored."""
        known = self.rows(key, lambda: np.frombuffer(json.dumps(make()).encode(), np.uint8))
        return make() if known is None else json.loads(known.tobytes())

    def _store(self, path: Path, key: str, rows: np.ndarray) -> None:
        """Write an entry, whole or not at all; if that fails, warn once and store nothing more."""
        file = io.BytesIO()
        rows = np.ascontiguousarray(rows)
        np.save(file, rows, allow_pickle=False)
        file.write(_checksum(key, rows))
        try:
            make_folder(self.entries, private=True)
            self._make_room(file.tell())
            # not synced, which is slow: a damaged entry is made again
            write_file(path, [file.getbuffer()], private=True, durable=False)
        except OSError as error:
            if not self.full:
                self.full = True
                warnings.warn(
                    f"the cache '{self.folder}' cannot store more images: {one_line(error)}."
                    " Training is slower, because images are decoded again in every epoch. Set"
                    " GANTK_CACHE to another folder, increase GANTK_CACHE_GIB, or set data.cache ="
                    " false",
                    RuntimeWarning,
                    stacklevel=2,
                )

    def _make_room(self, needed: int) -> None:
        """Reserve `needed` bytes, removing the least recently used entries; OSError where there is
        no room.

        Other processes store entries too: all are counted again when this one has used an eighth of
        the free room.
        """
        with self._lock:
            if self._size + needed > self._until:
                sweep(self.entries)
                self._size = 0
                old = []
                for path in self.entries.iterdir():
                    with suppress(OSError):  # another run has removed it
                        stat = path.stat()
                        self._size += stat.st_size
                        # or of the future: a clock was set
                        if abs(time.time() - stat.st_mtime) > IN_USE:
                            old.append(
                                (not path.name.startswith("."), stat.st_mtime, stat.st_size, path)
                            )

                for finished, _, size, path in sorted(old):
                    if not finished or self._size + needed > self.limit - self.limit // 128:
                        with suppress(OSError):
                            path.unlink()
                            self._size -= size

                self._until = self._size + max(needed, (self.limit - self._size) // 8)

            if self._size + needed > self.limit:
                raise OSError(f"images used in the last hour fill its {self.limit / 2**30:g} GiB")
            if shutil.disk_usage(self.entries).free < needed + MIN_FREE_BYTES:
                raise OSError(f"less than {MIN_FREE_BYTES / 2**30:g} GiB of the disk would be free")

            self._size += needed


def _checksum(key: str, rows: np.ndarray) -> bytes:
    about = f"{key} {rows.dtype.str} {rows.shape}".encode()
    return zlib.crc32(rows.data.cast("B"), zlib.crc32(about)).to_bytes(4)


def _is_good(path: Path, key: str, rows: np.ndarray) -> bool:
    """Whether an entry is intact, was stored under that key, and is writable by this user only."""
    with open(path, "rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        _ = file.seek(-4, os.SEEK_END)
        own = not hasattr(os, "geteuid") or (
            status.st_uid == os.geteuid() and not status.st_mode & 0o022
        )
        return own and file.read(4) == _checksum(key, rows)


def digest(*parts: Any) -> str:
    """A hash of these JSON values together: 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]
