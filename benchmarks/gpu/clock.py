"""The one budget of time that all parts share."""

from __future__ import annotations

import time


class Clock:
    """Counts down from `minutes`; `began` is when the command started (time.monotonic), None: now."""

    def __init__(self, minutes: float, began: float | None = None):
        self.began = time.monotonic() if began is None else began
        self.seconds = 60.0 * minutes

    def spent(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.began

    def left(self) -> float:
        """Seconds that remain, never below 0."""
        return max(0.0, self.seconds - self.spent())
