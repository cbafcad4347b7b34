"""Servers on the loopback address, ordinary and hostile: a test says what each one answers."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Reply = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """One request, answered by the server's `reply`; a reader that hangs up is no error."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        with suppress(ConnectionError):
            self.server.reply(self)

    do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, *words) -> None:
        """Nothing on the terminal."""

    def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the start of an answer, with these headers alone."""
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def answer(
        self, content: bytes = b"", status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a whole answer."""
        self.start(status, {"Content-Length": str(len(content)), **(headers or {})})
        if self.command != "HEAD":
            self.wfile.write(content)

    def endless(self, headers: Mapping[str, str] | None = None) -> None:
        """Send chunks until the reader hangs up or the test ends; counts them in `server.sent`."""
        piece = bytes(2**16)
        self.start(200, {"Transfer-Encoding": "chunked", **(headers or {})})
        while not self.server.ended.is_set():
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.server.sent += len(piece)

    def until_closed(self, content: bytes) -> None:
        """Send content of no stated length; the end of the connection is its end."""
        self.start(200, {"Connection": "close"})
        self.wfile.write(content)
        self.close_connection = True

    def drip(self, content: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        """Send the start of an answer and content, then a byte now and then."""
        self.start(200, {"Content-Length": str(2**30), **(headers or {})})
        self.wfile.write(content)
        while not self.server.ended.wait(0.02):
            self.wfile.write(b"x")


class Server(ThreadingHTTPServer):
    """A server; `asked` are its requests, `sent` the bytes of endless answers."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, reply: Reply):
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply = reply
        self.asked: list[str] = []
        self.sent = 0
        self.ended = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address) -> None:
        """Print an error of a test's own reply; a reader that hangs up is none."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def serve(reply: Reply) -> Iterator[Server]:
    """A server that answers as `reply` says, until the block ends."""
    with Server(reply) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.ended.set()
            server.shutdown()
            thread.join()


def hub_reply(files: Mapping[str, bytes], commit: str, headers: Mapping[str, str]) -> Reply:
    """Answers of a hub whose repositories all have these files at this commit; `headers` are those
    of each file.
    """

    def reply(handler: Handler) -> None:
        parts = handler.path.partition("?")[0].split("/")
        if "resolve" in parts:
            path = "/".join(parts[5:])
            handler.answer(files.get(path, b""), 200 if path in files else 404, headers)
        elif "tree" in parts:
            listed = [
                {"type": "file", "path": path, "size": len(content), "oid": 40 * "0"}
                for path, content in files.items()
            ]
            handler.answer(json.dumps(listed).encode())
        else:
            siblings = [{"rfilename": path} for path in files]
            found = {"id": "/".join(parts[3:5]), "sha": commit, "siblings": siblings}
            handler.answer(json.dumps(found).encode())

    return reply
