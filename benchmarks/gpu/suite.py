"""Runs tasks in order of importance within one time limit and writes a row for each, measured or not.

A separate process measures: if it crashes or leaves the GPU in a bad state, it is replaced, and all rows are kept.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from gantk.errors import GantkError, UserError
from gpu.rows import DEFINITIONS, FORMAT, KILLED, OUT_OF_TIME, SKIPPED, Row, Writer, best, blank, first_line, row
from gpu.table import bars

START = 120.0  # seconds that a process may take to start
LIMITS = {"environment": 60, "ceiling": 60, "step": 60, "peer": 150}  # seconds for a task
COMPILING = 240.0  # seconds for a task that uses torch.compile
LEAST = 3.0  # seconds that must remain to start another task


class Clock:
    """Counts down from `minutes`; `began` is when the command started (time.monotonic), None: now."""

    def __init__(self, minutes: float, began: float | None = None):
        self.began = time.monotonic() if began is None else began
        self.seconds = 60.0 * minutes

    def spent(self) -> float:
        return time.monotonic() - self.began

    def left(self) -> float:
        """Seconds that remain, never below 0."""
        return max(0.0, self.seconds - self.spent())


def serve(connection: Connection, device: str) -> None:
    """Loop of the measuring process: sends ("ready", device name), or a UserError if the device cannot be used; then
    receives tasks until None. For each task it sends its rows, ("failed", reason) after an error, and last ("done",
    whether the device still works)."""
    from gantk.machine.runtime import describe, start
    from gpu.measure import healthy, measure

    try:
        connection.send(("ready", describe(start(device))["device"]))
    except UserError as error:
        connection.send(error)
        return
    while (task := connection.recv()) is not None:
        try:
            for one in measure(task, device):
                connection.send(one)
        except Exception as error:  # an error that the measurement did not turn into a row
            connection.send(("failed", first_line(error)))
        connection.send(("done", healthy(device)))


class Worker:
    """A separate process that measures on a device, with methods to wait for it, send it tasks and end it."""

    def __init__(self, device: str):
        context = multiprocessing.get_context("spawn")  # a forked process could not use the card
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, device), daemon=True)
        self.process.start()
        theirs.close()
        self.device_name: str | None = None  # None until the process is ready

    def meet(self, seconds: float = START) -> str:
        """Wait until the process is ready; returns the device's name. Raises UserError if the device cannot be used,
        GantkError if the process ends or takes longer than `seconds`."""
        try:
            answered = self.connection.poll(seconds)
            said = self.connection.recv() if answered else f"the process that measures took {seconds:.0f} s to start"
        except (EOFError, OSError):
            self.process.join(5)
            said = f"the process that measures ended with code {self.process.exitcode}"
        if isinstance(said, UserError):
            raise said
        if isinstance(said, str):
            raise GantkError(said)
        self.device_name = said[1]
        return said[1]

    def answers(self, task: dict[str, Any], clock: Clock, limit: float) -> Iterator[Any]:
        """Messages of the process on a task, up to ("done", ...); ("killed", reason) if it ends or exceeds `limit`."""
        try:
            if self.device_name is None:
                self.meet(min(clock.left(), START))
            ends, said = clock.spent() + min(clock.left(), limit), None
            self.connection.send(task)
            while not (isinstance(said, tuple) and said[0] == "done"):
                if not self.connection.poll(max(0.0, ends - clock.spent())):
                    raise GantkError(f"took longer than {limit:g} s")
                said = self.connection.recv()
                yield said
        except GantkError as error:
            yield KILLED, OUT_OF_TIME if clock.left() <= 0 else str(error)
        except (EOFError, OSError):
            self.process.join(5)
            yield KILLED, f"the process that measured ended with code {self.process.exitcode}"

    def end(self) -> None:
        """End the process: it stops by itself if idle, and is killed after 2 seconds."""
        with contextlib.suppress(OSError):
            self.connection.send(None)
        self.process.join(2.0)
        self.process.kill()
        self.process.join(10)
        self.connection.close()


class Suite:
    """Runs tasks and writes their rows to `file`. `start` creates a measuring process; `worker` is the first one."""

    def __init__(
        self,
        file: Path,
        clock: Clock,
        start: Callable[[], Worker],
        worker: Worker | None = None,
        say: Callable[[str], None] = print,
    ):
        self.clock, self.start, self.worker, self.say = clock, start, worker, say
        self.killed: dict[tuple[str, str], str] = {}  # (case, mode) -> reason why it killed the process
        self.writer = Writer(file)

    def run(self, tasks: Iterator[dict[str, Any]]) -> list[Row]:
        """Run all tasks in order; returns all rows. Tasks beyond the time limit become rows "skipped"."""
        try:
            self.writer(row("definitions", format=FORMAT, text=DEFINITIONS))
            for task in tasks:
                self._do(task)
            counts = Counter(one["status"] for one in self.writer.rows[1:])
            for one in bars(list(self.writer.rows)):
                self.writer(one)
            self.writer(row("end", wall_s=self.clock.spent(), budget_s=self.clock.seconds, counts=dict(counts)))
        finally:
            self._end_worker()
            self.writer.close()
        return self.writer.rows

    def _do(self, task: dict[str, Any]) -> None:
        before = self.killed.get((task.get("case"), task.get("mode")))
        if before or self.clock.left() < LEAST:
            self._missing(task, SKIPPED, before or OUT_OF_TIME, [])
            return
        self.worker = self.worker or self.start()
        told: list[Row] = []
        limit = COMPILING if task.get("mode") == "compiled" else LIMITS[task["part"]]
        for said in self.worker.answers(task, self.clock, limit):
            if isinstance(said, dict):
                told.append(self._write(said))
            elif said[0] != "done":
                self._missing(task, SKIPPED if said[1] == OUT_OF_TIME else said[0], said[1], told)
            if isinstance(said, tuple) and (said[0] == KILLED or said == ("done", False)):
                self._end_worker()

    def _write(self, one: Row) -> Row:
        """Write a row, with its share of the measured peak rates; returns it."""
        if one["part"] == "step" and one["status"] == "ok" and not one.get("flops"):
            self._counts_of_another_mode(one)
        if one.get("tflops_per_s") and one["part"] in ("step", "peer"):
            for key, kind, dims in (("of_matmul", "matmul", None), ("of_conv", "conv", one["dims"])):
                ceiling = best(self.writer.rows, kind, one["precision"], dims)
                one[key] = one["tflops_per_s"] / ceiling if ceiling else None
        if one["part"] == "step" and one["status"] == KILLED:
            at = f"{' x '.join(map(str, one['size']))}, batch {one['batch']}, {one['precision']}"
            self.killed[one["case"], one["mode"]] = f"not tried again; at {at}: {one['why']}"
        self.writer(one)
        names = ("peer", "case", "what", "kind", "recipe", "when", "dims", "size", "batch", "precision", "mode")
        about = " ".join(str(one[name]) for name in names if one.get(name) is not None)
        time_ = f"{1e3 * one['median_s']:.2f} ms" if one.get("median_s") else one["why"] or ""
        self.say(f"{one['part']:<11} {about}: {one['status']} {time_}".rstrip())
        return one

    def _missing(self, task: dict[str, Any], status: str, why: str, told: list[Row]) -> None:
        """Write a row with `status` and `why` for each row that a task should have measured and did not."""
        measured = [(one["part"], one.get("peer")) for one in told]
        for one in blank(task, status, why):
            if (one["part"], one.get("peer")) not in measured:
                self._write(one)

    def _counts_of_another_mode(self, one: Row) -> None:
        """Copy `flops` from the same step in another mode: every mode computes the same operations."""
        cell = ("case", "size", "batch", "precision")
        for other in self.writer.rows:
            if other["part"] == "step" and other.get("flops") and all(other[key] == one[key] for key in cell):
                one |= {"flops": other["flops"], "tflops_per_s": other["flops"] / one["median_s"] / 1e12}

    def _end_worker(self) -> None:
        if self.worker is not None:
            self.worker.end()
            self.worker = None
