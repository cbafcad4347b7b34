"""Runs the rows of a bench: each in a process of its own, several at a time, and saves each row."""

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from gantk.errors import GantkError, Interrupted, UserError, count_noun, writing_file
from gantk.files import lock_folder
from gantk.terminal import stop_on_ctrl_c, styled
from gantk_bench.board import Board
from gantk_bench.child import Child, End, now
from gantk_bench.forecast import Forecast, forecast, known_rows
from gantk_bench.plan import Job
from gantk_bench.rows import FORMAT, Row, commit, figures, read_rows, without_paths, write_rows
from gantk_bench.suite import Suite

POLL_INTERVAL = 0.2  # seconds between polls of the children


class Bench:
    """Runs the jobs of one bench, `jobs` at a time, each in a process of its own, and writes its
    folder.

    The folder holds rows.jsonl, saved after each row, the run folders (runs/) and their output
    (logs/). Rows of other labels stay; `before` are the folder's rows of the bench before, which
    are copied to rows.before.jsonl.
    """

    def __init__(
        self,
        planned: Sequence[Job],
        suite: Suite,
        path: Path,
        jobs: int | None,
        device: str | None,
        out: Console,
    ):
        self.planned = planned
        self.suite = suite
        self.path = path
        self.device = device
        self.out = out
        cores = _available_cores()
        self.jobs = jobs or min(suite.jobs, cores)
        self.threads = suite.threads or max(cores // self.jobs, 1)
        self.commit = commit()
        self.file = path / "rows.jsonl"
        self.rows: dict[str, Row] = {}  # by label
        self.before: list[Row] | None = None

    def forecast(self, planned: Sequence[Job]) -> Forecast:
        """How long these jobs will take."""
        return forecast(planned, self.jobs, known_rows(self.path, self.suite.name))

    def run(self, resume: bool) -> None:
        """Measure all planned rows; with `resume` only those that the folder does not have yet."""
        with ExitStack() as stack:
            self._open(stack, keep_before=not resume)
            todo = [job for job in self.planned if not (resume and self._is_done(job))]
            self.print_plan(self.forecast(todo), done=len(self.planned) - len(todo))
            board = stack.enter_context(Board(len(todo), self.out))
            stopped = stack.enter_context(stop_on_ctrl_c())
            self._measure(todo, board, stopped)

    def print_plan(self, expected: Forecast, done: int = 0) -> None:
        """Print what will be trained, how long that will take, and where it goes."""
        rows = count_noun(self.planned, "row")
        at_once = f"{self.jobs} at once, {count_noun(self.threads, 'thread')} each"
        print_line(self.out, f"bench    suite {self.suite.name}, {rows}, {at_once}")
        if done:
            print_line(self.out, f"resume   done already: {count_noun(done, 'row')}")
        print_line(self.out, f"time     {self._time(expected)}")
        print_line(self.out, f"folder   {self.path}")

    def _time(self, expected: Forecast) -> str:
        return expected.sentence()

    def own_rows(self) -> list[Row]:
        """The rows of this bench, in the order of its jobs."""
        return [self.rows[job.label] for job in self.planned if job.label in self.rows]

    def all_rows(self) -> Iterator[Row]:
        """Earlier rows of other labels first, then this bench's."""
        labels = {job.label for job in self.planned}
        yield from (row for label, row in self.rows.items() if label not in labels)
        yield from self.own_rows()

    def _open(self, stack: ExitStack, *, keep_before: bool) -> None:
        """Create the folder or reuse a bench folder; UserError if another process holds it."""
        with writing_file(self.path, where="--out"):
            for name in ("runs", "logs"):
                (self.path / name).mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock_folder(self.path))
            if self.file.is_file():
                self.rows = {row.label: row for row in read_rows(self.file)}
            if self.rows and keep_before:
                shutil.copyfile(self.file, self.path / "rows.before.jsonl")
                self.before = list(self.rows.values())
        write_rows(self.file, self.all_rows())

    def _is_done(self, job: Job) -> bool:
        """Whether the folder has a row of the same job with status "ok"."""
        row = self.rows.get(job.label)
        if row is None or row.status != "ok":
            return False
        return all(getattr(row, key) == value for key, value in self._identity(job).items())

    def _measure(self, todo: Sequence[Job], board: Board, stopped: list[int]) -> None:
        waiting = iter(todo)
        children: list[Child] = []
        try:
            while True:
                if stopped:
                    raise KeyboardInterrupt
                children += self._start_jobs(waiting, self.jobs - len(children), board)
                if not children:
                    return
                time.sleep(POLL_INTERVAL)
                board.progress(children)
                for child in list(children):
                    end = child.poll()
                    if end is not None:
                        children.remove(child)
                        self._save_row(child.job, end, child.started, board)
        except KeyboardInterrupt:
            _stop(children)
            what = f"stopped after {board.ended} of {len(todo)} rows, which are kept in {self.path}"
            raise Interrupted(f"{what}. Go on with the same command and --resume") from None
        finally:
            _stop(children)

    def _start_jobs(self, waiting: Iterator[Job], free: int, board: Board) -> Iterator[Child]:
        """Start up to `free` children; a job that cannot start becomes a row at once."""
        while free > 0:
            job = next(waiting, None)
            if job is None:
                return
            child = self._start(job, board)
            if child is not None:
                board.started(job.label)
                yield child
                free -= 1

    def _start(self, job: Job, board: Board) -> Child | None:
        """The child of a job; None, and a row that says why, if it cannot start."""
        problem = None
        if job.skip:
            problem = End("skipped", job.skip)
        elif job.problem:
            problem = End("failed", without_paths(job.problem))
        else:
            run = self.path / "runs" / job.folder
            log = self.path / "logs" / f"{job.folder}.txt"
            try:
                if run.is_dir():
                    # the child of a killed bench may still be saving its checkpoint
                    with lock_folder(run):
                        shutil.rmtree(run, ignore_errors=True)  # files of an earlier attempt
                return Child(job, run, log, self.threads, self.device)
            except (UserError, OSError) as error:  # no memory or disk space for another process
                why = getattr(error, "strerror", error)
                problem = End("failed", f"it could not be started: {why}")
        self._save_row(job, problem, now(), board)
        return None

    def _identity(self, job: Job) -> dict[str, Any]:
        """The fields that identify a measurement."""
        return {
            "format": FORMAT,
            "suite": self.suite.name,
            "recipe": job.recipe,
            "label": job.label,
            "profile": job.profile,
            "settings": [without_paths(setting) for setting in job.settings],
            "grid": job.facts.get("grid", {}),
            "seed": job.facts.get("seed"),
            "recipe_hash": job.facts.get("recipe_hash"),
        }

    def _save_row(
        self,
        job: Job,
        end: End,
        started: str,
        board: Board | None,
        speed: dict[str, Any] | None = None,
    ) -> None:
        """Add or replace the row of a job, with the run's figures if it ended well, and save all
        rows. `speed`: what was measured besides the run. `board` None: the row will be replaced.
        """
        run = self.path / "runs" / job.folder
        table = self._identity(job) | job.facts
        table |= {
            "status": end.status,
            "error": end.error,
            "started": started,
            "wall_s": round(end.seconds, 1),
            "load": _load(),
            "run": f"runs/{job.folder}" if run.is_dir() else None,
            "git": self.commit,
            "jobs": self.jobs,
        }
        if end.status == "ok":
            try:
                table |= figures(run)
            except GantkError as error:
                table |= {"status": "failed", "error": without_paths(str(error))}
        table["speed"] = table.get("speed", {}) | (speed or {})
        row = Row.model_validate(table)
        self.rows[job.label] = row
        write_rows(self.file, self.all_rows())
        if board is not None:
            board.finished(row)


def _available_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _load() -> float | None:
    """Processes that ran or waited to run, on average over the last minute; None where the system
    does not say.
    """
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None


def _stop(children: list[Child]) -> None:
    """End all running children: SIGTERM first, then SIGKILL after GRACE seconds or on a second
    Ctrl-C.
    """
    try:
        for child in children:
            child.stop("stopped")
        while None in [child.poll() for child in children]:
            time.sleep(POLL_INTERVAL)
    finally:
        for child in children:
            child.kill()
        children.clear()


def print_line(out: Console, line: str) -> None:
    """Print a line whose first word is dim."""
    label, _, rest = line.partition("  ")
    out.print(styled(label, "dim") + styled(f"  {rest}"), soft_wrap=True)
