"""Reads and writes `.NAME.translation.json`, a file next to a folder NAME of results. It lists
results, their inputs, the model and the options.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from gantk.errors import UserError
from gantk.files import LOCK, append_to_file, lock_folder, make_folder, read_file, write_file
from gantk.inference.jobs import Job

MAX_LEDGER_BYTES = 2**28


class Ledger:
    """The record of finished translations; as a context manager it also locks the folder of
    results.

    An entry is valid while its inputs keep size and modification time and its results exist;
    another `head` (model and options) makes all entries invalid. Each input appends one line of
    JSON, so that the ten thousandth takes no longer than the first. A new call writes all earlier
    entries as one line; damaged lines are ignored.
    """

    def __init__(self, folder: Path, head: dict[str, Any]):
        self.folder = folder
        self.head = json.loads(json.dumps(head))
        self.done: dict[str, Any] = {}  # by a job's name: its inputs and results
        name = os.fsencode(folder.absolute().name)[:200].decode("utf-8", "ignore")
        self.path = folder.absolute().parent / f".{name}.translation.json"
        self.begun = False
        self.holding = ExitStack()

    def __enter__(self) -> Ledger:
        with suppress(OSError):  # writing the first result reports the same error
            make_folder(self.folder)

        if self.folder.is_dir():
            self.holding.enter_context(lock_folder(self.folder))

        # missing or damaged
        with suppress(OSError, ValueError, KeyError, TypeError, IndexError, UserError):
            text = read_file(self.path, max_bytes=MAX_LEDGER_BYTES).decode("utf-8", "replace")
            entries = [entry for line in text.split("\n") for entry in _parse_json(line)]
            if entries[0]["head"] == self.head:
                for entry in entries:
                    self.done |= entry["done"]

        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        with suppress(OSError):
            if kind is None:  # everything is finished
                self.path.unlink(missing_ok=True)
        with suppress(OSError):
            (self.folder / LOCK).unlink(missing_ok=True)
            self.folder.rmdir()  # only if it is empty
        self.holding.close()

    def results(self, job: Job) -> list[Path] | None:
        """The results of a job by an earlier call; None where inputs have changed or results are
        missing.
        """
        with suppress(OSError, KeyError, TypeError):
            entry = self.done[job.name]
            results = [self.folder / name for name in entry["results"]]
            if entry["inputs"] == _sizes_and_times(job) and all(path.exists() for path in results):
                return results

        return None

    def add(self, job: Job, results: Sequence[Path]) -> None:
        """Record the results of a job; where the record cannot be written, translation continues
        without it.
        """
        names = [path.relative_to(self.folder).as_posix() for path in results]
        with suppress(OSError):
            line = _line({"done": {job.name: {"inputs": _sizes_and_times(job), "results": names}}})
            if self.begun:
                append_to_file(self.path, line)
            else:
                write_file(self.path, _line({"head": self.head, "done": self.done}) + line)
                self.begun = True


def _sizes_and_times(job: Job) -> list[list[int | None]]:
    """[size, modification time in ns, volume] of each file that a job reads."""
    return [
        [file.stat().st_size, file.stat().st_mtime_ns, scan.volume]
        for scan in job.scans.values()
        for file in scan.files
    ]


def _line(value: dict[str, Any]) -> bytes:
    return (json.dumps(value) + "\n").encode()


def _parse_json(text: str) -> list[Any]:
    """A list with the value of a JSON text; [] where it is not JSON."""
    with suppress(ValueError, RecursionError):
        return [json.loads(text)]
    return []
