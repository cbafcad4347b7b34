"""Addresses that a server listens on."""

from __future__ import annotations

import socket

from gantk.errors import UserError


def listen(host: str, port: int, where: str) -> socket.socket:
    """A socket that listens on an address; 0 is a free port. UserError at the options `where`, if
    that is impossible.
    """
    try:
        return socket.create_server((host, port))
    except OSError as error:
        raise cannot_listen(error, host, port, where) from None


def cannot_listen(error: OSError, host: str, port: int, where: str) -> UserError:
    """The error for an address that is taken, or not of this machine."""
    return UserError(
        f"the server cannot listen on {host}, port {port}: {error.strerror}",
        where=where,
        remedy="choose another address or port; port 0 is a free one",
    )
