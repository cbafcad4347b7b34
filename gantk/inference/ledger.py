"""What a folder of translations already holds while some are missing, so that the same command goes on from there."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gantk.files import write_file


class Ledger:
    """`.NAME.translation.json` beside a folder NAME of results: which came from which inputs, by which model, how.

    An entry counts while its input has the same size and time of change, its results are there, and model and
    question are the same; with another model or question all is done anew. `close` removes it: all is done.
    """

    def __init__(self, folder: Path, model: dict[str, Any], asked: dict[str, Any]):
        self.folder, self.head = folder, {"model": model, "asked": asked}
        self.path = folder.absolute().parent / f".{folder.absolute().name}.translation.json"
        self.done: dict[str, dict[str, Any]] = {}
        try:
            known = json.loads(self.path.read_text("utf-8"))
            if known["model"] == model and known["asked"] == asked:
                self.done = dict(known["done"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # there is none, or it is no such list: all is done anew

    def results(self, name: str, files: Sequence[Path]) -> list[Path] | None:
        """What these input files became earlier, None where that is not so any more."""
        entry = self.done.get(name)
        if not entry or entry["inputs"] != _state(files):
            return None
        results = [self.folder / name for name in entry["results"]]
        return results if all(path.exists() for path in results) else None

    def add(self, name: str, files: Sequence[Path], results: Sequence[Path]) -> None:
        """Write down that the input of this name, these files, became those."""
        names = [path.relative_to(self.folder).as_posix() for path in results]
        self.done[name] = {"inputs": _state(files), "results": names}
        with contextlib.suppress(OSError):  # a folder that may not be written to costs the list, not the results
            write_file(self.path, (json.dumps(self.head | {"done": self.done}, indent=1) + "\n").encode())

    def close(self) -> None:
        """Forget it all."""
        self.path.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _state(files: Sequence[Path]) -> list[list[int]]:
    """Size and time of change of each file."""
    return [[status.st_size, status.st_mtime_ns] for status in (file.stat() for file in files)]
