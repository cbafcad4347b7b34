"""The live view of a training: progress, losses and scores on a terminal; one plain line a log point elsewhere."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

SPARKS = "▁▂▃▄▅▆▇█"
SPARK_WIDTH = 20  # log points in a loss's sparkline
LOWER_IS_BETTER = ("mae", "nrmse", "lpips", "fid", "kid")  # a fall of these is shown in green


class LiveView:
    """Shows how a training goes, on rank 0; a context manager that leaves the terminal as it was, Ctrl-C included.

    `total_steps` is the length of the whole training, `losses_hint` names losses whose rows are there from the start,
    `console` is where to write (None: stdout; nowhere unless `shown`), `clock` a source of seconds. Off a terminal,
    and where NO_COLOR, CI or TERM=dumb is set, it writes plain lines without a control character.
    """

    def __init__(
        self,
        total_steps: int,
        losses_hint: Iterable[str] | None = None,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
        shown: bool = True,
    ):
        self.console = console or Console(quiet=not shown)
        self.total, self.step, self.clock = max(int(total_steps), 1), 0, clock
        self.plain = (
            not self.console.is_terminal
            or self.console.is_dumb_terminal
            or bool(os.environ.get("NO_COLOR") or os.environ.get("CI"))
        )
        self._started = clock()
        self._pace: deque[tuple[float, int]] = deque(maxlen=30)  # recent (time, step): the present speed
        self._losses: dict[str, deque[float]] = {name: deque(maxlen=SPARK_WIDTH) for name in losses_hint or ()}
        self._scores: dict[tuple[str, str], tuple[float, float | None]] = {}  # (direction, metric): now, before
        self._images_per_s: float | None = None
        self._lr: float | None = None
        self._lock = threading.RLock()  # the display is drawn by a thread of its own
        self._live: Live | None = None

    def __enter__(self) -> LiveView:
        self._started = self.clock()
        if not self.plain:
            self._live = Live(get_renderable=self._render, console=self.console, refresh_per_second=2)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def update(
        self,
        step: int,
        *,
        images_per_s: float | None = None,
        losses: dict[str, float] | None = None,
        validation: dict[str, dict[str, float]] | None = None,
        lr: float | None = None,
        message: str | None = None,
    ) -> None:
        """What is known after `step`: losses by "group/name", scores by direction and metric, a message that stays."""
        with self._lock:
            self.step = step
            if not self._pace or self._pace[-1][1] != step:
                self._pace.append((self.clock(), step))
            self._images_per_s = self._images_per_s if images_per_s is None else images_per_s
            self._lr = self._lr if lr is None else lr
            for name, value in (losses or {}).items():
                self._losses.setdefault(name, deque(maxlen=SPARK_WIDTH)).append(float(value))
            for direction, scores in (validation or {}).items():
                for metric, value in scores.items():
                    before = self._scores.get((direction, metric))
                    self._scores[direction, metric] = float(value), before[0] if before else None
        if self.plain and (losses or validation):
            self._write(self._line(losses or {}, validation or {}))
        if message is not None:
            self.print(message, style="yellow")

    def print(self, *lines: str, style: str | None = None) -> None:
        """Lines that stay, above the display; nothing in them is read as markup."""
        for line in lines:
            if self.plain:
                self._write(line)
            else:
                self.console.print(Text(line, style=style or ""))

    def _write(self, line: str) -> None:
        if not self.console.quiet:
            print(line, file=self.console.file, flush=True)

    def _left(self) -> float | None:
        """Seconds to the end at the pace of the last log points; None before there are two."""
        if len(self._pace) < 2 or self._pace[-1][1] <= self._pace[0][1]:
            return None
        (first, from_step), (last, to_step) = self._pace[0], self._pace[-1]
        ahead = (self.total - to_step) * (last - first) / (to_step - from_step)
        return max(ahead - (self.clock() - last), 0.0)

    def _line(self, losses: dict[str, float], validation: dict[str, dict[str, float]]) -> str:
        """`step 200/2400  8%  31.2 images/s  left 1:12  g: cycle 1.2  psnr a_to_b 20.1`."""
        parts = [f"step {self.step}/{self.total}", f"{100 * self.step // self.total}%"]
        if losses and self._images_per_s is not None:
            parts.append(f"{self._images_per_s:.1f} images/s")
        left = self._left()
        if left is not None and self.step < self.total:
            parts.append(f"left {clock_time(left)}")
        for group, names in _grouped(losses).items():
            values = " ".join(f"{name} {losses[full]:.3g}" for name, full in names.items())
            parts.append(f"{ {'generators': 'g', 'discriminators': 'd'}.get(group, group or 'loss') }: {values}")
        metrics = dict.fromkeys(metric for scores in validation.values() for metric in scores)
        for metric in metrics:
            values = " ".join(f"{d} {scores[metric]:.3g}" for d, scores in validation.items() if metric in scores)
            parts.append(f"{metric} {values}")
        return "  ".join(parts)

    def _render(self) -> RenderableType:
        with self._lock:
            parts: list[RenderableType] = [self._progress()]
            tables = [self._loss_table(group, names) for group, names in _grouped(self._losses).items()]
            if tables and self.console.width >= 50 * len(tables):
                beside = Table.grid(padding=(0, 4))
                beside.add_row(*tables)
                parts += [Text(), beside]
            else:
                parts += [Text(), *tables] if tables else []
            if self._scores:
                parts += [Text(), self._score_table()]
            return Group(*parts)

    def _progress(self) -> RenderableType:
        left = self._left()
        line = Table.grid(padding=(0, 2), expand=True)
        line.add_column(ratio=1, min_width=10)
        words = [
            Text(f"{100 * self.step // self.total}%", style="bold"),
            Text(f"{self.step}/{self.total}"),
            Text(clock_time(self.clock() - self._started), style="dim"),
            Text("left " + ("-:--" if left is None else clock_time(left)), style="cyan"),
        ]
        if self._images_per_s is not None:
            words.append(Text(f"{self._images_per_s:.1f} images/s", style="dim"))
        if self._lr is not None and self.console.width >= 90:
            words.append(Text(f"lr {self._lr:.2g}", style="dim"))
        for _ in words:
            line.add_column(no_wrap=True, justify="right")
        line.add_row(ProgressBar(total=self.total, completed=min(self.step, self.total)), *words)
        return line

    def _loss_table(self, group: str, names: dict[str, str]) -> Table:
        table = Table.grid(padding=(0, 2))
        table.add_row(Text(group or "losses", style="bold"))
        for name, full in names.items():
            values = list(self._losses[full])
            table.add_row(
                Text("  " + name), Text(f"{values[-1]:.4g}" if values else "-", style="bold"), self._trend(values)
            )
        table.columns[1].justify = "right"
        table.columns[1].min_width = 7
        return table

    def _trend(self, values: list[float]) -> Text:
        if self.console.options.ascii_only:
            return Text(trend_arrow(values, "v-^"), style="dim")
        return Text(f"{trend_arrow(values)} {sparkline(values)}", style="dim")

    def _score_table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        directions = dict.fromkeys(direction for direction, _ in self._scores)
        for direction in directions:
            row = [Text(direction, style="bold")]
            for (of, metric), (value, before) in self._scores.items():
                if of == direction:
                    row.append(Text(f"{metric} ", style="dim") + Text(f"{value:.4g}", style="bold"))
                    row.append(_delta(metric, value, before))
            table.add_row(*row)
        return table


def sparkline(values: list[float]) -> str:
    """Values as bars of eight heights between their least and greatest; what is not finite leaves a gap."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    low, span = min(finite), (max(finite) - min(finite)) or 1.0
    return "".join(SPARKS[round(7 * (v - low) / span)] if math.isfinite(v) else " " for v in values)


def trend_arrow(values: list[float], arrows: str = "↘→↗") -> str:
    """Down, level or up: the mean of the later half against the earlier, level within two per cent."""
    finite = [value for value in values if math.isfinite(value)]
    half = len(finite) // 2
    if not half:
        return " "
    before, now = sum(finite[:half]) / half, sum(finite[-half:]) / half
    if abs(now - before) <= 0.02 * max(abs(before), abs(now)):
        return arrows[1]
    return arrows[2] if now > before else arrows[0]


def clock_time(seconds: float) -> str:
    """Seconds as m:ss, or h:mm:ss from an hour on."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _grouped(losses: Iterable[str]) -> dict[str, dict[str, str]]:
    """ "group/name" names by group: {group: {name: full name}}, in the order they came."""
    groups: dict[str, dict[str, str]] = {}
    for full in losses:
        group, _, name = full.rpartition("/")
        groups.setdefault(group, {})[name] = full
    return groups


def _delta(metric: str, value: float, before: float | None) -> Text:
    if before is None:
        return Text("")
    change = value - before
    good = (change <= 0) if metric.partition("_")[0] in LOWER_IS_BETTER else (change >= 0)
    return Text(f"{change:+.3g}", style="green" if good else "red")
