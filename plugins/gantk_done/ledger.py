"""`.NAME.translation.json` beside a folder NAME of results: which came from which inputs, by which model and how."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from gantk.files import LOCK, held, write_file
from gantk.inference.translation import Job


class Ledger:
    """What earlier calls made of their inputs, and that no other process writes to the folder meanwhile.

    An entry counts while its inputs have the same size and time of change and its results are there; with another
    `head` (the model, and how it was asked) all is done anew. The list grows by a line of JSON for each input, so that
    the ten thousandth takes no longer than the first; what was known before becomes one line, and what is torn is left
    out.
    """

    def __init__(self, folder: Path, head: dict[str, Any]):
        self.folder, self.head, self.done = folder, json.loads(json.dumps(head)), {}
        name = os.fsencode(folder.absolute().name)[:200].decode("utf-8", "ignore")
        self.path = folder.absolute().parent / f".{name}.translation.json"
        self.begun, self.holding = False, ExitStack()

    def __enter__(self) -> Ledger:
        with suppress(OSError):  # which the first result says
            self.folder.mkdir(parents=True, exist_ok=True)
        if self.folder.is_dir():
            self.holding.enter_context(held(self.folder))
        with suppress(OSError, ValueError, KeyError, TypeError, IndexError):  # there is none, or it is no such list
            text = self.path.read_text("utf-8", "replace")
            known = _parsed(text) or [each for line in text.split("\n") for each in _parsed(line)]
            if known[0]["head"] == self.head:
                for each in known:
                    self.done |= each["done"]
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        with suppress(OSError):
            if kind is None:  # all is done
                self.path.unlink(missing_ok=True)
        with suppress(OSError):
            (self.folder / LOCK).unlink(missing_ok=True)
            self.folder.rmdir()  # where nothing was written
        self.holding.close()

    def results(self, job: Job) -> list[Path] | None:
        """What an earlier call made of a job; None where that is not so any more."""
        with suppress(OSError, KeyError, TypeError):
            entry = self.done[job.name]
            results = [self.folder / name for name in entry["results"]]
            if entry["inputs"] == _times(job) and all(path.exists() for path in results):
                return results
        return None

    def add(self, job: Job, results: Sequence[Path]) -> None:
        """Write down what the job became; a folder that may not be written to costs the list, not the results."""
        names = [path.relative_to(self.folder).as_posix() for path in results]
        with suppress(OSError):
            line = _line({"done": {job.name: {"inputs": _times(job), "results": names}}})
            if self.begun:
                with self.path.open("ab") as file:
                    file.write(line)
            else:
                write_file(self.path, _line({"head": self.head, "done": self.done}) + line)
                self.begun = True


def _times(job: Job) -> list[list[int]]:
    """Size and time of change of each file that a job reads."""
    return [[status.st_size, status.st_mtime_ns] for status in (file.stat() for file in job.files)]


def _line(known: dict[str, Any]) -> bytes:
    return (json.dumps(known) + "\n").encode()


def _parsed(text: str) -> list[Any]:
    """The value of a text that is JSON, or nothing."""
    with suppress(ValueError):
        return [json.loads(text)]
    return []
