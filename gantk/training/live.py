"""The live view of a training: progress, losses and scores on a terminal; one plain line a log point elsewhere."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gantk.terminal import duration

SPARKS = "▁▂▃▄▅▆▇█"
SPARK_WIDTH = 20  # log points in a loss's sparkline
LOWER_IS_BETTER = ("mae", "rmse", "nrmse", "lpips", "fid", "kid")  # a fall of these is shown in green
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
        self.console, self.shown, self.clock = console or Console(), shown, clock
        self.total, self.step = int(total_steps), 0
        unwanted = os.environ.get("NO_COLOR") or os.environ.get("CI") or self.console.is_dumb_terminal
        self.plain = bool(unwanted) or not self.console.is_terminal or not shown
        self._started = clock()
        self._pace: deque[tuple[float, int]] = deque(maxlen=30)  # recent (time, step): the present speed
        self._losses: dict[str, deque[float]] = {}
        self._scores: dict[tuple[str, str], tuple[float, float | None]] = {}  # (direction, metric): now, before
        self._images_per_s: float | None = None
        self._live: Live | None = None

    def __enter__(self) -> LiveView:
        self._started = self.clock()
        if not self.plain:
            self._live = Live(get_renderable=self._render, console=self.console, refresh_per_second=2)
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live is not None:
            self._live.stop()

    def update(
        self,
        step: int,
        *,
        images_per_s: float | None = None,
        losses: dict[str, float] | None = None,
        validation: dict[str, dict[str, float]] | None = None,
        message: str | None = None,
    ) -> None:
        """What is known after `step`: losses by "phase/name", scores by direction and metric, a message that stays."""
        self.step = step
        if not self._pace or self._pace[-1][1] != step:
            self._pace.append((self.clock(), step))
        self._images_per_s = images_per_s or self._images_per_s
        known = dict(self._losses)  # replaced as a whole: the display is drawn by a thread of its own
        for name, value in (losses or {}).items():
            known[name] = deque([*known.get(name, ()), float(value)], maxlen=SPARK_WIDTH)
        scores = dict(self._scores)
        for direction, row in (validation or {}).items():
            for metric, value in row.items():
                scores[direction, metric] = float(value), scores.get((direction, metric), (None,))[0]
        self._losses, self._scores = known, scores
        if self.plain and (losses or validation):
            self.print(self._line(losses or {}, validation or {}))
        if message is not None:
            self.print(message, style="yellow")

    def print(self, *lines: str, style: str = "") -> None:
        """Lines that stay, above the display; nothing in them is read as markup."""
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

    def _percent(self) -> int:
        return 100 * self.step // self.total if self.total else 100  # a training of no steps is at its end

    def _line(self, losses: dict[str, float], validation: dict[str, dict[str, float]]) -> str:
        """`step 200/2400  8%  31.2 images/s  left 1 min 12 s  g: cycle 1.2  psnr a_to_b 20.1`."""
        parts = [f"step {self.step}/{self.total}", f"{self._percent()}%"]
        if losses and self._images_per_s is not None:
            parts.append(f"{self._images_per_s:.1f} images/s")
        left = self._left()
        if left is not None and self.step < self.total:
            parts.append(f"left {duration(left)}")
        for phase, names in _by_phase(losses).items():
            values = " ".join(f"{name} {losses[full]:.3g}" for name, full in names.items())
            parts.append(f"{SHORT.get(phase, phase or 'loss')}: {values}")
        for metric in dict.fromkeys(metric for scores in validation.values() for metric in scores):
            values = " ".join(f"{d} {scores[metric]:.3g}" for d, scores in validation.items() if metric in scores)
            parts.append(f"{metric} {values}")
        return "  ".join(parts)

    def _render(self) -> RenderableType:
        tables = [self._loss_table(phase, names) for phase, names in _by_phase(self._losses).items()]
        if tables and self.console.width >= 50 * len(tables):
            beside = Table.grid(padding=(0, 4))
            beside.add_row(*tables)
            tables = [beside]
        parts = [self._progress(), *([Text(), *tables] if tables else [])]
        return Group(*parts, *([Text(), self._score_table()] if self._scores else []))

    def _progress(self) -> RenderableType:
        left = self._left()
        words = [
            Text(f"{self._percent()}%", style="bold"),
            Text(f"{self.step}/{self.total}"),
            Text(duration(self.clock() - self._started), style="dim"),
            Text("left " + ("?" if left is None else duration(left)), style="cyan"),
        ]
        if self._images_per_s is not None:
            words.append(Text(f"{self._images_per_s:.1f} images/s", style="dim"))
        line = Table.grid(padding=(0, 2), expand=True)
        line.add_column(ratio=1, min_width=10)
        for _ in words:
            line.add_column(no_wrap=True, justify="right")
        line.add_row(ProgressBar(total=100, completed=self._percent()), *words)
        return line

    def _loss_table(self, phase: str, names: dict[str, str]) -> Table:
        table = Table.grid(padding=(0, 2))
        table.add_row(Text(phase or "losses", style="bold"))
        for name, full in names.items():
            values = self._losses[full]
            trend = "" if self.console.options.ascii_only else sparkline(values)
            table.add_row(Text("  " + name), Text(f"{values[-1]:.4g}", style="bold"), Text(trend, style="dim"))
        return table

    def _score_table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for direction in dict.fromkeys(direction for direction, _ in self._scores):
            row = [Text(direction, style="bold")]
            for (of, metric), (value, before) in self._scores.items():
                if of == direction:
                    row.append(Text(f"{metric} ", style="dim") + Text(f"{value:.4g}", style="bold"))
                    row.append(_change(metric, value, before))
            table.add_row(*row)
        return table


def sparkline(values: Sequence[float]) -> str:
    """Values as bars of eight heights between their least and greatest; what is not finite leaves a gap."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    low, span = min(finite), (max(finite) - min(finite)) or 1.0
    return "".join(SPARKS[round(7 * (v - low) / span)] if math.isfinite(v) else " " for v in values)


def _by_phase(losses: Iterable[str]) -> dict[str, dict[str, str]]:
    """Names such as "phase/name" as {phase: {name: whole name}}, in the order they came."""
    phases: dict[str, dict[str, str]] = {}
    for full in losses:
        phase, _, name = full.rpartition("/")
        phases.setdefault(phase, {})[name] = full
    return phases


def _change(metric: str, value: float, before: float | None) -> Text:
    if before is None:
        return Text("")
    change = value - before
    good = (change <= 0) if metric.partition("_")[0] in LOWER_IS_BETTER else (change >= 0)
    return Text(f"{change:+.3g}", style="green" if good else "red")
