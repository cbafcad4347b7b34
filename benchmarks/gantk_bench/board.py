"""Terminal output of a bench: a line for each row that starts or ends, and a line of progress."""

import os
from collections.abc import Sequence
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from gantk.terminal import duration
from gantk_bench.child import Child
from gantk_bench.rows import Row
from gantk_bench.tables import brief


class Board:
    """Prints a line when a row starts and one when it ends; a context manager.

    On a terminal a bar beneath shows the running trainings, unless NO_COLOR, CI or TERM=dumb is
    set.
    """

    def __init__(self, total: int, console: Console):
        dumb = os.environ.get("NO_COLOR") or os.environ.get("CI") or console.is_dumb_terminal
        self.console = console
        self.total = total
        self.ended = 0
        columns = BarColumn(20), TextColumn("{task.description}", markup=False)
        self.bar = Progress(
            *columns, console=console, transient=True, disable=bool(dumb or not console.is_terminal)
        )
        self.task = self.bar.add_task("", total=total)

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def started(self, label: str) -> None:
        """Print that a row's training starts."""
        self.console.print(f"start    {label}", markup=False, soft_wrap=True)

    def progress(self, children: Sequence[Child]) -> None:
        """Update step and time of the running trainings."""
        steps = [f"{each.job.label} {each.step()}/{each.job.steps or '?'}" for each in children]
        running = [
            f"{step} {duration(each.seconds)}" for step, each in zip(steps, children, strict=True)
        ]
        self.bar.update(self.task, completed=self.ended, description=", ".join(running))

    def finished(self, row: Row) -> None:
        """Print how a row has ended."""
        self.ended += 1
        line = f"{row.status:<8} {row.label}  {duration(row.wall_s)}  ({self.ended}/{self.total})"
        self.console.print(f"{line}  {row.error or brief(row)}", markup=False, soft_wrap=True)
