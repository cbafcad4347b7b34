"""Starts the page and its API: `gantk.app`, its address and its password."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from gantk.errors import UserError, importing, reading_file
from gantk.files import make_folder, read_file, temporary_beside
from gantk_serve.app.service import LOOPBACK, Service

MIN_TOKEN_CHARACTERS = 32
MAX_TOKEN_BYTES = 4096
CLEANING_S = 60.0  # between two deletions of what nobody uses


def read_token(file: Path | None, host: str) -> str:
    """The password of the page and its API, from a file that only its user can read; "" where it
    listens on this machine alone and no file is given.

    Raises:
        UserError: other machines may connect and no file is given, or it cannot be read, holds too
            short a text, or others can read it.
    """
    if file is None:
        if host in LOOPBACK:
            return ""
        raise UserError(
            f"other machines could use the server at {host} without a password",
            where="--token-file",
            remedy="name a file with a password, made by: (umask 077; openssl rand -hex 32 > token)",
        )
    with reading_file(file, where="--token-file"):
        mode = stat.S_IMODE(file.stat().st_mode)
        token = read_file(file, None, MAX_TOKEN_BYTES).decode().strip()
    if mode & 0o077:
        raise UserError(
            f"others can read '{file}': its mode is {mode:o}",
            where="--token-file",
            remedy=f"chmod 600 {file}",
        )
    if len(token) < MIN_TOKEN_CHARACTERS:
        raise UserError(
            f"the password in '{file}' has {len(token)} characters",
            where="--token-file",
            allowed=f"{MIN_TOKEN_CHARACTERS} or more",
            remedy="make one: openssl rand -hex 32",
        )
    return token


def app(
    run: str = "t1t2",
    *,
    port: int = 7860,
    host: str = "127.0.0.1",
    token_file: Path | None = None,
    max_mb: int = 512,
    device: str | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Serve a web page, and Gradio's API for programs, which translate scans with `run`, until
    Ctrl-C.

    Args:
        run: as in `gantk.load`.
        port: the port; 0 chooses a free one.
        host: the address to listen on. Any address but that of this machine needs a `token_file`.
        token_file: a file with a password of 32 characters or more, which only its user can read.
            The user's name is "gantk".
        max_mb: the largest upload in MB, also after unzipping.
        device: as in `gantk.run`.
        say: called with each line of output.

    Raises:
        UserError: as of `read_token`; or the address is taken, or a package is missing.
    """
    token = read_token(token_file, host)
    folder = temporary_beside(Path(tempfile.gettempdir()) / "gantk-app")
    os.environ |= {  # before gradio is imported
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GANTK_MAX_GIB": os.environ.get("GANTK_MAX_GIB", "2"),
    }
    with importing("`gantk app`", "app"):
        from gantk_serve.app.page import serve_page

    make_folder(folder, private=True, new=True)
    try:
        # so that `finally` deletes uploads
        for stop in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
            signal.signal(stop, signal.default_int_handler)

        service = Service(run, folder, max_mb << 20, device)
        try:
            page = serve_page(service, host, port, token)
        except OSError:
            raise UserError(
                f"the server cannot listen on {host}, port {port}",
                where="--host, --port",
                remedy="choose another address or port; port 0 is a free one",
            ) from None
        say(f"open     {page.local_url.rstrip('/')}   (Ctrl-C stops the server)")
        if host not in LOOPBACK:
            say("warning  this address has no encryption: put a server with TLS before it")
        while True:
            time.sleep(CLEANING_S)
            service.delete_idle()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
