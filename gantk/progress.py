"""How far long work is, as one line: live on a terminal, elsewhere printed every half minute.

Read `track` first. Work may lie inside other work: the line names all, the outermost first. Each
thread has a line of its own; whoever must draw it elsewhere hears of it by `progress_to`.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ContextDecorator, contextmanager, suppress
from typing import Any, TypeVar

from rich.console import Console

from gantk.errors import printable
from gantk.guest import at_begin, at_failure, hear, listener, tell
from gantk.terminal import duration, live, say, say_on_stderr

T = TypeVar("T")
Listener = Callable[[float, str], None]  # (share that is done, from 0 to 1; the line)

SECONDS_BETWEEN_LINES = 30.0
SPEED_WINDOW = 60.0  # seconds whose speed tells the time that is left
BAR_WIDTH = 20  # columns of a terminal
MIN_WIDTH_WITH_BAR = 100  # columns; a narrower terminal has room for the words alone
MIN_KNOWN_SHARE = 0.02  # of the work, from which the time that is left is told
clock = time.monotonic


class Work(ContextDecorator):
    """Work whose progress is shown inside its `with` block, or while the function runs that it
    decorates.

    Args:
        what: names the work, or its current part: "reading t1.nii.gz".
        total: how many equal parts it has; 0: not known.
        noun: what a part is: "file".
    """

    def __init__(self, what: str, total: float = 0, noun: str = "part"):
        self.what = what
        self.total = total
        self.noun = noun
        self.done = 0.0  # finished parts
        self._shares: deque[tuple[float, float]] = deque()  # (seconds, share) of the last minute

    def _recreate_cm(self) -> Work:  # for each call of a function
        return Work(self.what, self.total, self.noun)

    def __enter__(self) -> Work:
        _display.begin(self)
        return self

    def __exit__(self, *error: object) -> None:
        _display.end(self)

    def advance(self, done: float, what: str = "") -> None:
        """Set how many parts are finished, and name the one that follows."""
        self.done = done
        self.what = what or self.what
        self.show()

    def words(self) -> str:
        """The work, and which of its parts it is at: `reading t1.nii.gz, file 3 of 7`."""
        if self.total <= 1:
            return self.what
        part = f"{self.noun} {min(self.done + 1, self.total):.0f} of {self.total:.0f}"
        return f"{self.what}, {part}" if self.what else part

    def facts(self) -> str:
        """What else is known, for the end of the line."""
        return ""

    def draws(self) -> bool:
        """Whether lines are printed on standard output, where a live one may stand in for them."""
        return listener() in (None, tell, say)

    def write(self, line: str) -> None:
        """Print the line of the work that holds all other."""
        if not hear(line):
            say_on_stderr(line)

    def show(self, now: bool = False) -> None:
        """Show the line of all work; on no terminal only if it is time, or `now`."""
        if self in _display.works:
            _display.show(now)

    def time_left(self, share: float) -> str:
        """`left 4 min 10 s`, by the speed of the last minute, of work of which `share` is done."""
        now = clock()
        if not self._shares or now > self._shares[-1][0]:
            self._shares.append((now, share))
        while self._shares[0][0] < now - SPEED_WINDOW and len(self._shares) > 2:
            self._shares.popleft()
        begun, earlier = self._shares[0]
        if share < MIN_KNOWN_SHARE or share <= earlier or now <= begun:
            return ""
        return f"left {duration((1 - share) * (now - begun) / (share - earlier))}"


class Display(threading.local):
    """The work of a thread, the outermost first, and what shows it."""

    def __init__(self) -> None:
        self.works: list[Work] = []
        self.listener: Listener | None = None
        self.bar: Any = None
        self.last_line = clock()  # or when the command began

    def begin(self, work: Work) -> None:
        if not self.works and not self.listener and work.draws():
            self.bar = _new_bar()
        self.works.append(work)
        if not work.total:
            self.show()

    def end(self, work: Work) -> None:
        """End a work, and what began inside it."""
        if work in self.works:
            del self.works[self.works.index(work) :]
        if self.bar is not None and not self.works:
            with suppress(OSError):  # a closed terminal
                self.bar.stop()
            live.remove(self.bar.console)
            self.bar = None

    def show(self, now: bool = False) -> None:
        """Show the line; without a bar at most every SECONDS_BETWEEN_LINES, or `now`."""
        room = self.bar.console.width if self.bar is not None else sys.maxsize
        share, line = line_of(self.works, room - (room >= MIN_WIDTH_WITH_BAR) * (BAR_WIDTH + 1))
        if self.listener:
            self.listener(share or 0.0, line)
        elif self.bar is not None:
            total = None if share is None else 1.0
            self.bar.update(0, total=total, completed=share or 0.0, description=printable(line))
        elif now or clock() - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = clock()
            self.works[0].write(line)


_display = Display()


def clear_progress() -> None:
    """End the work of this thread: what it was done for has failed."""
    if _display.works:
        _display.end(_display.works[0])


def count_anew() -> None:
    """Count the seconds until the next line from now on: a command begins, and no work goes on."""
    if not _display.works:
        _display.last_line = clock()


at_begin.append(count_anew)
at_failure.append(clear_progress)


def track(items: Collection[T], what: str, noun: str = "image") -> Iterator[T]:
    """Yield items, and show which of them is worked on.

    for scan in track(scans, "reading", "scan"):   # reading, scan 12 of 40  30%  left 52 s
    """
    with Work(what, len(items), noun) as work:
        for number, item in enumerate(items):
            work.advance(number)
            yield item


@contextmanager
def progress_to(listener: Listener | None) -> Iterator[None]:
    """Context manager: a function hears the progress of this thread in place of the terminal; None:
    nothing changes.
    """
    before = _display.listener
    _display.listener = listener or before
    try:
        yield
    finally:
        _display.listener = before


def line_of(works: Sequence[Work], width: int = sys.maxsize) -> tuple[float | None, str]:
    """The share that is done, from 0 to 1, of the outermost work whose length is known, None without
    one; and the line: `reading, file 3 of 7  34%  left 2 min 10 s  slice 12 of 155`. A line of more
    than `width` characters loses what follows the time that is left, from its end, then the end of
    its first words.
    """
    share: float | None = None
    measured: Work | None = None
    for work in reversed(works):
        if work.total:
            share = min(1.0, (work.done + (share or 0.0)) / work.total)
            measured = work

    # what holds a measured work is named once
    first = max(0, works.index(measured) - 1 if measured else len(works) - 1)
    parts: list[str] = []
    kept = 1
    for work in works[first:]:
        parts += filter(None, [work.words()])
        if work is measured and share is not None:
            parts += filter(None, [f"{100 * share:.0f}%", work.time_left(share)])
            kept = len(parts)
    for work in works:
        parts += filter(None, work.facts().split("  "))
    while len(parts) > kept and len("  ".join(parts)) > width:
        parts.pop()
    excess = len("  ".join(parts)) - width
    if excess > 0:
        parts[0] = f"{parts[0][: -excess - 1]}…"
    return share, "  ".join(parts)


def _new_bar() -> Any:
    """A line with a bar on the terminal, below all that is printed meanwhile; None without one."""
    if os.environ.get("NO_COLOR") or os.environ.get("CI"):
        return None
    console = Console(highlight=False)
    is_live = console.is_terminal and not console.is_dumb_terminal
    if not is_live or threading.current_thread() is not threading.main_thread():
        return None

    from rich.progress import BarColumn, Progress, TextColumn

    columns: list[Any] = [TextColumn("{task.description}", markup=False)]
    if console.width >= MIN_WIDTH_WITH_BAR:
        columns.insert(0, BarColumn(BAR_WIDTH))
    # what is written to a file meanwhile stays there
    redirect = sys.stderr.isatty()
    bar = Progress(
        *columns, console=console, transient=True, refresh_per_second=2, redirect_stderr=redirect
    )
    bar.add_task("")
    with suppress(OSError):
        bar.start()
    live.append(console)
    return bar
