"""How a training goes, on a terminal: a line at each log point, and below them a bar; lines alone elsewhere."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from gantk.terminal import duration

SHORT = {"generators": "g", "discriminators": "d"}


class LiveView:
    """Shows how a training goes; a context manager that leaves the terminal as it was, Ctrl-C included.

    `total_steps` is the length of the whole training, `console` where to write (None: stdout), `clock` a source of
    seconds; `shown` False is for ranks that do not print. Away from a terminal, and where NO_COLOR, CI or TERM=dumb is
    set, it writes plain lines without a control character.
    """

    def __init__(
        self,
        total_steps: int,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
        shown: bool = True,
    ):
        self.console, self.shown, self.clock, self.total = console or Console(), shown, clock, total_steps
        unwanted = os.environ.get("NO_COLOR") or os.environ.get("CI") or self.console.is_dumb_terminal
        self.plain = bool(unwanted) or not self.console.is_terminal or not shown
        self._pace: deque[tuple[float, int]] = deque(maxlen=30)  # recent (time, step): the present speed
        columns = BarColumn(None), TaskProgressColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
        self._bar = Progress(*columns, console=self.console, transient=True, refresh_per_second=2, expand=True)
        self._task = self._bar.add_task("", total=max(1, total_steps))

    def __enter__(self) -> LiveView:
        if not self.plain:
            self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if not self.plain:
            self._bar.stop()

    def update(
        self,
        step: int,
        *,
        images_per_s: float | None = None,
        losses: dict[str, float] | None = None,
        validation: dict[str, dict[str, float]] | None = None,
    ) -> None:
        """What is known after `step`, as a line: losses by "phase/name", scores by direction and metric.

        `step 200/2400  8%  31.2 images/s  left 1 min 12 s  g: cycle 1.2  psnr a_to_b 20.1`
        """
        if not self._pace or self._pace[-1][1] != step:
            self._pace.append((self.clock(), step))
        percent = 100 * step // self.total if self.total else 100  # a training of no steps is at its end
        parts = [f"step {step}/{self.total}", f"{percent}%"]
        parts += [] if images_per_s is None else [f"{images_per_s:.1f} images/s"]
        parts += [f"left {duration(self._left())}"] if step < self.total and self._left() is not None else []
        self._bar.update(self._task, completed=step, description="  ".join(parts[2:]))
        phases: dict[str, list[str]] = {}
        for full, value in (losses or {}).items():
            phase, _, name = full.rpartition("/")
            phases.setdefault(SHORT.get(phase, phase or "loss"), []).append(f"{name} {value:.3g}")
        metrics: dict[str, list[str]] = {}
        for direction, scores in (validation or {}).items():
            for metric, value in scores.items():
                metrics.setdefault(metric, []).append(f"{direction} {value:.3g}")
        parts += [f"{phase}: {' '.join(values)}" for phase, values in phases.items()]
        self.print("  ".join(parts + [f"{metric} {' '.join(values)}" for metric, values in metrics.items()]))

    def print(self, *lines: str, style: str = "") -> None:
        """Lines that stay, above the bar; nothing in them is read as markup."""
        for line in lines if self.shown else ():
            if self.plain:
                print(line, file=self.console.file, flush=True)
            else:
                self.console.print(Text(line, style=style))

    def _left(self) -> float | None:
        """Seconds to the end at the pace of the last log points; None before there are two."""
        if len(self._pace) < 2 or self._pace[-1][1] <= self._pace[0][1]:
            return None
        (first, from_step), (last, to_step) = self._pace[0], self._pace[-1]
        ahead = (self.total - to_step) * (last - first) / (to_step - from_step)
        return max(ahead - (self.clock() - last), 0.0)
