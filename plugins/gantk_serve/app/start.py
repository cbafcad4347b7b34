"""Starts the page and its API: `gantk.app`."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import tempfile
from pathlib import Path
from threading import Event

from gantk.errors import UserError, importing
from gantk.files import make_folder, temporary_beside
from gantk.terminal import Say

PASSWORD = "GANTK_APP_PASSWORD"


def app(
    run: str = "t1t2",
    *,
    port: int = 7860,
    host: str = "127.0.0.1",
    max_mb: int = 512,
    device: str | None = None,
    say: Say = print,
) -> None:
    """Serve a web page, and Gradio's API for programs, which translate scans with `run`, until
    Ctrl-C.

    Args:
        run: as in `gantk.load`.
        port: the port; 0 chooses a free one.
        host: the address to listen on. Any address but that of this machine asks for the user "gantk"
            and a password: that of the variable GANTK_APP_PASSWORD, or a new one, which is said.
        max_mb: the largest upload in MB, also after unzipping.
        device: as in `gantk.run`.
        say: called with each line of output.

    Raises:
        UserError: the model does not translate one image to another, the address is taken, or a
            package is missing.
    """
    os.environ |= {  # before gradio is imported
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GANTK_MAX_GIB": os.environ.get("GANTK_MAX_GIB", "2"),
    }
    with importing("`gantk app`", "app"):
        from gantk_serve.app.page import LOOPBACK, Service, serve_page

    password = os.environ.get(PASSWORD, "")
    is_open = host not in LOOPBACK
    folder = temporary_beside(Path(tempfile.gettempdir()) / "gantk-app")
    make_folder(folder, private=True, new=True)
    try:
        # so that `finally` deletes uploads
        for stop in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(stop, signal.default_int_handler)

        service = Service(run, max_mb << 20, device)
        if is_open and not password:
            password = secrets.token_urlsafe(24)
            say(f"password {password}   (user gantk; {PASSWORD} sets another one)")
        try:
            page = serve_page(service, folder, host, port, password)
        except OSError:
            raise UserError(
                f"the server cannot listen on {host}, port {port}",
                where="--host, --port",
                remedy="choose another address or port; port 0 is a free one",
            ) from None
        say(f"open     {page.local_url.rstrip('/')}   (Ctrl-C stops the server)")
        if is_open:
            say("warning  this address has no encryption: put a server with TLS before it")
        Event().wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
