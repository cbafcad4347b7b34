"""Terminal output of a bench: a line for each row that starts or ends, a line of progress, and a table at the end."""

import os
from collections.abc import Sequence
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from gantk.terminal import duration
from gantk_bench.child import Child
from gantk_bench.columns import cells, named_scores, verdict
from gantk_bench.systems import System
from gantk_bench.systems import systems as grouped

TONES = {"good": "green", "near": "yellow", "bad": "red"}
TITLES = ("Recipe", "Direction", "PSNR / SSIM", "Verdict", "Step time", "Training")  # of the table at the end


class Board:
    """Prints a line when a row starts and one when it ends; a context manager.

    On a terminal a bar beneath shows the running trainings, unless NO_COLOR, CI or TERM=dumb is set.
    """

    def __init__(self, total: int, console: Console):
        dumb = os.environ.get("NO_COLOR") or os.environ.get("CI") or console.is_dumb_terminal
        self.console, self.total, self.ended = console, total, 0
        columns = BarColumn(20), TextColumn("{task.description}", markup=False)
        self.bar = Progress(*columns, console=console, transient=True, disable=bool(dumb or not console.is_terminal))
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
        running = [f"{step} {duration(each.seconds)}" for step, each in zip(steps, children, strict=True)]
        self.bar.update(self.task, completed=self.ended, description=", ".join(running))

    def finished(self, row: dict[str, Any]) -> None:
        """Print how a row has ended."""
        self.ended += 1
        line = f"{row['status']:<8} {row['label']}  {duration(row['wall_s'])}  ({self.ended}/{self.total})"
        self.console.print(f"{line}  {row.get('error') or brief(row)}", markup=False, soft_wrap=True)


def brief(row: dict[str, Any]) -> str:
    """The main scores of each direction: `T1 -> T2 PSNR 21.30, SSIM 0.810, better (p 0.98)`."""
    lines = [line for line in System(row["label"], (row,)).lines if line.direction]
    texts = [", ".join(filter(None, (named_scores(line), verdict(line).text))) for line in lines]
    return "   ".join(plain(f"{line.label} {text}") for line, text in zip(lines, texts, strict=True))


def result_table(rows: Sequence[dict[str, Any]]) -> Table:
    """A line for each direction of each system: mean (lowest to highest) over its seeds."""
    table = Table(box=None, pad_edge=False)
    for title in TITLES:
        table.add_column(title, overflow="fold")
    for system in grouped(rows):
        for place, line in enumerate(cells(system, TITLES)):
            texts = [Text(plain(cell.whole), style=TONES.get(cell.tone, "")) for cell in line]
            table.add_row("" if place else texts[0], *texts[1:])
    return table


def plain(text: str) -> str:
    """Text as a terminal of any encoding and width shows it."""
    return text.replace("\u00a0", " ").replace("→", "->").replace("–", "-").replace("−", "-")
