"""Training progress: on a terminal one live line, elsewhere a line a minute and one for each
validation score. Losses are in the run's log and report.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.table import Column
from rich.text import Text

from gantk.errors import printable
from gantk.metrics.verdict import title_of
from gantk.metrics.words import short_metric_name
from gantk.runs.results import Score
from gantk.terminal import duration

# seconds: window of the speed estimate; a step beyond this shows what it computes
SPEED_WINDOW = 60.0
SLOW_STEP = 10.0


class LiveView:
    """Shows training progress; a context manager that leaves the terminal as it was, also after
    Ctrl-C.

    A terminal shows one live line: step, remaining time, the newest validation score and its change.
    Without a terminal, or with NO_COLOR, CI or TERM=dumb, plain lines without control characters
    are printed: one for each validation score, and at least one a minute while steps are taken. In
    a notebook each of them replaces the one before.

    Args:
        total_steps: the length of the whole training.
        console: where to write; None: standard output.
        clock: returns seconds.
        shown: False on ranks that do not print.
        doing: returns the part of a step that is being computed.
        domains: names of the domains, for the titles of scores.

    Attributes:
        busy: the work between two steps, such as "saving the weights"; None if there is none.
        write_error: the error after which nothing is written, such as a closed terminal.
    """

    def __init__(
        self,
        total_steps: int,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
        shown: bool = True,
        doing: Callable[[], str] = lambda: "",
        domains: Sequence[str] = (),
    ):
        self.console = console or Console()
        self.shown = shown
        self.clock = clock
        self.total = total_steps
        self.domains = domains
        unwanted = (
            os.environ.get("NO_COLOR") or os.environ.get("CI") or self.console.is_dumb_terminal
        )
        self.plain = bool(unwanted) or not self.console.is_terminal or not shown
        self.busy: str | None = None
        self._doing = doing
        self._speed = ""
        self._finished = False  # the last step has been shown
        self._scores: dict[str, float] = {}  # of the last validation, by direction
        self._score_text = ""  # the last validation score, for the live line
        self.write_error: OSError | None = None
        self._begun = self._printed = clock()
        self._notebook_line: Any = None  # handle of the line that the next one replaces
        # (time, step) of the last minute, the newest step last
        self._recent: deque[tuple[float, int]] = deque()
        columns = BarColumn(None), _StatusColumn(self)
        self._bar = Progress(
            *columns, console=self.console, transient=True, refresh_per_second=2, expand=True
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

    def step(self, step: int) -> None:
        """Set the number of finished steps, which moves the bar; call it after each step."""
        if not self.shown:
            return

        now = self.clock()
        # a point a second is enough
        if len(self._recent) > 1 and now - self._recent[-2][0] < SPEED_WINDOW / 60:
            self._recent.pop()

        self._recent.append((now, step))
        while len(self._recent) > 2 and self._recent[1][0] < now - SPEED_WINDOW:
            self._recent.popleft()

        self._bar.update(self._task, completed=step)
        finished = step >= self.total and not self._finished
        self._finished |= finished
        if self.plain and (finished or now - self._printed >= SPEED_WINDOW):
            self._print_progress([self._time_left(), self._speed])

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
            self._speed = f"{images_per_s:.1f} images/s"
        self.step(step)
        scored = {direction: scores for direction, scores in (validation or {}).items() if scores}
        if not scored:
            return

        metric = next(iter(next(iter(scored.values()))))
        values = {key: scores[metric] for key, scores in scored.items() if metric in scores}
        texts = {key: self._with_change(key, value) for key, value in values.items()}
        self._scores = values
        name = short_metric_name(metric)
        self._score_text = f"{name} {', '.join(texts.values())}"
        if self.plain:
            said = ", ".join(f"{title_of(key, self.domains)} {text}" for key, text in texts.items())
            self._print_progress([self._time_left(), f"validation {name}: {said}"])

    def _with_change(self, direction: str, value: float) -> str:
        """`24.51 (+0.32)`: a score and its change since the last validation."""
        score = Score(value=value)
        if direction not in self._scores:
            return score.text()
        return f"{score.text()} ({value - self._scores[direction]:+.2g})"

    def _print_progress(self, facts: Sequence[str | None]) -> None:
        self._printed = self.clock()
        self.print("  ".join([*self._progress(), *filter(None, facts)]), passing=True)

    def print(self, *lines: str, style: str = "", passing: bool = False) -> None:
        """Print lines above the bar, markup unread; in a notebook the next `passing` line replaces
        the previous one.
        """
        try:
            for line in map(printable, lines if self.shown else ()):
                if passing and self.console.is_jupyter:
                    if self._notebook_line is None:  # a notebook has imported IPython already
                        self._notebook_line = sys.modules["IPython"].display.display(
                            "", display_id=True
                        )
                    self._notebook_line.update({"text/plain": line}, raw=True)
                elif self.plain:
                    print(line, file=self.console.file, flush=True)
                else:
                    self.console.print(Text(line, style=style))
        except OSError as error:
            self.write_error = error
            with suppress(OSError):  # discards what is still buffered
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.console.file.fileno())

    def _progress(self) -> list[str]:
        step = self._recent[-1][1] if self._recent else 0
        # a training of 0 steps is finished
        percent = 100 * step // self.total if self.total else 100
        return [f"step {step}/{self.total}", f"{percent}%"]

    def _time_left(self) -> str | None:
        """Remaining time at the speed of the last minute; None before the second step and after the
        last.
        """
        if len(self._recent) < 2 or not self._recent[0][1] < self._recent[-1][1] < self.total:
            return None
        first, from_step = self._recent[0]
        last, to_step = self._recent[-1]
        ahead = (self.total - to_step) * (last - first) / (to_step - from_step)
        return f"left {duration(max(ahead - (self.clock() - last), 0.0))}"

    def status_text(self, width: int) -> str:
        """The text beside the bar: step and current work, then as much of the rest as fits into
        `width` characters.
        """
        now = self.clock()
        waited = now - (self._recent[-1][0] if self._recent else self._begun)
        doing = self.busy or (self._doing() if waited > SLOW_STEP else "")
        kept = [*self._progress(), *[f"{doing} {duration(waited)}"] * bool(doing)]
        so_far = f"{duration(now - self._begun)} so far"
        for more in (self._time_left(), self._score_text, self._speed, so_far):
            if more and len("  ".join([*kept, more])) <= width:
                kept.append(more)

        return "  ".join(kept)


class _StatusColumn(ProgressColumn):
    """Progress column that shows a view's text beside a bar of at least ten characters."""

    def __init__(self, view: LiveView):
        super().__init__(Column(no_wrap=True))
        self.view = view

    def render(self, task: Task) -> Text:
        return Text(self.view.status_text(self.view.console.width - 12))
