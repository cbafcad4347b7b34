"""Runs tasks in order of importance within one time limit and writes a row for each, measured or
not.

A separate process measures: if it crashes or leaves the GPU in a bad state, it is replaced, and all
rows are kept.
"""

import contextlib
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from harness import reason

from gantk.errors import GantkError, UserError
from gantk_bench.rows import write_rows
from gpu.rows import (
    DEFINITIONS,
    FORMAT,
    KILLED,
    OUT_OF_TIME,
    SKIPPED,
    Row,
    bars,
    best,
    missing_rows,
    row,
)

START = 120.0  # seconds that a process may take to start
LIMITS = {"environment": 60, "ceiling": 60, "step": 60, "peer": 150}  # seconds for a task
COMPILING = 240.0  # seconds for a task that uses torch.compile
LEAST = 3.0  # seconds that must remain to start another task


def serve(connection: Connection, device: str) -> None:
    """Loop of the measuring process: sends the device's name, or a UserError if the device cannot
    be used; then receives tasks until None. For each task it sends its rows, ("failed", reason)
    after an error, and last ("done", whether the device still works).
    """
    from gantk.machine.runtime import describe, start
    from gpu.measure import healthy, measure

    try:
        connection.send(describe(start(device))["device"])
    except UserError as error:
        connection.send(error)
        return
    while (task := connection.recv()) is not None:
        try:
            for entry in measure(task, device):
                connection.send(entry)
        except Exception as error:  # an error that the measurement did not turn into a row
            connection.send(("failed", reason(error)))
        connection.send(("done", healthy(device)))


class Worker:
    """A separate process that measures on a device, with methods to wait for it, send it tasks and
    end it.
    """

    def __init__(self, device: str):
        context = multiprocessing.get_context("spawn")  # a forked process could not use the card
        self.connection, child_end = context.Pipe()
        self.process = context.Process(target=serve, args=(child_end, device), daemon=True)
        self.process.start()
        child_end.close()
        self.device_name: str | None = None  # None until the process is ready

    def receive(self, seconds: float, limit: float) -> Any:
        """The next message of the process; GantkError if it ends, or sends none in `seconds`, the
        rest of `limit`.
        """
        try:
            if not self.connection.poll(max(0.0, seconds)):
                raise GantkError(f"took longer than {limit:g} s")
            return self.connection.recv()
        except (EOFError, OSError):
            self.process.join(5)
            raise GantkError(
                f"the process that measures ended with code {self.process.exitcode}"
            ) from None

    def wait_ready(self, seconds: float = START) -> str:
        """Wait until the process is ready; returns the device's name. UserError if the device
        cannot be used.
        """
        message = self.receive(seconds, seconds)
        if isinstance(message, UserError):
            raise message
        self.device_name = message
        return message

    def messages(self, task: dict[str, Any], left: float, limit: float) -> Iterator[Any]:
        """Messages of the process on a task, up to ("done", ...); ("killed", reason) if it ends, or
        takes longer than `limit` seconds or than the `left` ones of the whole run.
        """
        end = time.monotonic() + left
        message = None
        try:
            if self.device_name is None:
                self.wait_ready(min(left, START))
            deadline = min(end, time.monotonic() + limit)
            with contextlib.suppress(OSError):  # `receive` says how the process ended
                self.connection.send(task)
            while not (isinstance(message, tuple) and message[0] == "done"):
                message = self.receive(deadline - time.monotonic(), limit)
                yield message
        except GantkError as error:
            yield KILLED, OUT_OF_TIME if time.monotonic() >= end else str(error)

    def end(self) -> None:
        """End the process: it stops by itself if idle, and is killed after 2 seconds."""
        with contextlib.suppress(OSError):
            self.connection.send(None)
        self.process.join(2.0)
        self.process.kill()
        self.process.join(10)
        self.connection.close()


class Suite:
    """Runs tasks for at most `seconds` and writes their rows to `file`.

    `start` creates a measuring process; `worker` is the first one; `began`: time.monotonic() when
    the time began.
    """

    def __init__(
        self,
        file: Path,
        seconds: float,
        start: Callable[[], Worker],
        worker: Worker | None = None,
        say: Callable[[str], None] = print,
        began: float | None = None,
    ):
        self.file = file
        self.seconds = seconds
        self.start = start
        self.worker = worker
        self.say = say
        self.began = time.monotonic() if began is None else began
        # (case, mode) -> reason why it killed the process
        self.killed: dict[tuple[str, str], str] = {}
        self.rows: list[Row] = []
        file.parent.mkdir(parents=True, exist_ok=True)

    @property
    def left(self) -> float:
        """Seconds that remain, never below 0."""
        return max(0.0, self.began + self.seconds - time.monotonic())

    def run(self, tasks: Iterator[dict[str, Any]]) -> list[Row]:
        """Run all tasks in order; returns all rows. Tasks beyond the time limit become rows
        "skipped".
        """
        try:
            self._add(row("definitions", format=FORMAT, text=DEFINITIONS))
            for task in tasks:
                self._run_task(task)
            counts = Counter(entry["status"] for entry in self.rows[1:])
            for entry in bars(list(self.rows)):
                self._add(entry)
            spent = time.monotonic() - self.began
            self._add(row("end", wall_s=spent, budget_s=self.seconds, counts=dict(counts)))
        finally:
            self._end_worker()
        return self.rows

    def _add(self, entry: Row) -> None:
        """Add a row and write all of them, so that an interrupted run keeps its rows."""
        self.rows.append(entry)
        write_rows(self.file, self.rows)

    def _run_task(self, task: dict[str, Any]) -> None:
        reason = self.killed.get((task.get("case"), task.get("mode")))
        if reason or self.left < LEAST:
            self._write_missing(task, SKIPPED, reason or OUT_OF_TIME, [])
            return
        self.worker = self.worker or self.start()
        written: list[Row] = []
        limit = COMPILING if task.get("mode") == "compiled" else LIMITS[task["part"]]
        for message in self.worker.messages(task, self.left, limit):
            if isinstance(message, dict):
                written.append(self._write(message))
                continue
            status, why = message
            if status != "done":
                missing = SKIPPED if why == OUT_OF_TIME else status
                self._write_missing(task, missing, why, written)
            if status == KILLED or message == ("done", False):
                self._end_worker()

    def _write(self, entry: Row) -> Row:
        """Write a row, with its share of the measured peak rates; returns it."""
        if entry["part"] == "step" and entry["status"] == "ok" and not entry.get("flops"):
            self._copy_flops(entry)
        if entry.get("tflops_per_s") and entry["part"] in ("step", "peer"):
            kinds = (("of_matmul", "matmul", None), ("of_conv", "conv", entry["dims"]))
            for key, kind, dims in kinds:
                ceiling = best(self.rows, kind, entry["precision"], dims)
                entry[key] = entry["tflops_per_s"] / ceiling if ceiling else None
        if entry["part"] == "step" and entry["status"] == KILLED:
            size = " x ".join(map(str, entry["size"]))
            at = f"{size}, batch {entry['batch']}, {entry['precision']}"
            self.killed[entry["case"], entry["mode"]] = f"not tried again; at {at}: {entry['why']}"
        self._add(entry)
        names = (
            "peer",
            "case",
            "what",
            "kind",
            "recipe",
            "when",
            "dims",
            "size",
            "batch",
            "precision",
            "mode",
        )
        about = " ".join(str(entry[name]) for name in names if entry.get(name) is not None)
        time_ = f"{1e3 * entry['median_s']:.2f} ms" if entry.get("median_s") else entry["why"] or ""
        self.say(f"{entry['part']:<11} {about}: {entry['status']} {time_}".rstrip())
        return entry

    def _write_missing(
        self, task: dict[str, Any], status: str, why: str, written: list[Row]
    ) -> None:
        """Write a row with `status` and `why` for each row that a task should have measured and did
        not.
        """
        measured = [(entry["part"], entry.get("peer")) for entry in written]
        for entry in missing_rows(task, status, why):
            if (entry["part"], entry.get("peer")) not in measured:
                self._write(entry)

    def _copy_flops(self, entry: Row) -> None:
        """Copy `flops` from the same step in another mode, which computes the same operations."""
        cell = ("part", "case", "size", "batch", "precision")
        for other in self.rows:
            if other.get("flops") and all(other[key] == entry[key] for key in cell):
                entry |= {
                    "flops": other["flops"],
                    "tflops_per_s": other["flops"] / entry["median_s"] / 1e12,
                }

    def _end_worker(self) -> None:
        if self.worker is not None:
            self.worker.end()
            self.worker = None
