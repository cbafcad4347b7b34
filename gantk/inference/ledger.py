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
from gantk.files import LOCK, append_to_file, lock_folder, make_folder, read_file
from gantk.inference.jobs import Job

MAX_LEDGER_BYTES = 2**28


class Ledger:
    """The record of finished translations; as a context manager it also locks the folder of
    results.

    Each job appends one line of JSON, so that the ten thousandth takes no longer than the first; the
    last line of a job counts, and damaged lines are ignored. An entry is valid while its inputs keep
    size and modification time and its results exist; those of another `head` (model and options)
    are deleted.
    """

    def __init__(self, folder: Path, head: dict[str, Any]):
        self.folder = folder
        self.head = json.loads(json.dumps(head))
        self.entries: dict[str, Any] = {}  # by a job's name
        name = os.fsencode(folder.absolute().name)[:200].decode("utf-8", "ignore")
        self.path = folder.absolute().parent / f".{name}.translation.json"
        self.holding = ExitStack()

    def __enter__(self) -> Ledger:
        with suppress(OSError):  # writing the first result reports the same error
            make_folder(self.folder)

        if self.folder.is_dir():
            self.holding.enter_context(lock_folder(self.folder))

        with suppress(OSError, UserError):  # there is none
            text = read_file(self.path, max_bytes=MAX_LEDGER_BYTES).decode("utf-8", "replace")
            for line in text.split("\n"):
                with suppress(ValueError, KeyError, TypeError, RecursionError):  # damaged
                    entry = json.loads(line)
                    self.entries[entry["job"]] = entry

        if any(entry.get("head") != self.head for entry in self.entries.values()):
            self.entries = {}
            self.path.unlink(missing_ok=True)  # before a result of theirs is replaced
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
            entry = self.entries[job.name]
            results = [self.folder / name for name in entry["results"]]
            if entry["inputs"] == _sizes_and_times(job) and all(path.exists() for path in results):
                return results

        return None

    def add(self, job: Job, results: Sequence[Path]) -> None:
        """Record the results of a job; where the record cannot be written, translation continues
        without it.
        """
        entry = {
            "job": job.name,
            "results": [path.relative_to(self.folder).as_posix() for path in results],
            "head": self.head,
        }
        with suppress(OSError, UserError):
            entry["inputs"] = _sizes_and_times(job)
            line = "\n" + json.dumps(entry)  # ends one that a kill has cut
            append_to_file(self.path, line.encode())


def _sizes_and_times(job: Job) -> list[list[int | None]]:
    """[size, modification time in ns, volume] of each file that a job reads."""
    return [
        [file.stat().st_size, file.stat().st_mtime_ns, scan.volume]
        for scan in job.scans.values()
        for file in scan.files
    ]
