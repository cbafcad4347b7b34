"""Downloads files from servers that are not trusted: bounded in bytes, in time, and in where
redirects lead. Imports no large package.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any, TypeVar
from urllib.parse import SplitResult, urljoin, urlsplit

from gantk.errors import GantkError, UserError, one_line, text_of

T = TypeVar("T")

TRIES = 4  # consecutive attempts without a new piece before giving up
PAUSE_SECONDS = 1.0  # between two attempts
CONNECT_SECONDS = 10.0
PIECE_BYTES = 2**16  # per write; at most this much is lost when a connection breaks
# In this time the start of an answer, and each piece, must arrive: at least 3 kB a second.
PIECE_SECONDS = 20.0
MAX_UNSTATED_BYTES = 2**30  # of a file whose size neither its publisher nor the server states
MAX_TEXT_BYTES = 2**23  # of an answer in JSON
MAX_REDIRECTS = 5
BUSY = (408, 425, 429)  # errors of the class 4xx after which asking again may help
LENGTH = re.compile(r"[0-9]{1,18}")
# User and password of an address, up to the last @ in it.
CREDENTIALS = re.compile(r"(?<=://)[^\s'\"]*@")

# who speaks in the words of an error of requests
SAID_BY = {
    "ProxyError": "the proxy of the variable HTTPS_PROXY or HTTP_PROXY: ",
    "InvalidProxyURL": "the variable HTTPS_PROXY or HTTP_PROXY: ",
    "SSLError": "the certificate of the server, or of a proxy, is not accepted: ",
}

# Whether a redirect from the first address may lead to the second.
RedirectRule = Callable[[SplitResult, SplitResult], bool]


class Refused(GantkError):
    """A server's answer that is not taken: asking again would not help."""


class NotAnswered(GantkError):
    """No answer, or a broken one: the server may give a better one later."""


class Status(NotAnswered):
    """An answer that is an error, with its `status`."""

    def __init__(self, status: int, reason: str):
        self.status = status
        super().__init__(f"{status} {reason}".rstrip())


@dataclass(frozen=True)
class Answer:
    """The content of a server's answer."""

    start: int  # the byte of the file at which the pieces begin
    total: int | None  # bytes of the whole file, where the server states them
    pieces: Iterator[bytes]


def without_credentials(text: object) -> str:
    """A text whose addresses show *** instead of a user name and a password."""
    return CREDENTIALS.sub("***@", str(text))


def same_host_or_public(start: SplitResult, target: SplitResult) -> bool:
    """Whether a redirect stays on its host, or leads to a host with a name, encrypted.

    An address of this machine or of a local network is reached by redirects from itself only.
    """
    if is_same_host(start, target):
        return True
    name = target.hostname or ""
    is_local = name.endswith((".localhost", ".local", ".internal"))
    return target.scheme == "https" and bool(re.search(r"\.[a-z][a-z-]*$", name)) and not is_local


def is_same_host(start: SplitResult, target: SplitResult) -> bool:
    """Whether two addresses have the same scheme, host and port."""
    return _host(start) == _host(target)


def require_address(url: str, where: str) -> str:
    """Return an address of the web; UserError where it is none."""
    parts = _parts(url)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(
            f"'{without_credentials(url)}' is not a valid address",
            where=where,
            allowed="http://... or https://...",
        )
    return url


def download(
    url: str,
    file: Path,
    *,
    size: int = 0,
    most: int,
    headers: Mapping[str, str] | None = None,
    may_redirect: RedirectRule = same_host_or_public,
    report: Callable[[float], None] = lambda share: None,
    say_retry: Callable[[NotAnswered], None],
) -> None:
    """Download a file, resuming an earlier attempt; retries where the connection breaks.

    Args:
        url: the address.
        file: where to write. What an earlier attempt has left there is continued.
        size: the published size in bytes; 0 where none is published.
        most: the largest size in bytes, where none is published.
        headers: headers of the request. They are not sent to other hosts.
        may_redirect: the redirects that are followed.
        report: called with the share that is done, from 0 to 1.
        say_retry: called with the reason before each retry.

    Raises:
        Refused: the server states or sends more bytes than `size` or `most`, encodes the content, or
            redirects to an address that is not allowed. The file is deleted.
        NotAnswered: the server does not answer, breaks off, or sends less than 3 kB a second. What
            has arrived is kept.
    """
    left = TRIES
    while not (size and _bytes(file) == size):
        before = _bytes(file)
        try:
            return _receive(url, file, size, most, headers or {}, may_redirect, report)
        except Refused:
            file.unlink(missing_ok=True)
            raise
        except NotAnswered as error:
            left = TRIES if _bytes(file) >= before + PIECE_BYTES else left - 1
            status = error.status if isinstance(error, Status) else 500
            if left <= 0 or (status < 500 and status not in BUSY):  # unknown, or forbidden
                raise

            say_retry(error)
            time.sleep(PAUSE_SECONDS)


def read_json(url: str, headers: Mapping[str, str], may_redirect: RedirectRule) -> Any:
    """The JSON at an address; Refused or NotAnswered as `download` raises them, Refused where it is
    no JSON or longer than `MAX_TEXT_BYTES`.
    """
    content = bytearray()
    for piece in _ask(url, 0, headers, may_redirect).pieces:
        content += piece
        if len(content) > MAX_TEXT_BYTES:
            raise Refused(f"the answer has more than {MAX_TEXT_BYTES:,} bytes")

    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise Refused("the answer is not JSON") from None


def _receive(
    url: str,
    file: Path,
    size: int,
    most: int,
    headers: Mapping[str, str],
    may_redirect: RedirectRule,
    report: Callable[[float], None],
) -> None:
    """One attempt to download the missing bytes; restarts if the server does not support ranges."""
    try:
        answer = _ask(url, _bytes(file), headers, may_redirect)
    except Status as error:
        if error.status == 416 and file.exists():  # the file is complete
            return
        raise

    limit = size or most
    if answer.total is None and not size:
        limit = min(most, MAX_UNSTATED_BYTES)

    if answer.total is not None and (answer.total > limit or size and answer.total != size):
        raise Refused(_too_large(f"the server states {answer.total:,} bytes", size, limit))

    here = answer.start
    with open(file, "ab" if here else "wb") as opened:
        for piece in answer.pieces:
            here += len(piece)
            if here > limit:
                raise Refused(
                    _too_large(f"the server sends more than {limit:,} bytes", size, limit)
                )

            opened.write(piece)
            report(here / (answer.total or size) if answer.total or size else 0.0)

    total = answer.total or size
    if here < total:
        raise NotAnswered(f"the connection ended after {here:,} of {total:,} bytes")


def _too_large(what: str, size: int, limit: int) -> str:
    return f"{what}, {size:,} are published" if size else f"{what}, at most {limit:,} are accepted"


def _ask(url: str, start: int, headers: Mapping[str, str], may_redirect: RedirectRule) -> Answer:
    """Ask for a file from a byte on."""
    # ranges do not fit compressed content
    asked = {"Accept-Encoding": "identity", "User-Agent": "gantk", **headers}
    if start:
        asked["Range"] = f"bytes={start}-"

    answer = _in_time(lambda: _follow(url, asked, headers, may_redirect))
    if answer.status_code not in (200, 206):
        raise Status(answer.status_code, one_line(answer.reason, 60) if answer.reason else "")

    encoding = answer.headers.get("Content-Encoding", "identity")
    if encoding.strip().lower() not in ("", "identity"):
        raise Refused(f"the server encodes the content ({one_line(encoding, 20)}), unasked")

    if answer.status_code == 200:  # from the beginning: no ranges
        start = 0

    part = answer.headers.get("Content-Range", "")
    if start and part and not part.startswith(f"bytes {start}-"):
        raise Refused("the server sent another part of the file than the one asked for")

    length = answer.headers.get("Content-Length", "").strip()
    total = start + int(length) if LENGTH.fullmatch(length) else None

    def next_piece() -> bytes:
        return _in_time(lambda: answer.raw.read(PIECE_BYTES, decode_content=False))

    return Answer(start, total, iter(next_piece, b""))


def _follow(
    url: str, headers: dict[str, str], own: Mapping[str, str], may_redirect: RedirectRule
) -> Any:
    """The answer of the server at the end of all redirects; `own` headers stay on their host."""
    import requests

    class Session(requests.Session):
        def get_redirect_target(self, resp: Any) -> None:
            """None, so that requests does not read the content of a redirect, however long."""

    first = urlsplit(url)
    for _ in range(MAX_REDIRECTS + 1):
        timeouts = (CONNECT_SECONDS, PIECE_SECONDS)
        # a no-op, so that no entry of ~/.netrc replaces a token
        auth = (lambda request: request) if "Authorization" in headers else None
        with Session() as session:
            answer = session.get(
                url,
                headers=headers,
                auth=auth,
                stream=True,
                timeout=timeouts,
                allow_redirects=False,
            )
        if not answer.is_redirect:
            return answer

        answer.close()
        place = answer.headers["Location"]
        target = _parts(url, place)
        if target is None or not may_redirect(first, target):
            shown = one_line(without_credentials(place.partition("?")[0]), 100)
            raise Refused(f"the server redirects to '{shown}', which gantk does not follow")

        url = target.geturl()

        if not is_same_host(first, target):
            headers = {name: value for name, value in headers.items() if name not in own}

    raise Refused(f"the server redirects more than {MAX_REDIRECTS} times")


def _in_time(call: Callable[[], T]) -> T:
    """What a call to a server returns; NotAnswered where it fails, or takes too long.

    The call has a thread of its own: a timeout of the socket does not bound a server that sends
    single bytes.
    """
    from urllib3.exceptions import HTTPError

    done: Queue[tuple[Any, Exception | None]] = Queue(1)

    def run() -> None:
        try:
            done.put((call(), None))
        except Exception as error:  # raised below, in the thread that waits
            done.put((None, error))

    Thread(target=run, daemon=True).start()
    try:
        result, error = done.get(timeout=PIECE_SECONDS)
    except Empty:
        raise NotAnswered(
            f"the server sent less than {PIECE_BYTES:,} bytes in {PIECE_SECONDS:.0f} seconds"
        ) from None

    # the words of http.client, which urllib3 repeats
    if error is not None and "IncompleteRead" in text_of(error):
        raise NotAnswered("the connection ended before all bytes were sent")
    if type(error) is OSError and error.errno is None:  # requests on this machine's certificates
        raise UserError(
            one_line(error),
            remedy="correct the variable REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE, or unset it",
        )
    if isinstance(error, (OSError, HTTPError, HTTPException, ValueError)):
        # urllib3's errors wrap the system's
        reason = one_line(error, 4000).rpartition(": ")[2].rpartition("('")[2].rstrip("')>.")
        said_by = SAID_BY.get(type(error).__name__, "")
        raise NotAnswered(said_by + (one_line(without_credentials(reason)) or "no answer"))

    if error is not None:
        raise error

    return result


def _parts(url: str, relative: str = "") -> SplitResult | None:
    """The parts of an address, or of one `relative` to it; None where it is malformed."""
    try:
        parts = urlsplit(urljoin(url, relative))
        return parts if parts.port is None or parts.port >= 0 else None
    except ValueError:
        return None


def _host(parts: SplitResult) -> tuple[str, str | None, int | None]:
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, port


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
