"""What a service says: lines of JSON with pseudonyms, on stderr and in a file; never a name."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import secrets
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from gantk.errors import printable
from gantk.files import append_to_file, write_file

LOG = "log.jsonl"
KEY = "pseudonyms.key"
MAX_LOG_BYTES = 2**26  # then the file becomes log.jsonl.1


class Journal:
    """The log of the service in `folder`."""

    def __init__(self, folder: Path, *, quiet: bool = False):
        """`quiet`: only write the file."""
        self.path = folder / LOG
        self.quiet = quiet
        self._lock = threading.Lock()
        self._key = secret_of(folder / KEY, lambda: secrets.token_bytes(32))

    def pseudonym(self, uid: str) -> str:
        """A text that stands for a UID or a patient; nobody without the service's key finds out
        which.
        """
        digest = hmac.new(self._key, uid.encode("utf-8", "surrogateescape"), hashlib.sha256)
        return digest.hexdigest()[:12]

    def whose(self, study: str | None) -> str:
        """The pseudonym of a study, or "upload" for a job without one."""
        return "upload" if study is None else self.pseudonym(study)

    def say(self, event: str, *, study: str | None = None, **facts: object) -> None:
        """Log an event with its facts, which must name nobody. `study` is a UID and becomes a
        pseudonym.
        """
        line: dict[str, object] = {"time": datetime.now(UTC).isoformat(timespec="milliseconds")}
        line["event"] = event
        if study is not None:
            line["study"] = self.pseudonym(study)
        line |= {name: value for name, value in facts.items() if value not in ("", None)}
        text = json.dumps(line, default=str, ensure_ascii=True)
        with self._lock:
            if not self.quiet:
                _print(printable(text))
            self._append(text)

    def _append(self, text: str) -> None:
        """Add a line to the file; a full disk must not stop the service."""
        try:
            if self.path.exists() and self.path.stat().st_size > MAX_LOG_BYTES:
                self.path.replace(self.path.with_name(f"{LOG}.1"))
            append_to_file(self.path, text.encode() + b"\n")
        except OSError as error:
            _print(f"the log cannot be written: {error.strerror}")


def local_time(seconds: float) -> str:
    """A time in seconds since 1970, as on a clock here."""
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")


def silence_libraries() -> None:
    """Suppress all lines and warnings of libraries in this process: those about DICOM quote headers."""
    warnings.simplefilter("ignore")
    for name in ("pydicom", "pynetdicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def kind_and_place(error: BaseException) -> str:
    """An error that nobody expected, without its text, which may quote a header."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {Path(place.filename).name}, line {place.lineno}"


def _print(line: str) -> None:
    """Print a line to stderr, which may be a file on a full disk, or a pipe that nobody reads."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def secret_of(path: Path, draw: Callable[[], bytes]) -> bytes:
    """The secret in a file, which only this user may read; a new one where there is none."""
    if not path.exists():
        write_file(path, draw(), private=True)
    return path.read_bytes()
