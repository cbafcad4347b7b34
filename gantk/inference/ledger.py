"""Which results of an interrupted translation of a folder are valid, so that a next call goes on."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from gantk.files import LOCK, json_object, lock_folder, make_folder, write_file


class Ledger:
    """A file `.NAME.translation.json` beside a folder NAME of results, which says by which model and
    options they are made; as a context manager it also locks the folder.

    A result is valid while it is newer than this file and than its inputs. Other options, or another
    model, write the file anew; it is deleted when everything is translated.
    """

    def __init__(self, folder: Path, head: dict[str, Any]):
        self.folder = folder
        self.head = json.loads(json.dumps(head))
        name = os.fsencode(folder.absolute().name)[:200].decode("utf-8", "ignore")
        self.path = folder.absolute().parent / f".{name}.translation.json"
        self.begun = sys.maxsize  # when the file was written, in ns; without it nothing is valid
        self.holding = ExitStack()

    def __enter__(self) -> Ledger:
        make_folder(self.folder)
        self.holding.enter_context(lock_folder(self.folder))
        with suppress(OSError):
            if json_object(self.path) == self.head:
                self.begun = self.path.stat().st_mtime_ns
        return self

    def begin(self) -> None:
        """Write the file, unless it is there: what follows is made by this model and options."""
        with suppress(OSError):  # the folder above may not be written to
            if json_object(self.path) != self.head:
                write_file(self.path, json.dumps(self.head).encode())

    def __exit__(self, kind: type | None, *_: object) -> None:
        with suppress(OSError):
            if kind is None:  # everything is translated
                self.path.unlink(missing_ok=True)
        with suppress(OSError):
            (self.folder / LOCK).unlink(missing_ok=True)
            self.folder.rmdir()  # only if it is empty
        self.holding.close()

    def has(self, results: Iterable[Path], written: Iterable[Path], inputs: Iterable[Path]) -> bool:
        """Whether all files that were written exist and are valid, and the results among them were
        written one after the other: an earlier one that was withdrawn may leave its folder.
        """
        try:
            # or put in the place of another one
            found = [path.stat() for path in inputs]
            changed = max(max(each.st_mtime_ns, each.st_ctime_ns) for each in found)
            times = [path.stat().st_mtime_ns for path in results]
            first = min(path.stat().st_mtime_ns for path in written)
        except OSError:
            return False
        return first > max(changed, self.begun) and times == sorted(times)
