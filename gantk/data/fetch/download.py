"""One file over HTTP, going on where an earlier attempt stopped."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gantk.errors import GantkError

TRIES = 4  # attempts in a row that bring nothing before giving up; any byte that arrives starts the count anew
PAUSE = 1.0  # seconds before the second of them; doubled each time after that
PATIENCE = (10.0, 60.0)  # seconds to connect, and between two pieces
PIECE = 2**16  # bytes; no more than this is lost when a connection breaks
AGAIN = (408, 425, 429, 500, 502, 503, 504)  # answers that a later attempt may not get

Report = Callable[[int, int], None]  # (bytes here, bytes in all; 0 = not known)


class _Cut(Exception):
    """The connection failed; another attempt may go on from here."""


class Resuming:
    """A downloader for `pooch.retrieve` that keeps what has arrived in `part` and asks for the rest.

    The rest is asked for only of the same file: what identifies it (ETag, else date) is kept in `part`.tag, and a
    server that has another one by now, or knows no ranges, sends it from the start. `part` stays until `drop` is
    called. GantkError in one sentence where the server cannot be reached, has no such file, offers another size than
    `size` (0: any), or the disk is full.
    """

    def __init__(self, part: Path, size: int = 0, report: Report = lambda here, total: None):
        self.part, self.tag, self.size, self.report = part, part.with_name(part.name + ".tag"), size, report

    def __call__(self, url: str, output_file: str, pooch: Any = None) -> None:
        idle = 0
        if self.size and self.here > self.size:
            self.drop()
        while not (self.size and self.here == self.size):  # a process may have died when all of it was there
            before = self.here
            try:
                self._go_on(url)
                break
            except _Cut as cut:
                idle = 0 if self.here > before else idle + 1
                if idle >= TRIES:
                    raise GantkError(self._given_up(url, str(cut))) from None
                time.sleep(PAUSE * 2 ** max(idle - 1, 0))
        self._hand_over(output_file)

    @property
    def here(self) -> int:
        """Bytes that have arrived."""
        return self.part.stat().st_size if self.part.exists() else 0

    def drop(self) -> None:
        """Forget what has arrived."""
        self.part.unlink(missing_ok=True)
        self.tag.unlink(missing_ok=True)

    def _hand_over(self, output_file: str) -> None:
        """Under another name too: pooch deletes its file when it is interrupted while it looks at the checksum."""
        os.unlink(output_file)
        try:
            os.link(self.part, output_file)
        except OSError:  # a disk that knows no links
            os.replace(self.part, output_file)

    def _go_on(self, url: str) -> None:
        """Fetch what is missing; _Cut where the connection breaks."""
        import requests

        try:
            with requests.get(url, headers=self._wanted(), stream=True, timeout=PATIENCE) as answer:
                if answer.status_code == 416:  # nothing lies beyond what is here
                    if answer.headers.get("Content-Range") == f"bytes */{self.here}":
                        return
                    self.drop()
                    raise _Cut("the server has another file by now")
                if answer.status_code in AGAIN:
                    raise _Cut(f"the server answered {answer.status_code} {answer.reason}")
                if answer.status_code not in (200, 206):
                    raise GantkError(_refusal(url, answer.status_code, answer.reason))
                self._receive(url, answer)
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            raise _Cut(_reason(error)) from None
        except requests.RequestException as error:
            raise GantkError(f"'{url}' cannot be fetched: {_reason(error)}.") from None

    def _wanted(self) -> dict[str, str]:
        headers = {"Accept-Encoding": "identity", "User-Agent": "gantk"}  # a range of a compressed answer is no range
        tag = self.tag.read_text("utf-8") if self.tag.exists() else ""
        if self.here and tag:
            return headers | {"Range": f"bytes={self.here}-", "If-Range": tag}
        return headers | ({"Range": f"bytes={self.here}-"} if self.here and self.size else {})

    def _receive(self, url: str, answer: Any) -> None:
        here, total = (self.here, 0) if answer.status_code == 206 else (0, 0)
        if answer.status_code == 206:
            start, _, whole = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
            total = int(whole) if whole.isdigit() else 0
            if start.partition("-")[0] != str(here):
                self.drop()
                raise _Cut("the server sent another part than it was asked for")
        elif answer.headers.get("Content-Length", "").isdigit():
            total = int(answer.headers["Content-Length"])
        if self.size and total and total != self.size:
            self.drop()
            raise GantkError(
                f"'{url}' has {total:,} bytes, and {self.size:,} were published: it is another file by now. "
                "Look at the set's page, or name a mirror with --from."
            )
        _check_room(self.part.parent, max(total, self.size) - here)
        tag = answer.headers.get("ETag", "")
        tag = answer.headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag
        self.tag.write_text(tag, "utf-8")
        with open(self.part, "ab" if here else "wb") as file:
            for piece in answer.iter_content(PIECE):
                here += len(piece)
                if here > (self.size or here):
                    self.drop()
                    raise GantkError(f"'{url}' is longer than the {self.size:,} bytes that were published.")
                file.write(piece)
                self.report(here, total or self.size)
        if here < (total or self.size):
            raise _Cut(f"the connection ended after {here:,} of {total or self.size:,} bytes")

    def _given_up(self, url: str, reason: str) -> str:
        kept = f" {self.here:,} bytes are kept, and the same command goes on from there." if self.here else ""
        return f"'{url}' cannot be fetched: {reason}.{kept} Check the connection, or name a mirror with --from."


def _refusal(url: str, status: int, reason: str) -> str:
    what = {
        404: "the server has no such file (404)",
        410: "the server no longer has this file (410)",
        401: "the server asks for a login (401)",
        403: "the server refuses to hand it out (403)",
    }.get(status, f"the server answered {status} {reason}")
    return f"'{url}' cannot be fetched: {what}. Look at the set's page for where it is now, and name it with --from."


def _reason(error: Exception) -> str:
    """What went wrong in a few words; requests wraps urllib3's errors, which wrap the system's."""
    text = str(error)
    known = {
        "NameResolutionError": "the server's name is not known here (no network?)",
        "Name or service not known": "the server's name is not known here (no network?)",
        "Temporary failure in name resolution": "the server's name is not known here (no network?)",
        "Connection refused": "the server refuses the connection",
        "Network is unreachable": "there is no network",
        "timed out": "the server does not answer",
        "IncompleteRead": "the connection ended early",
        "Connection broken": "the connection ended early",
        "Connection aborted": "the connection ended early",
        "CERTIFICATE_VERIFY_FAILED": "the server's certificate is not to be trusted",
    }
    found = next((words for mark, words in known.items() if mark in text), None)
    return found or text.split("\n")[0][:160] or type(error).__name__


def _check_room(folder: Path, needed: int) -> None:
    """GantkError where the disk has no room for so many bytes more."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        what = f"{needed / 1e9:.2f} GB are still to come, and the disk of '{folder}' has {free / 1e9:.2f} GB left"
        raise GantkError(f"{what}. Make room, or choose another --out.")
