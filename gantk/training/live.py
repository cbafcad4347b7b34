"""The progress of a training as one line: its step, the time that is left, the newest validation
scores, the speed. Losses are in the run's log and report.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

from gantk.errors import printable
from gantk.guest import Say
from gantk.metrics.names import short_metric_name, title_of
from gantk.progress import Work
from gantk.runs.results import Score


class TrainingWork(Work):
    """A training as work: `step 210/2400  8%  left 1 min 12 s  validation PSNR at step 200: T1 -> T2 20.12`.

    Args:
        steps: the length of the whole training.
        say: hears its lines.
        shown: whether the progress is among them.
        on_terminal: whether `say` prints on standard output, where the line may be live.
        domains: names of the domains, for the titles of scores.

    Attributes:
        write_error: the error after which nothing is written, such as a closed terminal.
    """

    def __init__(
        self, steps: int, say: Say, shown: bool, on_terminal: bool, domains: Sequence[str] = ()
    ):
        super().__init__("", max(1, steps))
        self.steps = steps
        self.say = say
        self.shown = shown
        self.on_terminal = on_terminal
        self.domains = domains
        self.write_error: OSError | None = None
        self._score = ""
        self._speed = ""
        self._validated = -1.0  # the step of the last validation

    def __enter__(self) -> TrainingWork:
        if self.shown:
            super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if self.done >= self.steps and self._validated < self.done:
            self.show(now=True)
        super().__exit__(*error)

    def words(self) -> str:
        return f"step {self.done:.0f}/{self.steps}"

    def facts(self) -> str:
        return "  ".join(filter(None, (self._score, self._speed)))

    def draws(self) -> bool:
        return self.on_terminal

    def advance(self, done: float, what: str = "") -> None:
        """Set how many steps are finished; the last one is shown once, with its validation scores."""
        self.done = done
        if done < self.steps:
            self.show()

    def add_speed(self, images_per_s: float) -> None:
        """Show the speed from the next line on."""
        self._speed = f"{images_per_s:.1f} images/s"

    def add_validation(self, validation: Mapping[str, Mapping[str, float]]) -> None:
        """Show validation scores (direction -> metric -> value) now: the first metric."""
        scored = {direction: scores for direction, scores in validation.items() if scores}
        if not scored:
            return
        metric = next(iter(next(iter(scored.values()))))
        texts = [
            f"{title_of(key, self.domains)} {Score(value=scores[metric]).text()}"
            for key, scores in scored.items()
            if metric in scores
        ]
        name = short_metric_name(metric)
        self._score = f"validation {name} at step {self.done:g}: {', '.join(texts)}"
        self._validated = self.done
        self.show(now=True)
        if not self.on_terminal:  # said once, where each line stays
            self._score = ""

    def write(self, *lines: str) -> None:
        """Say lines; one that cannot be written is the last, and ends the training."""
        try:
            for line in map(printable, lines):
                self.say(line)
        except (OSError, SystemExit) as error:  # rich exits where a pipe is closed
            closed = BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
            self.write_error = error if isinstance(error, OSError) else closed
            with suppress(OSError):  # discards what is still buffered
                if self.on_terminal:
                    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
