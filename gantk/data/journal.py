"""Small values by name in one file that many processes append to."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

LARGEST = 64 * 2**20  # bytes; a larger file is begun anew


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
            if self.path.stat().st_size > LARGEST:
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
