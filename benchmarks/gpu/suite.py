"""The whole run: tasks in the order of their importance, one budget of time, a row for everything."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gantk.errors import GantkError, UserError
from gpu import cases, catalogue
from gpu.bars import bars
from gpu.clock import Clock
from gpu.rows import DEFINITIONS, FORMAT, KILLED, OUT_OF_TIME, SKIPPED, Writer, row

START = 120.0  # seconds that a process may take to start
LIMITS = {"environment": 60, "ceiling": 60, "step": 60, "cost": 60, "training": 180, "peer": 150}  # seconds for a task
COMPILING = 240.0  # for one that compiles
LEAST = 3.0  # seconds below which nothing is begun
PARTS = tuple(LIMITS)


@dataclass
class Options:
    """What the command line says."""

    device: str
    minutes: float
    file: Path
    tiny: bool = False
    peers: dict[str, str] = field(default_factory=dict)  # name -> folder
    cases: list[str] | None = None
    parts: tuple[str, ...] = PARTS
    command: str = ""


class Worker:
    """A process that measures on a device; it can be asked, waited for, and ended. `device_name` is the card's."""

    def __init__(self, device: str):
        from gpu.worker import serve

        context = multiprocessing.get_context("spawn")  # a forked process could not use the card
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, device), daemon=True)
        self.process.start()
        theirs.close()
        self.device_name: str | None = None  # once it has answered

    def meet(self, seconds: float = START) -> str:
        """Wait until it is ready; the device's name. UserError where it cannot be computed on, GantkError where the
        process dies or takes too long."""
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
        """What it says to a task, up to ("done", ...); ("killed", reason) where it dies or takes too long."""
        try:
            if self.device_name is None:
                self.meet(min(clock.left(), START))
        except GantkError as error:
            yield KILLED, OUT_OF_TIME if clock.left() <= 0 else str(error)
            return
        ends = clock.spent() + min(clock.left(), limit)
        try:
            self.connection.send(task)
            said: Any = None
            while not (isinstance(said, tuple) and said[0] == "done"):
                if not self.connection.poll(max(0.0, ends - clock.spent())):
                    yield KILLED, OUT_OF_TIME if clock.left() <= 0 else f"took longer than {limit:g} s"
                    return
                said = self.connection.recv()
                yield said
        except (EOFError, OSError):
            self.process.join(5)
            yield KILLED, f"the process that measured ended with code {self.process.exitcode}"

    def end(self) -> None:
        """Make it stop: by itself where it has nothing to do, else at once."""
        with contextlib.suppress(OSError):
            self.connection.send(None)
        self.process.join(2.0)
        self.process.kill()
        self.process.join(10)
        self.connection.close()


class Suite:
    """Runs the tasks and keeps their rows. `worker`: the process to begin with; None: one is started."""

    def __init__(
        self,
        options: Options,
        clock: Clock,
        start: Callable[[str], Worker] = Worker,
        say: Callable[[str], None] = print,
        worker: Worker | None = None,
    ):
        self.options, self.clock, self.start, self.say, self.worker = options, clock, start, say, worker
        self.killed: dict[tuple[str, str], str] = {}  # (case, mode) -> what it did to the process
        self.writer = Writer(options.file)

    def run(self) -> list[dict[str, Any]]:
        """Everything, most important first; what does not fit into the time is a row that says so."""
        try:
            self.writer(row("definitions", format=FORMAT, text=DEFINITIONS))
            for task in self.tasks():
                self._do(task)
            counts = Counter(one["status"] for one in self.writer.rows if one["part"] != "definitions")
            for one in bars(self.writer.rows):
                self.writer(one)
            budget = {"wall_s": self.clock.spent(), "budget_s": self.clock.seconds}
            self.writer(row("end", **budget, counts=dict(counts)))
        finally:
            self._end_worker()
            self.writer.close()
        return self.writer.rows

    def tasks(self) -> Iterator[dict[str, Any]]:
        """Every task of the parts that were asked for."""
        options = self.options
        found = catalogue.tasks(options.tiny, options.cases, options.peers, options.command)
        return (task for task in found if task["part"] in options.parts)

    def _do(self, task: dict[str, Any]) -> None:
        before = self.killed.get((task.get("case"), task.get("mode")))
        if before or self.clock.left() < LEAST:
            self._missing(task, SKIPPED, before or OUT_OF_TIME, [])
            return
        self.worker = self.worker or self.start(self.options.device)
        told: list[dict[str, Any]] = []
        limit = COMPILING if task.get("mode") == "compiled" else LIMITS[task["part"]]
        for said in self.worker.answers(task, self.clock, limit):
            if isinstance(said, dict):
                told.append(self._write(said))
            elif said[0] == "done":
                if not said[1]:
                    self._end_worker()
            else:
                skipped = said[1] == OUT_OF_TIME
                self._missing(task, SKIPPED if skipped else said[0], said[1], told)
                if said[0] == KILLED:
                    self._end_worker()

    def _write(self, one: dict[str, Any]) -> dict[str, Any]:
        """Keep a row; what only the whole run knows is added."""
        if one["part"] == "step" and one["status"] == "ok" and one["flops"] is None:
            self._counts_of_another_mode(one)
        if one["part"] in ("step", "peer") and one["tflops_per_s"] and one["precision"]:
            for key, kind, dims in (("of_matmul", "matmul", None), ("of_conv", "conv", one["dims"])):
                ceiling = best(self.writer.rows, kind, one["precision"], dims)
                one[key] = one["tflops_per_s"] / ceiling if ceiling else None
        if one["part"] == "step" and one["status"] == KILLED:
            at = f"{' x '.join(map(str, one['size']))}, batch {one['batch']}, {one['precision']}"
            self.killed[one["case"], one["mode"]] = f"not tried again; at {at}: {one['why']}"
        self.writer(one)
        self.say(line_of(one))
        return one

    def _missing(self, task: dict[str, Any], status: str, why: str, told: list[dict[str, Any]]) -> None:
        """Rows in the place of those that a task did not give."""
        measured = [(one["part"], one.get("peer")) for one in told]
        for one in blanks(task, status, why):
            if (one["part"], one.get("peer")) not in measured:
                self._write(one)

    def _counts_of_another_mode(self, one: dict[str, Any]) -> None:
        """What a step computes is the same in every mode: taken from where it could be counted."""
        cell = ("case", "size", "batch", "precision")
        for other in self.writer.rows:
            if other["part"] == "step" and other["flops"] and all(other[key] == one[key] for key in cell):
                one |= {"flops": other["flops"], "tflops_per_s": other["flops"] / one["median_s"] / 1e12}

    def _end_worker(self) -> None:
        if self.worker is not None:
            self.worker.end()
            self.worker = None


def best(rows: list[dict[str, Any]], kind: str, precision: str, dims: int | None = None) -> float | None:
    """The highest rate of that kind among the rows, in TFLOP/s; None where there is none."""
    rates = [
        one["reached"]
        for one in rows
        if one["part"] == "ceiling" and one["status"] == "ok" and one["precision"] == precision
        if one["kind"].startswith(kind) and (dims is None or one["dims"] == dims)
    ]
    return max(rates, default=None)


def blanks(task: dict[str, Any], status: str, why: str) -> list[dict[str, Any]]:
    """The rows of a task that gave none: what it was about, and why there is nothing."""
    keys = ("case", "recipe", "settings", "dims", "size", "batch", "precision", "mode")
    about = {key: task[key] for key in keys if key in task}
    if task["part"] == "step":
        return [row("step", status, why, **about)]
    if task["part"] == "peer":
        about |= {"dims": 2, "size": [task["size"]] * 2}
        return [*(row("peer", status, why, **about, peer=side) for side in task["sides"]),
                row("ratio", status, why, **about)]  # fmt: skip
    if task["part"] == "ceiling":
        return [row("ceiling", status, why, **{k: task.get(k) for k in ("kind", "precision", "dims")})]
    if task["part"] == "cost":
        return [row("cost", status, why, what=task["what"])]
    if task["part"] == "training":
        return [row("training", status, why, recipe=cases.training(task["tiny"])["recipe"])]
    return [row("environment", status, why, when=task["when"], command=task["command"])]


def line_of(one: dict[str, Any]) -> str:
    """A row in one line, for a person who waits."""
    names = ("peer", "case", "what", "kind", "recipe", "when", "dims", "size", "batch", "precision", "mode")
    about = " ".join(str(one[name]) for name in names if one.get(name) is not None)
    time = f"{1e3 * one['median_s']:.2f} ms" if one.get("median_s") else ""
    return f"{one['part']:<11} {about}: {one['status']} {time or one['why'] or ''}".rstrip()
