"""The training loop: reads batches, runs steps, and writes logs, samples, scores and checkpoints."""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from gantk import terminal
from gantk.errors import (
    FailedOnOtherRank,
    Interrupted,
    UserError,
    argument,
    count_noun,
    machine_failure,
    note_in,
    one_line,
    warn_of,
)
from gantk.files import expect_inside, make_folder
from gantk.guest import Say, as_guest, each_as_guest, tell
from gantk.machine.launch import Launch, launch
from gantk.machine.runtime import Runtime, start
from gantk.machine.usage import peak_memory, since_start
from gantk.method import Batch, Losses, Method, Stage
from gantk.metrics.samples import Samples, alarms
from gantk.metrics.validation import Validation
from gantk.plugin.callbacks import Hooks
from gantk.progress import Work
from gantk.recipe.tables import CheckedRecipe
from gantk.runs import checkpoint
from gantk.runs.folder import RunFolder
from gantk.runs.results import Choice
from gantk.runs.schemas import LogLine, read
from gantk.terminal import stop_on_ctrl_c
from gantk.training.assemble import Parts, own_buffers, save_checkpoint
from gantk.training.engine import Engine
from gantk.training.live import TrainingWork
from gantk.training.memory import memory_advice, require_memory
from gantk.training.restart import advice

REPORT_SHARE = 0.03  # share of the wall time that rewriting report.html may take


@dataclass
class Surroundings:
    """Who hears of a training, and what its end closes."""

    hooks: Hooks
    listener: Say | None  # None: notes and warnings are warnings of Python
    shown: bool  # whether the progress is said
    ending: ExitStack
    notes: list[str] = field(default_factory=list)  # notes and warnings so far
    main: bool = True  # only the main rank prints
    process: Launch = field(default_factory=launch)  # which of how many this is

    def say(self, line: str) -> None:
        """Print a line, and keep it if it is a note or a warning."""
        if not self.main:
            return
        note = note_in(line)
        if note is not None:
            self.notes.append(note)
        (self.listener or warn_of)(line)

    def start(self, model: CheckedRecipe, device: str | None, folder: Path) -> Runtime:
        """Start the runtime, whose memory must be enough; errors of it will say how to continue the
        run in `folder`, or what needs less memory.
        """
        train = model.train
        runtime = start(device, train.precision, train.fast.channels_last, self.process)
        runtime.sync_errors(lambda: require_memory(model, runtime))
        self.main = runtime.main
        self.watch(runtime, folder)
        self.ending.enter_context(memory_advice(model, runtime))
        return runtime

    def watch(self, runtime: Runtime, folder: Path) -> None:
        """Let the loss of a rank say how to continue the run in `folder`."""
        watching = runtime.watch_connection(lambda: advice(folder, runtime.world))
        self.ending.enter_context(watching)


@dataclass(frozen=True)
class Step:
    """A finished step of a training.

    Attributes:
        number: how many steps are finished.
        stage: the name of the stage, as in the log.
        losses: scalar tensors on the device, by "PHASE/NAME". `float()` of one waits for the device.
        batch: the images (N, C, *size) in network intensities: "a" and "b", the first and second
            domain of the recipe, or "image"; and the fakes that the step added.
    """

    number: int
    stage: str
    losses: Mapping[str, Tensor]
    batch: Batch


class Training:
    """A training of a recipe, from `gantk.training`: iterate over it to run the remaining steps.

    Between the steps it writes the run folder: logs, samples, scores, checkpoints. A loop that was
    left with `break` can be entered again. Use it in a `with` statement, which ends the training:
    it unlocks the run folder and calls the hooks `gantk_training_ended`.
    """

    def __init__(self, parts: Parts, run: RunFolder, seconds: float, around: Surroundings):
        self.parts = parts
        self.run = run  # which only rank 0 writes to
        self.hooks = around.hooks
        self.notes = around.notes  # notes and warnings about the recipe and its data
        self._around = around
        self._stops: list[int] = []  # not empty: the training is to stop after this step
        self.was_stopped = False  # before its last step; it can be continued
        self.engine = parts.engine
        self.runtime = parts.runtime
        self.table = parts.model.train
        self.validation = Validation(parts.scorer)
        self.sample_batch = self.validation.sample_batch()
        self.choice = Choice(
            step=None,
            rule=self.validation.rule,
            higher_is_better=bool(self.validation.pairs),
            table=[],
        )
        self._validated = -1  # the step whose scores are `_scores`
        self._scores: dict[str, dict[str, float]] = {}
        self.used = run.usage()
        # Training time, before a resume too, without validation and saving.
        self.seconds = seconds
        if self.engine.step and self.used.step == self.engine.step:
            self.seconds = self.used.seconds or seconds
        self._interval_seconds = 0.0
        self._logged_step = self.engine.step
        self._notes_logged = 0  # how many of the engine's notes are logged
        # time of the last report.html; seconds it took
        self._reported = time.perf_counter()
        self._report_cost = 0.0
        self._view = self._new_view()
        self._ending = around.ending.pop_all()

    def __enter__(self) -> Training:
        return self

    @as_guest
    def __exit__(self, *error: Any) -> bool | None:
        return self._ending.__exit__(*error)

    def __iter__(self) -> Iterator[Step]:
        """Run the remaining steps, and write what is due after each."""
        return each_as_guest(self._steps(), self._around.say)

    def _steps(self) -> Generator[Step, None, None]:
        if self.runtime.main:
            self._choose_among_earlier_saves()

        self._view = view = self._new_view()
        if self.was_stopped:
            self._stops.clear()
            self.was_stopped = False
        with view, closing(self.parts.batches), ExitStack() as ending:
            for images in self.parts.batches.sets.values():
                ending.callback(images.free_memory)  # the scores that follow need room for others
            self._begin()
            self._clock_start = time.perf_counter()
            for stage, batch, losses in self.engine.fit(self._read):
                view.advance(self.engine.step)
                self._write_due(stage, batch, losses)
                yield Step(self.engine.step, stage.name, losses, batch)
                if self._stopping(bool(self._stops or view.write_error)):
                    self.was_stopped = True
                    if not self._regular(self.engine.step):
                        with self._clock_stopped():
                            self._save()
                    return

    def _write_due(self, stage: Stage, batch: Batch, losses: Losses) -> None:
        """Write the log, samples and checkpoint that are due after this step, and the report."""
        step = self.engine.step
        log = self._is_due(step, self.table.log_every)
        samples = self._is_due(step, self.table.sample_every)
        save = self._regular(step)
        if not (log or samples or save) and self.used.first_step_s is not None:
            return
        with self._clock_stopped():
            self.used.first_step_s = self.used.first_step_s or since_start()
            if log:
                self._log(stage, batch, losses)
            if samples:
                self._samples()
            if save:
                self._save()
            if self.runtime.main:
                self._renew_report()

    def _read(self, step: int, stage: Stage) -> Batch:
        """The step's batch; where it cannot be had, the steps before it are saved, and a line says so."""
        try:
            return self.parts.batch_at(step, stage)
        except Exception:
            if step and self.runtime.world == 1:
                self.was_stopped = True
                self.save()
                self._view.write(
                    f"note     {count_noun(step, 'step')} before it saved: continue with gantk resume"
                    f" {argument(self.run.path)}, or with gantk.training(RUN, data=LOADER)"
                )
            raise

    def _new_view(self) -> TrainingWork:
        around = self._around
        # on the terminal the progress is a bar
        on_terminal = around.listener in (tell, terminal.say)
        shown = around.shown and around.main
        domains = self.parts.model.data.domains
        return TrainingWork(self.engine.steps, around.say, shown, on_terminal, domains)

    def stop(self) -> None:
        """Let the loop end after this step, with a checkpoint."""
        self._stops.append(0)

    @as_guest
    def save(self) -> Path:
        """Write a checkpoint, and return its folder; `gantk.load` opens it."""
        if self.engine.step not in self.run.steps:
            self._save()
        return self.run.latest()

    @as_guest
    def fit(self) -> None:
        """Run the remaining steps. Ctrl-C finishes the step, saves, and raises Interrupted."""
        with stop_on_ctrl_c() as self._stops:
            for _ in self:
                pass
        if self.was_stopped:
            self._interrupt()

    def _choose_among_earlier_saves(self) -> None:
        """Find the best save in best.json, which has scores of training images too, and in the log: a
        kill during a save may have lost the newest of best.json.
        """
        with suppress(UserError):  # damaged: it is written again
            kept = read(self.run.path, "best.json", Choice) or Choice()
            for row in kept.table:
                if row.step <= self.engine.step and self._regular(row.step):
                    self.choice.add(row.step, row.score)
        log = self.run.read_log()
        self._known = {line.note for line in log}
        for line in log:
            if line.validation and line.step and self._regular(line.step):
                score = self.validation.checkpoint_score(line.validation)
                self.choice.add(line.step, score)
        self._keep_best()

    def _begin(self) -> None:
        """Show and save what there is before the first step of this process."""
        self._view.advance(self.engine.step)
        if self.engine.step == 0:
            self._samples()
        if self.engine.steps == 0:  # untrained weights are saved too, to compare with
            self._save()

    def _interrupt(self) -> NoReturn:
        """End a training that was saved before its last step: raises Interrupted, or the error of
        writing lines.
        """
        self.runtime.wait()
        if not self.runtime.main:
            raise FailedOnOtherRank(0, Interrupted.exit_code)

        closed = errno.EPIPE, errno.EIO  # a pipe, a terminal
        # such as a full disk
        write_error = self._view.write_error
        if write_error and not self._stops and write_error.errno not in closed:
            raise write_error

        what = (
            f"stopped after step {self.engine.step} of {self.engine.steps}; a checkpoint was saved."
        )
        raise Interrupted(f"{what} To continue, run: gantk resume {argument(self.run.path)}")

    def _stopping(self, stopped: bool) -> bool:
        """Whether to stop after this step. Ranks agree on it at log points only, since that
        synchronises them.
        """
        if self.runtime.world == 1:
            return stopped
        is_log_point = self.engine.step % self.table.log_every == 0
        return is_log_point and any(self.runtime.gather(stopped))

    def _log(self, stage: Stage, batch: Batch, losses: Losses) -> None:
        self._check_finite()
        step = self.engine.step
        elapsed = self._interval_seconds
        images = (step - self._logged_step) * self.table.batch * self.runtime.world
        speed = images / max(elapsed, 1e-9)
        self._interval_seconds = 0.0
        self._logged_step = step
        self.seconds += elapsed
        if not self.runtime.main:
            return

        # one synchronisation
        values = torch.stack(list(losses.values())).tolist() if losses else []
        optimizer = next(iter(self.engine.optimizers.values()))
        named_losses = {name: round(value, 6) for name, value in zip(losses, values, strict=True)}
        line = LogLine(
            step=step,
            epoch=step // self.parts.batches.steps_per_epoch,
            stage=stage.name,
            seconds=round(self.seconds, 3),
            images_per_s=round(speed, 2),
            lr=float(optimizer.param_groups[0]["lr"]),
            losses=named_losses,
        )
        self.run.add_to_log(line)
        for note in self.engine.notes[self._notes_logged :]:
            if note not in self._known:  # logged before a resume
                self.run.add_to_log(LogLine(step=step, note=note))
            self._view.write(note)

        self._notes_logged = len(self.engine.notes)
        self._view.add_speed(speed)
        self.hooks.gantk_step_logged(
            run=self.run.path, stage=stage.name, step=step, logs=line.dump(), batch=batch
        )

    def _samples(self) -> None:
        """Write pictures of held-out images; log alarms, and scores if the truth is known."""
        if self.runtime.main:
            self._write_and_judge_samples(self.engine.step)
        self.runtime.wait()  # else the other ranks' next reduction may time out

    def _write_and_judge_samples(self, step: int) -> None:
        with Work("writing samples"):
            with inference_weights(self.parts.method, self.engine):
                samples = self.validation.samples(self.sample_batch)
            self._write_samples(step, samples)

        # of sample images and their reconstructions; None where it is not finite
        errors: dict[str, float | None] = {}
        for direction, images in samples.reconstructions.items():
            error = float((images - self.sample_batch.inputs[direction]).abs().mean())
            errors[direction] = round(error, 6) if math.isfinite(error) else None
        if errors:
            self.run.add_to_log(LogLine(step=step, cycle=errors))
        self._validate()
        domains = self.parts.model.data.domains
        for name, message in alarms(samples.outputs, self.sample_batch, domains) if step else []:
            self.run.add_to_log(LogLine(step=step, alarm=name, message=message))
            self._view.write(f"alarm: {message}")

    def _write_samples(self, step: int, samples: Samples) -> None:
        folder = self.run.path / "samples"
        earlier = {int(path.name[5:]) for path in folder.glob("step-*")}
        batch = self.sample_batch
        groups = {f"step-{step:06d}/cycle": samples.reconstructions}
        if not earlier:
            groups |= {"input": batch.inputs, "truth": batch.truths, "real": batch.reals}
        groups[f"step-{step:06d}"] = samples.outputs
        low, high = self.parts.data.range
        for group, pictures in groups.items():
            for direction, images in pictures.items():
                for number, image in enumerate(images.float().cpu().numpy()):
                    self.run.write_picture(group, f"{direction}-{number}", image, low, high)

        make_folder(expect_inside(self.run.path, folder))
        steps = sorted({each for each in earlier if each < step} | {step})
        index = batch.index(self.parts.data, steps)
        self.run.write_json("samples/index.json", index.model_dump(by_alias=True))

    def _save(self) -> None:
        self._check_finite()
        buffers = None
        if self.runtime.world > 1:
            buffers = self.runtime.collect(own_buffers(self.parts.method))

        if self.runtime.main:
            step = self.engine.step
            if self._regular(step):  # a save at an interruption is not scored
                self.choice.add(step, self.validation.checkpoint_score(self._validate()))
            with Work("saving a checkpoint"):
                save_checkpoint(self.run, self.parts, buffers)
            used = self.used
            used.step = step
            used.seconds = self.seconds + self._interval_seconds
            peak = peak_memory(self.runtime.device)
            used.peak_memory_gib = max(used.peak_memory_gib or 0.0, peak)
            self.run.write_json("usage.json", used.dump())
            self._keep_best()

        self.runtime.wait()

    def _validate(self) -> dict[str, dict[str, float]]:
        """The scores at this step, which are computed, shown and logged once."""
        step = self.engine.step
        if self._validated != step:
            with Work("scoring"), inference_weights(self.parts.method, self.engine):
                self._scores = self.validation.validate()
            self._validated = step
            if self._scores:
                line = LogLine.model_validate({"step": step, "validation": self._scores})
                self.run.add_to_log(line)
                self._view.add_validation(self._scores)
        return self._scores

    def _is_due(self, step: int, every: int) -> bool:
        """Whether something is due after a step: at every n-th, and at the last."""
        return step % every == 0 or step == self.engine.steps

    def _regular(self, step: int) -> bool:
        """Whether a training without interruptions saves at this step."""
        return self._is_due(step, self.table.save_every)

    def _renew_report(self) -> None:
        """Rewrite report.html, which reloads itself, unless that would take more than
        `REPORT_SHARE` of the time.
        """
        if (since := time.perf_counter() - self._reported) < self._report_cost / REPORT_SHARE:
            return

        from gantk.report.build import write_report  # not before the first step

        began = time.perf_counter()
        try:
            with Work("updating report.html"):
                write_report(self.run.path, renewed_after=since)
        except Exception as error:  # an error in the report must not end a training
            reason = machine_failure(error) or one_line(error)
            self._view.write(f"warning  report.html could not be updated: {reason}")

        self._reported = time.perf_counter()
        self._report_cost = self._reported - began

    def _check_finite(self) -> None:
        steps = self.run.steps
        saved = "There is no checkpoint yet."
        if steps:
            saved = f"The last good checkpoint is step {steps[-1]}."
        self.runtime.sync_errors(lambda: self.engine.check_finite(saved))

    def _keep_best(self) -> None:
        """Write best.json; only then drop earlier saves, so that a kill in between leaves the best
        one.
        """
        self.run.write_json("best.json", self.choice.dump())
        best = set() if self.choice.step is None else {self.choice.step}
        checkpoint.prune(self.run.checkpoints, self.table.keep, best, self._regular)

    @contextmanager
    def _clock_stopped(self):
        """Context manager: leaves its body (pictures, scores, files) out of the training time."""
        self.runtime.synchronize()
        self._interval_seconds += time.perf_counter() - self._clock_start
        yield
        self._clock_start = time.perf_counter()


@contextmanager
def inference_weights(method: Method, engine: Engine):
    """Context manager: averaged weights, evaluation mode, no gradients; restores training mode and
    random state.
    """
    state = torch.get_rng_state()
    average = engine.ema.averaged_weights() if engine.ema else nullcontext()
    with torch.no_grad(), average:
        method.eval()
        yield

    method.train()
    torch.set_rng_state(state)
