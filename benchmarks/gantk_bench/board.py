"""What a bench shows: a live table while it runs, plain lines where there is no terminal, and a table at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gantk.metrics.verdict import title_of
from gantk.training.live import clock_time
from gantk_bench.child import Child
from gantk_bench.plan import Job
from gantk_bench.spread import Spread

COLOURS = {"ok": "green", "skipped": "dim", "failed": "bold red", "killed": "bold red", "out of time": "bold red"}
KEY_METRICS = ("psnr", "ssim", "kid_random")  # shown where there are any; else the first two


class Board:
    """Shows how a bench goes; a context manager that leaves the terminal as it was, Ctrl-C included.

    `total` rows are to be measured. Away from a terminal, and where NO_COLOR, CI or TERM=dumb is set, each row is a
    plain line when it starts and one when it ends.
    """

    def __init__(self, total: int, console: Console):
        self.total, self.console = total, console
        wanted = not (os.environ.get("NO_COLOR") or os.environ.get("CI"))
        self.plain = not (wanted and console.is_terminal and not console.is_dumb_terminal)
        self.ended: list[dict[str, Any]] = []
        self.running: list[tuple[str, int, int | None, float]] = []  # label, step, of how many, seconds
        self._live: Live | None = None

    def __enter__(self) -> Board:
        if not self.plain:
            self._live = Live(get_renderable=self._render, console=self.console, refresh_per_second=2, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def started(self, job: Job) -> None:
        """A row begins."""
        if self.plain:
            self._write(f"start    {job.label}")

    def progress(self, children: Sequence[Child]) -> None:
        """How far the running ones are."""
        if not self.plain:
            self.running = [(child.job.label, child.step(), child.steps(), child.seconds) for child in children]

    def finished(self, row: dict[str, Any]) -> None:
        """A row is done, in whatever way."""
        self.ended.append(row)
        self.running = [one for one in self.running if one[0] != row["label"]]
        if self.plain:
            told = row.get("error") or "   ".join(brief(row))
            place = f"{len(self.ended)}/{self.total}"
            self._write(f"{row['status']:<8} {row['label']}  {clock_time(row['wall_s'])}  ({place})  {told}")

    def _write(self, line: str) -> None:
        print(line, file=self.console.file, flush=True)

    def _render(self) -> Table:
        """The running rows, the last ended ones that fit above them, and how many wait."""
        table = Table(box=None, pad_edge=False, expand=True)
        for header, options in (("row", {}), ("", {}), ("step", {"justify": "right"}), ("time", {"justify": "right"})):
            table.add_column(header, no_wrap=True, **options)
        table.add_column("", ratio=1, no_wrap=True)
        running = list(self.running)
        room = max(self.console.height - len(running) - 4, 1)
        for row in self.ended[-room:]:
            told = Text(row["error"] or "", style="red") if row["error"] else Text("   ".join(brief(row)))
            status = Text(row["status"], style=COLOURS.get(row["status"], ""))
            table.add_row(Text(row["label"]), status, "", clock_time(row["wall_s"]), told)
        for label, step, steps, seconds in running:
            state = "scores" if step == steps else "trains" if step else "starts"
            share = f"{step}/{'?' if steps is None else steps}" if step else ""
            table.add_row(Text(label, style="bold"), Text(state, style="cyan"), share, clock_time(seconds), "")
        waiting = self.total - len(self.ended) - len(running)
        bad = sum(row["status"] not in ("ok", "skipped") for row in self.ended)
        summary = f"{len(self.ended)} of {self.total} done, {waiting} wait" + (f", {bad} not ok" if bad else "")
        table.add_row(Text(summary, style="dim"))
        return table


def brief(row: dict[str, Any]) -> Iterator[str]:
    """The key scores of each direction: `T1 -> T2 psnr 21.3 dB, ssim 0.81, better than intensity_map`."""
    for direction, scores in row.get("metrics", {}).items():
        names = key_metrics(scores)
        cells = [f"{name} {number(scores[name])}" for name in names]
        yield f"{title_of(direction, row.get('domains', []))} {', '.join([*cells, *judged(row, direction, names[:1])])}"


def key_metrics(scores: Mapping[str, Any]) -> list[str]:
    """The one or two metrics that a narrow table shows."""
    return [name for name in KEY_METRICS if name in scores] or list(scores)[:2]


def judged(row: dict[str, Any], direction: str, names: Sequence[str]) -> list[str]:
    """`better than intensity_map`, or `not better than ...`, for each metric that has a verdict."""
    verdicts = row.get("verdict", {}).get(direction, {})
    found = [verdicts[name] for name in names if name in verdicts]
    return [f"{'better' if one['better'] else 'not better'} than {one['best_baseline']}" for one in found]


def number(score: Mapping[str, Any]) -> str:
    """A value with its unit; - where it could not be computed."""
    if score.get("value") is None:
        return "-"
    unit = score.get("unit") or ""
    return f"{score['value']:.4g}{' ' + unit if unit else ''}".replace("e-0", "e-")


def result_table(rows: Sequence[dict[str, Any]], groups: Sequence[Spread]) -> Table:
    """One line for each row and direction, then one for each group of seeds."""
    table = Table(box=None, pad_edge=False)
    for header in ("row", "direction", "scores", "verdict", "step", "time"):
        table.add_column(header, overflow="fold", justify="right" if header in ("step", "time") else "left")
    for row in rows:
        head = [Text(row["label"])]
        if row["status"] != "ok":
            status = Text(row["status"], style=COLOURS.get(row["status"], ""))
            table.add_row(*head, status, Text(row.get("error") or ""), "", "", clock_time(row["wall_s"]))
        for direction, scores in row.get("metrics", {}).items():
            names = key_metrics(scores)
            cells = Text(", ".join(f"{name} {number(scores[name])}" for name in names))
            verdict = Text(", ".join(judged(row, direction, names[:1])))
            verdict.stylize("red" if verdict.plain.startswith("not") else "green")
            way = title_of(direction, row.get("domains", []))
            table.add_row(*head, way, cells, verdict, _step(row), clock_time(row["wall_s"]))
            head = [""]
    for group in groups:
        head = [Text(f"{group.label}, {len(group.rows)} seeds", style="bold")]
        for direction, scores in group.metrics().items():
            cells = [f"{n} {s['mean']:.4g} ± {s['sd']:.2g}" for n, s in scores.items() if n in key_metrics(scores)]
            table.add_row(*head, title_of(direction, group.rows[0].get("domains", [])), Text(", ".join(cells)))
            head = [""]
    return table


def _step(row: dict[str, Any]) -> str:
    """The median step in milliseconds."""
    steps = sorted(row.get("speed", {}).get("step_seconds") or [])
    return f"{1000 * steps[len(steps) // 2]:.0f} ms" if steps else ""
