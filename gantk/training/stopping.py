"""Ctrl-C as a wish: what is at work finishes its step first."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stop_on_ctrl_c() -> Iterator[list[int]]:
    """A list that becomes true at the first Ctrl-C or SIGTERM; a second Ctrl-C interrupts at once.

    Not an exception wherever the work happens to be: a file half written, or a child that is just being started, would
    be forgotten.
    """
    stopped: list[int] = []

    def stop(number: int, frame: Any) -> None:
        if stopped:
            raise KeyboardInterrupt
        stopped.append(number)

    try:
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: whoever owns it decides
        before = {}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
