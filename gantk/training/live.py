"""Training progress: on a terminal one live line, elsewhere a line a minute and one for each
validation score. Losses are in the run's log and report.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.text import Text

from gantk.errors import printable
from gantk.metrics.names import short_metric_name, title_of
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
        scored: which images the scores of `update` are of, in a word.

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
        scored: str = "validation",
    ):
        self.console = console or Console()
        self.shown = shown
        self.clock = clock
        self.total = total_steps
        self.domains = domains
        self.scored = scored
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
        self._begun = self._printed = self._stepped = clock()
        self._notebook_line: Any = None  # handle of the line that the next one replaces
        self._bar = Progress(
            BarColumn(None),
            _StatusColumn(self),
            console=self.console,
            transient=True,
            refresh_per_second=2,
            expand=True,
            get_time=clock,
            speed_estimate_period=SPEED_WINDOW,
        )
        self._bar.add_task("", total=max(1, total_steps))

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

        now = self._stepped = self.clock()
        self._bar.update(self._bar.task_ids[0], completed=step)
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
            self._print_progress([self._time_left(), f"{self.scored} {name}: {said}"])

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
        step = int(self._bar.tasks[0].completed)
        # a training of 0 steps is finished
        percent = 100 * step // self.total if self.total else 100
        return [f"step {step}/{self.total}", f"{percent}%"]

    def _time_left(self) -> str | None:
        """Remaining time at the speed of the last minute; None before the second step and after the
        last.
        """
        left = self._bar.tasks[0].time_remaining
        return f"left {duration(left)}" if left else None

    def status_text(self) -> str:
        """The text beside the bar: step and current work, then the rest, the most important first."""
        now = self.clock()
        waited = now - self._stepped
        doing = self.busy or (self._doing() if waited > SLOW_STEP else "")
        facts = [
            *self._progress(),
            f"{doing} {duration(waited)}" if doing else None,
            self._time_left(),
            self._score_text,
            self._speed,
            f"{duration(now - self._begun)} so far",
        ]
        return "  ".join(filter(None, facts))


class _StatusColumn(ProgressColumn):
    """Progress column that shows as much of a view's text as fits."""

    def __init__(self, view: LiveView):
        super().__init__()
        self.view = view

    def render(self, task: Task) -> Text:
        return Text(self.view.status_text(), no_wrap=True, overflow="crop")
