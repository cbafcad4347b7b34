"""How far a worker has come in the changes of its Orthanc: the only state that is kept here."""

from __future__ import annotations

import json
from pathlib import Path

from gantk.files import sweep, write_file
from gantk_serve.orthanc import Answer, Change, Json, parse_record

NAME = "changes.json"


class Mark(Answer):
    """The content of the file."""

    read: int
    last: Change


class ChangeMark:
    """The number of the last change, in a file of a folder that is always whole.

    `read` is the number up to which changes are read; a new process begins with that in the file,
    before which nothing was left to do. `last` is the last change that was read: where it is gone,
    the numbers are those of another database.
    """

    def __init__(self, folder: Path):
        self.path = folder / NAME
        self.read = 0
        self.last: Json = {}
        sweep(folder)
        if self.path.exists():
            found = parse_record(self.path.read_text("utf-8", "replace"), Mark)
            if found:
                self.read = found["read"]
                self.last = found["last"]
        self._written = (self.read, self.last)

    def write(self, done: int) -> None:
        """Note that nothing is left to do of the changes up to a number."""
        if (done, self.last) == self._written:
            return
        write_file(self.path, json.dumps({"read": done, "last": self.last}).encode(), private=True)
        self._written = (done, self.last)
