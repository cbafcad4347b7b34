"""A bench of a fixed length: the steps of every recipe are timed beside the measured peak of the
device, then as many recipes as fit are trained, most important first. `gantk bench --suite gpu`.
"""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from gantk.errors import GantkError
from gantk.terminal import duration
from gantk_bench.board import Board
from gantk_bench.child import End, now
from gantk_bench.device import Worker, peak_rates, time_reference, time_step, train_for
from gantk_bench.forecast import Forecast
from gantk_bench.plan import Job
from gantk_bench.rows import FORMAT, BenchSpeed, Row, without_paths, write_rows
from gantk_bench.running import Bench
from gantk_bench.suite import RecipeTable, Suite

PEAKS_LIMIT = 120.0  # seconds
TIMING_LIMIT = 120.0  # seconds for the bare steps of a job
# part of a recipe's time that its steps get; the rest reads images, times bare steps and scores
TRAINING_SHARE = 0.5
MIN_SHARE = 40.0  # seconds; below, reading images and scoring leave nothing to train in
PATIENCE = 3.0  # a recipe that takes so many times its share is ended
REFERENCE_CASES = ("cyclegan-256-resnet9", "cyclegan-256-unet")


class TimedBench(Bench):
    """Times and trains the jobs one after the other in one process, within `seconds`."""

    def __init__(
        self,
        planned: Sequence[Job],
        suite: Suite,
        path: Path,
        seconds: float,
        device: str | None,
        out: Console,
        tiny: bool,
        reference: str | Path | None,
    ):
        super().__init__(planned, suite, path, 1, device, out)
        self.seconds = seconds
        self.end = time.monotonic() + seconds
        self.tiny = tiny
        self.reference = reference
        self.worker: Worker | None = None
        self.peaks: dict[str, Any] = {}

    def _time(self, expected: Forecast) -> str:
        return f"{duration(self.seconds)}, whatever has been trained by then"

    def _measure(self, todo: Sequence[Job], board: Board, stopped: list[int]) -> None:
        """Time the bare steps of all jobs, which takes seconds each; then train as many as fit."""
        try:
            timed = []
            for job in todo:
                _expect_not_stopped(stopped)
                if self._time_job(job, board):
                    timed.append(job)
            if self.reference is not None:
                self._time_reference()
            for number, job in enumerate(timed):
                _expect_not_stopped(stopped)
                left = self.end - time.monotonic()
                share = max(left / (len(timed) - number), 0.0 if self.tiny else MIN_SHARE)
                self._train_job(job, min(share, left), board)
        finally:
            self._end_worker()

    def _time_job(self, job: Job, board: Board) -> bool:
        """Time the bare steps of a job and save them as its row; returns whether it can train."""
        started = now()
        began = time.monotonic()
        try:
            worker = self._ready_worker()
            if not self.peaks:
                self.peaks = worker.ask(peak_rates, PEAKS_LIMIT, tiny=self.tiny)
                self._print_peaks()
            found = worker.ask(time_step, TIMING_LIMIT, tiny=self.tiny, **_case(job))
            speed = self._with_shares(found, self._table(job))
        except GantkError as error:
            self._save_row(job, self._failure(error, began), started, board)
            return False
        step = f"{1e3 * speed['step_s']:.3g} ms a step, {speed['of_conv']:.0%} of peak"
        self._say(f"timed    {job.label}  {step}")
        # replaced when it has been trained
        self._save_row(job, End("skipped", "out of time"), started, None, speed)
        return True

    def _train_job(self, job: Job, share: float, board: Board) -> None:
        """Train a job for its share of the time in seconds, and complete its row."""
        if share < MIN_SHARE and not self.tiny:
            board.finished(self.rows[job.label])
            return
        started = now()
        began = time.monotonic()
        board.started(job.label)
        speed = self.rows[job.label].speed
        try:
            self._ready_worker().ask(
                train_for,
                PATIENCE * share,
                run=str(self._run_folder(job)),
                seconds=0.0 if self.tiny else TRAINING_SHARE * share,
                step_seconds=speed.step_s,
                full_steps=self._table(job).full_steps,
                **_case(job),
            )
            end = End("ok", None, time.monotonic() - began)
        except GantkError as error:
            end = self._failure(error, began)
        self._save_row(job, end, started, board, speed.dump())

    def _failure(self, error: GantkError, began: float) -> End:
        self._end_worker()  # what failed may have left the device in a bad state
        return End("failed", without_paths(str(error))[:500], time.monotonic() - began)

    def _table(self, job: Job) -> RecipeTable:
        return self.suite.recipe.get(job.recipe, RecipeTable())

    def _run_folder(self, job: Job) -> Path:
        """The empty run folder of a job."""
        run = (self.path / "runs" / job.folder).absolute()
        shutil.rmtree(run, ignore_errors=True)
        return run

    def _with_shares(self, timed: dict[str, Any], own: RecipeTable) -> dict[str, Any]:
        """The figures of bare steps for a row, with the shares of the device's peaks and the time of
        a training of the published length.
        """
        precision = timed["precision"]
        full = own.full_steps and own.full_steps * timed["median_s"]
        kept = ("flops", "tflops_per_s", "precision", "batch", "parameters", "spread")
        return {key: timed[key] for key in kept} | {
            "step_s": timed["median_s"],
            "bare_images_per_s": timed["images_per_s"],
            "of_conv": timed["tflops_per_s"] / self.peaks["conv"][precision],
            "of_matmul": timed["tflops_per_s"] / self.peaks["matmul"][precision],
            "full_steps": own.full_steps,
            "full_s": full,
            "peaks": self.peaks,
        }

    def _time_reference(self) -> None:
        """Add rows of the reference implementation's steps on the same device."""
        for case in REFERENCE_CASES:
            try:
                found = self._ready_worker().ask(
                    time_reference,
                    120.0,
                    folder=str(Path(str(self.reference)).absolute()),
                    case=case,
                    tiny=self.tiny,
                )
            except GantkError as error:
                self._say(f"reference {case}: {without_paths(str(error))}")
                continue
            step = f"{1e3 * found['median_s']:.2f} ms a step"
            self._say(f"reference {case}: {step}, {found['images_per_s']:.1f} images/s")
            label = f"reference {case}"
            self.rows[label] = Row(
                format=FORMAT,
                suite=self.suite.name,
                recipe=case,
                label=label,
                status="ok",
                speed=BenchSpeed(step_s=found["median_s"], images_per_s=found["images_per_s"]),
            )
        write_rows(self.file, self.all_rows())

    def _print_peaks(self) -> None:
        conv = ", ".join(f"{rate:.3g} ({name})" for name, rate in self.peaks["conv"].items())
        matmul = ", ".join(f"{rate:.3g} ({name})" for name, rate in self.peaks["matmul"].items())
        self._say(f"peaks    convolutions {conv}, matrix products {matmul} TFLOP/s")

    def _say(self, line: str) -> None:
        self.out.print(line, markup=False, highlight=False, soft_wrap=True)

    def _ready_worker(self) -> Worker:
        self.worker = self.worker or Worker(self.device)
        return self.worker

    def _end_worker(self) -> None:
        if self.worker is not None:
            self.worker.end()
            self.worker = None


def _expect_not_stopped(stopped: list[int]) -> None:
    """KeyboardInterrupt after a signal."""
    if stopped:
        raise KeyboardInterrupt


def _case(job: Job) -> dict[str, Any]:
    settings = [*job.settings, *(value.setting for value in job.values)]
    return {"recipe": job.source, "profile": job.profile, "settings": settings}
