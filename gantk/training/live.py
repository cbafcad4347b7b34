"""Training progress: on a terminal one live line, elsewhere a line a minute and one for each
validation score. Losses are in the run's log and report.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from gantk.errors import printable
from gantk.guest import Say, tell
from gantk.metrics.names import short_metric_name, title_of
from gantk.runs.results import Score
from gantk.terminal import duration

SPEED_WINDOW = 60.0  # seconds: window of the speed estimate, and between two plain lines


class LiveView:
    """Shows training progress; a context manager that leaves the terminal as it was, also after
    Ctrl-C.

    Without a terminal, or with NO_COLOR, CI or TERM=dumb, plain lines without control characters
    are printed.

    Args:
        total_steps: the length of the whole training.
        say: hears all lines; not while there is a bar.
        console: where the bar is; None: standard output.
        clock: returns seconds.
        shown: whether the progress is among the lines.
        on_terminal: whether `say` prints on standard output, where the progress may be a bar.
        domains: names of the domains, for the titles of scores.

    Attributes:
        write_error: the error after which nothing is written, such as a closed terminal.
    """

    def __init__(
        self,
        total_steps: int,
        say: Say = tell,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
        shown: bool = True,
        on_terminal: bool = True,
        domains: Sequence[str] = (),
    ):
        self.say = say
        self.on_terminal = on_terminal
        self.console = console or Console()
        self.shown = shown
        self.clock = clock
        self.total = total_steps
        self.domains = domains
        unwanted = os.environ.get("NO_COLOR") or os.environ.get("CI")
        is_live = self.console.is_terminal and not self.console.is_dumb_terminal
        self.plain = bool(unwanted) or not is_live or not (shown and on_terminal)
        self.write_error: OSError | None = None
        self._facts: dict[str, str] = {}  # busy, score and speed, as texts
        self._scores: Mapping[str, float] = {}  # of the last validation, by direction
        self._printed = clock()
        self._bar = Progress(
            BarColumn(None),
            TextColumn("{task.description}", markup=False),
            console=self.console,
            transient=True,
            refresh_per_second=2,
            expand=True,
            get_time=clock,
            speed_estimate_period=SPEED_WINDOW,
        )
        self._task = self._bar.add_task("", total=max(1, total_steps))

    def __enter__(self) -> LiveView:
        if not self.plain:
            self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if not self.plain:
            with suppress(OSError):
                self._bar.stop()

    def busy(self, what: str = "") -> None:
        """Show the work between two steps, such as "saving the weights"; "" if there is none."""
        self._facts["busy"] = what
        self._bar.update(self._task, description=self.line())

    def step(self, step: int) -> None:
        """Set the number of finished steps; call it after each step."""
        was_finished = self._bar.tasks[0].finished
        self._bar.update(self._task, completed=step)
        self._bar.update(self._task, description=self.line())
        ends = step >= self.total and not was_finished
        if self.plain and (ends or self.clock() - self._printed >= SPEED_WINDOW):
            self._print_line()

    def update(
        self,
        step: int,
        *,
        images_per_s: float | None = None,
        validation: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        """Set the step, the speed and the validation scores (direction -> metric -> value).

        The first metric is shown, with its change since the validation before:

            step 200/2400  8%  left 1 min 12 s  validation PSNR: T1 -> T2 20.12 (+1.63)
        """
        if images_per_s is not None:
            self._facts["speed"] = f"{images_per_s:.1f} images/s"
        scored = {direction: scores for direction, scores in (validation or {}).items() if scores}
        if scored:
            metric = next(iter(next(iter(scored.values()))))
            values = {key: scores[metric] for key, scores in scored.items() if metric in scores}
            texts = [
                f"{title_of(key, self.domains)} {self._with_change(key, value)}"
                for key, value in values.items()
            ]
            name = short_metric_name(metric)
            self._facts["score"] = f"validation {name}: {', '.join(texts)}"
            self._scores = values
        self.step(step)
        if scored and self.plain:
            self._print_line()

    def print(self, *lines: str, style: str = "") -> None:
        """Say lines, or print them above the bar, markup unread."""
        try:
            for line in map(printable, lines):
                if self.plain:
                    self.say(line)
                else:
                    self.console.print(Text(line, style=style))
        except (OSError, SystemExit) as error:  # rich exits where a pipe is closed
            closed = BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
            self.write_error = error if isinstance(error, OSError) else closed
            with suppress(OSError):  # discards what is still buffered
                if self.on_terminal:
                    os.dup2(os.open(os.devnull, os.O_WRONLY), self.console.file.fileno())

    def line(self) -> str:
        """Step, remaining time at the speed of the last minute, current work, score and speed."""
        task = self._bar.tasks[0]
        step = int(task.completed)
        # a training of 0 steps is finished
        percent = 100 * step // self.total if self.total else 100
        left = f"left {duration(task.time_remaining)}" if task.time_remaining else ""
        facts = [self._facts.get(key, "") for key in ("busy", "score", "speed")]
        return "  ".join(filter(None, [f"step {step}/{self.total}", f"{percent}%", left, *facts]))

    def _with_change(self, direction: str, value: float) -> str:
        """`24.51 (+0.32)`: a score and its change since the last validation."""
        text = Score(value=value).text()
        if direction not in self._scores:
            return text
        return f"{text} ({value - self._scores[direction]:+.2g})"

    def _print_line(self) -> None:
        self._printed = self.clock()
        if self.shown:
            self.print(self.line())
