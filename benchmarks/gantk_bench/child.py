"""Runs one training in a process of its own: starts it, follows its log, enforces its limit,
reports how it ended.
"""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from gantk.machine.runtime import ALONE
from gantk_bench.plan import Job
from gantk_bench.rows import without_paths

GRACE = 10.0  # seconds between SIGTERM and SIGKILL
# `python -m gantk` that ends when its standard input closes, so that killing the bench ends its
# trainings too.
PROGRAM_CODE = f"""
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
PROGRAM = (sys.executable, "-P", "-c", PROGRAM_CODE)  # -P: no random.py of the working folder
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)
REASONS = {
    "SIGKILL": "perhaps it ran out of memory",
    "SIGSEGV": "a library crashed",
    "SIGBUS": "a library crashed",
}


@dataclass(frozen=True)
class End:
    """Status of a child ("ok", "failed", "out of time", "killed", "skipped"), the error in one
    line, and seconds.
    """

    status: str
    error: str | None
    seconds: float = 0.0


class Child:
    """Process `python -m gantk run` of one job, with run folder `run`; writes its output to the
    file `log`.

    Each numeric library in it uses `threads` threads. The process leads its own process group: the
    terminal's Ctrl-C does not reach it directly, and signals to the group also end the processes
    that it started.
    """

    def __init__(self, job: Job, run: Path, log: Path, threads: int, device: str | None):
        self.job = job
        self.run = run
        self.log = log
        arguments = [*job.arguments, "--out", str(run)]
        if device:
            arguments += ["--device", device]
        self._output = open(log, "wb")  # noqa: SIM115 - closed when the process has ended
        self.started = now()
        self._began = time.perf_counter()
        # reason, and seconds at which SIGTERM was sent
        self._stopping: tuple[str, float] | None = None
        self._read = 0  # bytes of log.jsonl
        self._step = 0
        self.process = subprocess.Popen(
            [*PROGRAM, "run", *arguments],
            # closes when this process ends: no other process holds the writing end
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=os.environ
            | dict.fromkeys(THREADS, str(threads))
            | ALONE
            | {"PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._began

    def stop(self, why: str) -> None:
        """Send SIGTERM to the process group; `poll` kills it if it runs GRACE seconds later."""
        if self._stopping is None:
            self._stopping = why, self.seconds
            self._signal(signal.SIGTERM)

    def poll(self) -> End | None:
        """The child's End, or None while it runs. Stops it at its time limit."""
        code = self.process.poll()
        if code is None:
            self._enforce_limits()
            return None
        if self._stopping or code < 0:
            self._signal(KILL)  # processes that it may have started
        self._close()
        return self._end(code)

    def _enforce_limits(self) -> None:
        if self.job.limit is not None and self.seconds > self.job.limit:
            self.stop("out of time")
        if self._stopping and self.seconds - self._stopping[1] > GRACE:
            self._signal(KILL)

    def _end(self, code: int) -> End:
        """How the process with this exit code has ended."""
        if self._stopping:
            why = self._stopping[0]
            error = f"longer than {self.job.limit:g} s" if why == "out of time" else why
            return End(why, f"{error}, at step {self.step()}", self.seconds)
        if code < 0:
            name = _signal_name(-code)
            reason = f" ({REASONS[name]})" if name in REASONS else ""
            return End("killed", f"killed by {name}{reason} at step {self.step()}", self.seconds)
        if code > 0:
            return End("failed", self._error(code), self.seconds)
        return End("ok", None, self.seconds)

    def kill(self) -> None:
        """Kill the process group and wait for the process to end."""
        if self.process.poll() is None:
            self._signal(KILL)
            self.process.wait()
        self._close()

    def step(self) -> int:
        """Steps trained so far, read from the run's log."""
        with suppress(OSError), open(self.run / "log.jsonl", "rb") as file:
            file.seek(self._read)
            fresh = file.read()
            whole = fresh[: fresh.rfind(b"\n") + 1]
            self._read += len(whole)
            for line in whole.splitlines():
                with suppress(ValueError, KeyError, TypeError):
                    self._step = max(self._step, int(json.loads(line)["step"]))
        return self._step

    def _error(self, code: int) -> str:
        """The line that gives the reason: gantk's last error message, or the last line of the
        output.
        """
        lines = [
            line.strip()
            for line in self.log.read_text("utf-8", "replace").splitlines()
            if line.strip()
        ]
        messages = [line[5:].strip() for line in lines if line.startswith("error  ")]
        message = (messages or lines or [f"exit code {code}, and nothing was printed"])[-1]
        return without_paths(message)[:500]

    def _close(self) -> None:
        self._output.close()
        self.process.stdin.close()

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):  # the process has already ended
            if hasattr(os, "killpg"):
                os.killpg(self.process.pid, number)
            elif self.process.poll() is None:
                self.process.terminate()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def now() -> str:
    """Date and time with time zone, ISO 8601, to the second."""
    return datetime.now().astimezone().isoformat(timespec="seconds")
