"""One training in a process of its own: started, watched, stopped in time, and its end put into words."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from gantk_bench.plan import Job
from gantk_bench.rows import without_places

GRACE = 10.0  # seconds between asking a process to stop and killing it
# `python -m gantk`, which ends when its standard input does: a bench that was killed leaves no training behind.
WATCHED = f"""
import os, runpy, signal, threading, time

def watch():
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)  # it finishes its step, saves and stops
    time.sleep({GRACE})
    os.killpg(0, signal.SIGKILL)

threading.Thread(target=watch, daemon=True).start()
runpy.run_module("gantk", run_name="__main__", alter_sys=True)
"""
PROGRAM = (sys.executable, "-c", WATCHED)
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)
REASONS = {"SIGKILL": "perhaps it ran out of memory", "SIGSEGV": "a library crashed", "SIGBUS": "a library crashed"}


@dataclass(frozen=True)
class End:
    """How a child ended: "ok", "failed", "out of time", "killed" or "skipped"; why, in one line; after how long."""

    status: str
    error: str | None
    seconds: float = 0.0


class Child:
    """`python -m gantk run` of one job: its run folder is `run`, what it prints goes to the file `log`.

    `threads` is how many each of its libraries may use. It leads a process group of its own, so that Ctrl-C reaches it
    through us alone, and that all it started ends with it.
    """

    def __init__(self, job: Job, run: Path, log: Path, threads: int, device: str | None):
        self.job, self.run, self.log = job, run, log
        words = [*job.arguments, "--out", str(run), *(["--device", device] if device else [])]
        environment = os.environ | dict.fromkeys(THREADS, str(threads)) | {"PYTHONUNBUFFERED": "1"}
        self._output = open(log, "wb")  # noqa: SIM115 - closed when the process has ended
        self.started, self._began = now(), time.perf_counter()
        self._stopping: tuple[str, float] | None = None  # why, and since when
        self._read, self._step, self._steps = 0, 0, job.steps
        self.process = subprocess.Popen(
            [*PROGRAM, "run", *words],
            stdin=subprocess.PIPE,  # whose other end nobody else has
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self._began

    def stop(self, why: str) -> None:
        """Ask the whole group to stop; `poll` kills it where it does not."""
        if self._stopping is None:
            self._stopping = why, self.seconds
            self._signal(signal.SIGTERM)

    def poll(self) -> End | None:
        """How it ended, None while it runs. Stops it at its limit."""
        code = self.process.poll()
        if code is None:
            if self.job.limit is not None and self.seconds > self.job.limit:
                self.stop("out of time")
            if self._stopping and self.seconds - self._stopping[1] > GRACE:
                self._signal(KILL)
            return None
        if self._stopping or code < 0:
            self._signal(KILL)  # what it may have started
        self._close()
        if self._stopping:
            why = self._stopping[0]
            error = f"longer than {self.job.limit:g} s" if why == "out of time" else why
            return End(why, f"{error}, at step {self.step()}", self.seconds)
        if code < 0:
            name = next((each.name for each in signal.Signals if each == -code), f"signal {-code}")
            reason = f" ({REASONS[name]})" if name in REASONS else ""
            return End("killed", f"killed by {name}{reason} at step {self.step()}", self.seconds)
        return End("failed", self._error(code), self.seconds) if code else End("ok", None, self.seconds)

    def kill(self) -> None:
        """End the whole group at once, and wait for it."""
        if self.process.poll() is None:
            self._signal(KILL)
            self.process.wait()
        self._close()

    def step(self) -> int:
        """Steps trained so far, of the run's log."""
        with suppress(OSError), open(self.run / "log.jsonl", "rb") as file:
            file.seek(self._read)
            fresh = file.read()
            whole = fresh[: fresh.rfind(b"\n") + 1]
            self._read += len(whole)
            for line in whole.splitlines():
                with suppress(ValueError, KeyError, TypeError):
                    self._step = max(self._step, int(json.loads(line)["step"]))
        return self._step

    def steps(self) -> int | None:
        """Steps in all; None until the run has counted what its epochs make."""
        if self._steps is None and self._step:
            found = re.search(r"^train .*?(\d+) steps?,", self.log.read_text("utf-8", "replace"), re.M)
            self._steps = int(found[1]) if found else None
        return self._steps

    def _error(self, code: int) -> str:
        """The line that says why: gantk's own message, or the last one of a traceback."""
        lines = [line.strip() for line in self.log.read_text("utf-8", "replace").splitlines() if line.strip()]
        own = [line[5:].strip() for line in lines if line.startswith("error  ")]
        last = (own or lines or [f"exit code {code}, and nothing was printed"])[-1]
        return without_places(last)[:500]

    def _close(self) -> None:
        self._output.close()
        self.process.stdin.close()

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):  # it has ended by itself
            if hasattr(os, "killpg"):
                os.killpg(self.process.pid, number)
            elif self.process.poll() is None:
                self.process.terminate()


def attended(folder: str, *given: Any) -> tuple[str, End]:
    """When a child started that works in `folder`, and how it ended: of a Ray worker, whose cancelling stops it."""
    os.chdir(folder)
    child = Child(*given)
    try:
        while not (end := child.poll()):
            try:
                time.sleep(0.1)
            except KeyboardInterrupt:
                child.stop("stopped")
        return child.started, end
    finally:
        child.kill()


def now() -> str:
    """The time of day with its zone, ISO 8601, to the second."""
    return datetime.now().astimezone().isoformat(timespec="seconds")
