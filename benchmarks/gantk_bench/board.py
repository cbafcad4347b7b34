"""Terminal output of a bench: a live table while it runs (plain lines without a terminal) and a table at the end."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gantk.metrics.verdict import title_of
from gantk.terminal import duration
from gantk_bench.child import Child
from gantk_bench.plan import Job
from gantk_bench.systems import systems as grouped
from gantk_bench.systems import value_of

COLOURS = {"ok": "green", "skipped": "dim", "failed": "bold red", "killed": "bold red", "out of time": "bold red"}
KEY_METRICS = ("psnr", "ssim", "kid_random")  # shown if scored; if none is, the first two metrics


class Board:
    """Shows the progress of a bench of `total` rows; a context manager that restores the terminal, also on Ctrl-C.

    Without a terminal, or if NO_COLOR, CI or TERM=dumb is set, prints one plain line when a row starts and one when it
    ends.
    """

    def __init__(self, total: int, console: Console):
        self.total, self.console = total, console
        colour = not (os.environ.get("NO_COLOR") or os.environ.get("CI"))
        self.plain = not (colour and console.is_terminal and not console.is_dumb_terminal)
        self.ended: list[dict[str, Any]] = []
        self.running: list[tuple[str, int, int | None, float]] = []  # label, step, total steps, seconds
        self._live: Live | None = None

    def __enter__(self) -> Board:
        if not self.plain:
            self._live = Live(get_renderable=self._render, console=self.console, refresh_per_second=2, transient=True)
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def started(self, job: Job) -> None:
        """Show that a row's training starts."""
        if self.plain:
            self._write(f"start    {job.label}")

    def progress(self, children: Sequence[Child]) -> None:
        """Update step and time of the running trainings."""
        if not self.plain:
            self.running = [(child.job.label, child.step(), child.steps(), child.seconds) for child in children]

    def finished(self, row: dict[str, Any]) -> None:
        """Show a row that has ended, with any status."""
        self.ended.append(row)
        self.running = [entry for entry in self.running if entry[0] != row["label"]]
        if self.plain:
            scores = row.get("error") or "   ".join(brief(row))
            position = f"{len(self.ended)}/{self.total}"
            self._write(f"{row['status']:<8} {row['label']}  {duration(row['wall_s'])}  ({position})  {scores}")

    def _write(self, line: str) -> None:
        print(line, file=self.console.file, flush=True)

    def _render(self) -> Table:
        """Table of the running rows, above them as many ended rows as fit, and the number of waiting ones."""
        table = Table(box=None, pad_edge=False, expand=True)
        for header in ("row", "", "step", "time"):
            table.add_column(header, no_wrap=True, justify="right" if header in ("step", "time") else "left")
        table.add_column("", ratio=1, no_wrap=True)
        running = list(self.running)
        room = max(self.console.height - len(running) - 4, 1)
        for row in self.ended[-room:]:
            scores = Text(row["error"], style="red") if row["error"] else Text("   ".join(brief(row)))
            table.add_row(Text(row["label"]), _status(row), "", duration(row["wall_s"]), scores)
        for label, step, steps, seconds in running:
            state = "scores" if step == steps else "trains" if step else "starts"
            step_text = f"{step}/{'?' if steps is None else steps}" if step else ""
            table.add_row(Text(label, style="bold"), Text(state, style="cyan"), step_text, duration(seconds), "")
        waiting = self.total - len(self.ended) - len(running)
        failed = sum(row["status"] not in ("ok", "skipped") for row in self.ended)
        summary = f"{len(self.ended)} of {self.total} done, {waiting} wait" + (f", {failed} not ok" if failed else "")
        table.add_row(Text(summary, style="dim"))
        return table


def brief(row: dict[str, Any]) -> Iterator[str]:
    """The key scores of each direction: `T1 -> T2 psnr 21.3 dB, ssim 0.81, better than intensity_map`."""
    for direction, scores, verdict in _directions(row):
        yield f"{direction} {', '.join([scores, *([verdict] if verdict else [])])}"


def result_table(rows: Sequence[dict[str, Any]]) -> Table:
    """One line for each row and direction, then mean and standard deviation of each group of seeds."""
    table = Table(box=None, pad_edge=False)
    for header in ("row", "direction", "scores", "verdict", "step", "time"):
        table.add_column(header, overflow="fold", justify="right" if header in ("step", "time") else "left")
    for row in rows:
        head = Text(row["label"])
        if row["status"] != "ok":
            table.add_row(head, _status(row), Text(row.get("error") or ""), "", "", duration(row["wall_s"]))
        steps = row.get("speed", {}).get("step_seconds")
        step = f"{1000 * statistics.median_high(steps):.0f} ms" if steps else ""
        for direction, scores, verdict in _directions(row):
            verdict = Text(verdict, style="red" if verdict.startswith("not") else "green")
            table.add_row(head, direction, Text(scores), verdict, step, duration(row["wall_s"]))
            head = Text("")
    for system in grouped(row for row in rows if row["status"] == "ok"):
        head = Text(f"{system.name}, {len(system.rows)} seeds", style="bold")
        for line in system.lines if len(system.rows) > 1 else ():
            cells = []
            for name in _key_metrics(line.metrics):
                values = line.figure(name).values if line.figure(name) else ()
                if len(values) > 1:
                    cells.append(f"{name} {statistics.fmean(values):.4g} ± {statistics.stdev(values):.2g}")
            table.add_row(head, title_of(line.direction, system.domains), Text(", ".join(cells)))
            head = Text("")
    return table


def _directions(row: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(direction, key scores, verdict on the first score) of a row."""
    for direction, scores in row.get("metrics", {}).items():
        names = _key_metrics(scores)
        entry = row.get("verdict", {}).get(direction, {}).get(names[0]) if names else None
        verdict = f"{'better' if entry['better'] else 'not better'} than {entry['best_baseline']}" if entry else ""
        cells = ", ".join(f"{name} {_number(scores[name])}" for name in names)
        yield title_of(direction, row.get("domains", [])), cells, verdict


def _key_metrics(names: Sequence[str]) -> list[str]:
    return [name for name in KEY_METRICS if name in names] or list(names)[:2]


def _number(score: dict[str, Any]) -> str:
    """A value with its unit; "-" if it could not be computed."""
    value = value_of(score)
    return "-" if value is None else f"{value:.4g} {score.get('unit') or ''}".strip().replace("e-0", "e-")


def _status(row: dict[str, Any]) -> Text:
    return Text(row["status"], style=COLOURS.get(row["status"], ""))
