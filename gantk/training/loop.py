"""One training from recipe to report: what happens around the engine's steps, and in what order."""

from __future__ import annotations

import time
from collections.abc import Collection
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gantk.data.augment import augmented, hide_contrasts
from gantk.data.batches import Batches, Feed
from gantk.data.dataset import Data
from gantk.errors import Elsewhere, Interrupted, UserError
from gantk.machine.allocator import use_allocator
from gantk.machine.device import slow_bf16
from gantk.machine.identity import identity_of
from gantk.machine.runtime import Runtime
from gantk.machine.usage import Used, energy, since_start
from gantk.method import Batch, Method, Stage
from gantk.metrics.checkpoint_choice import Choice, judge_for
from gantk.metrics.evaluate import Scorer, alarms
from gantk.plugin.loader import load
from gantk.recipe.tables import Model, TrainTable
from gantk.runs import checkpoint, trained
from gantk.runs.folder import RunFolder
from gantk.training.accelerate.recompute import recompute
from gantk.training.engine import Engine, Plan, check_plan
from gantk.training.live import LiveView
from gantk.training.stopping import stop_on_ctrl_c
from gantk.training.trial import StepProfile


@dataclass
class Parts:
    """What a recipe turns into before the first step: nothing has been written yet."""

    model: Model
    runtime: Runtime
    data: Data
    method: Method
    batches: Batches
    engine: Engine
    scorer: Scorer


def build_method(
    model: Model, channels: dict[str, int], classes: tuple[str, ...], range: tuple[float, float], runtime: Runtime
) -> Method:
    """`gantk.runs.trained.build_method`, ready to be trained."""
    method = trained.build_method(model, channels, classes, range, runtime)
    return recompute(method) if model.train.recompute else method


def assemble(model: Model, runtime: Runtime) -> Parts:
    """Data, method, batches and engine of a recipe; every mistake that can be found before training is found here."""
    data, method, batches, plan, scorer = runtime.sync_errors(lambda: _prepared(model, runtime))
    if runtime.world > 1:
        runtime.agree(identity_of(model, data))
    runtime.broadcast(method)
    engine = runtime.sync_errors(lambda: Engine(method, plan, runtime))
    if note := slow_bf16(runtime.device, runtime.precision):
        engine.notes.append(note)
    if model.train.fast.compile:
        from gantk.training.accelerate.compile import compile_phases  # torch's compiler takes a second to import

        engine.phases = compile_phases(method, engine.phases, engine.notes)
    return Parts(model, runtime, data, method, batches, engine, scorer)


def _prepared(model: Model, runtime: Runtime) -> tuple[Data, Method, Batches, Plan, Scorer]:
    train = model.train
    use_allocator(train.fast.keep_memory, runtime.device.type)
    if runtime.device.type == "cuda":
        torch.backends.cudnn.benchmark = train.fast.benchmark
    data = Data.load(model.data, model.method.target)
    method = build_method(model, data.channels, data.classes, data.range, runtime)
    sets = data.training_sets()
    ranks = runtime.rank, runtime.world
    batches = Batches(sets, train.batch, train.seed, data.paired, *ranks, workers=model.data.workers)
    steps = train.steps if train.steps is not None else round(train.epochs * batches.steps_per_epoch)
    batches.end = steps
    plan = plan_of(train, steps)
    check_plan(method, plan)
    if method.weighs_lesions and not model.data.mask:
        what = "the method weighs the pixels of lesions, and the recipe asks for no masks of them"
        raise UserError(what, where="method.lesion", remedy="Set data.mask = true, or method.lesion = 1.0")
    return data, method, batches, plan, Scorer(model, data, method, runtime)


def plan_of(train: TrainTable, steps: int) -> Plan:
    """What the engine needs of a recipe's [train] table."""
    return Plan(
        steps,
        train.optimizer,
        train.optimizers,
        train.schedule(),
        train.microbatch,
        train.ema,
        train.seed,
        fused=train.fast.fused,
        capture=train.fast.cuda_graph,
    )


class Training:
    """Runs the steps that are left and keeps the run folder: logs, samples, validation, checkpoints."""

    def __init__(
        self, parts: Parts, run: RunFolder | None, seconds: float = 0.0, profile: StepProfile | None = None
    ):
        self.parts, self.run, self.profile = parts, run, profile
        self.engine, self.runtime, self.table = parts.engine, parts.runtime, parts.model.train
        data = parts.model.data
        self.feed = Feed(parts.batches, parts.runtime, data.dims, self.table.fast.pin)
        self.augments = [augment(data.dims) for augment in data.augment]
        self.scorer = parts.scorer
        self.held = self.scorer.held_out_samples()
        self.judge = judge_for(parts.model, parts.data, parts.method, parts.runtime)
        self.choice = Choice(self.judge.rule, self.judge.higher)
        self.used = Used(run.usage() if run else {}, self.runtime.device)
        # Of training, earlier sittings included; validation and saving apart.
        self.seconds = self.used.seconds_at(self.engine.step, seconds)
        self._interval, self._logged, self._mark = 0.0, self.engine.step, time.perf_counter()
        self._noted = 0  # of the engine's notes, how many were passed on

    def fit(self) -> None:
        """Train to the end. Ctrl-C finishes the step, saves, and raises Interrupted."""
        last = self.engine.plan.steps
        self._take_up()
        shown = LiveView(last, shown=self.runtime.main)
        with stop_on_ctrl_c() as stopped, shown as view, closing(self.feed), ExitStack() as traced:
            if self.engine.step == 0:
                self._samples(view)
            if last == 0:  # untrained weights are a result too: a run to compare with
                self._save()
            if self.profile:
                traced.enter_context(self.profile.profiler)
            self._mark = time.perf_counter()
            for stage, batch, losses in self.engine.fit(self.batch_at):
                step = self.engine.step
                if self.used.first_step is None:
                    with self._clock_stopped():
                        self.used.first_step = since_start()
                ending, stopping = step == last, self._stopping(stopped, step)
                due = [step % every == 0 or ending for every in (self.table.log_every, self.table.sample_every)]
                saving = step % self.table.save_every == 0 or ending or stopping
                if any(due) or saving:
                    with self._clock_stopped():
                        if due[0]:
                            self._log(view, stage, batch, losses)
                        if due[1]:
                            self._samples(view)
                        if saving:
                            self._save()
                if self.profile is not None:
                    with self._clock_stopped():
                        view.print(*self.profile.step())
                if stopping:
                    self.runtime.wait()
                    if not self.runtime.main:
                        raise Elsewhere(0, Interrupted.exit_code)
                    raise Interrupted(f"stopped after step {step} of {last}; everything is saved. Go on with: "
                                      f"gantk resume {self.run.path}")  # fmt: skip

    def _stopping(self, stopped: list[int], step: int) -> bool:
        """Whether to stop after this step. Ranks agree on it at log points: at every step it would cost them a wait."""
        if self.runtime.world == 1:
            return bool(stopped)
        return step % self.table.log_every == 0 and self.runtime.any(bool(stopped))

    def batch_at(self, step: int, stage: Stage) -> Batch:
        batch = resized(self.feed.at(step), stage.size)
        batch = augmented(batch, self.augments, self.parts.data.paired)
        return hide_contrasts(batch, self.parts.data) if self.parts.model.data.missing == "mask" else batch

    def _log(self, view: LiveView, stage: Stage, batch: Batch, losses: dict[str, Tensor]) -> None:
        self._check_finite()
        elapsed, steps = self._interval, self.engine.step - self._logged
        self._interval, self._logged = 0.0, self.engine.step
        self.seconds += elapsed
        energy(self.runtime.device)  # so that no turn of its counter is missed
        if not self.runtime.main:
            return
        speed = steps * self.table.batch * self.runtime.world / max(elapsed, 1e-9)
        line = {
            "step": self.engine.step,
            "epoch": self.engine.step // self.parts.batches.steps_per_epoch,
            "stage": stage.name,
            "seconds": round(self.seconds, 3),
            "images_per_s": round(speed, 2),
            "lr": float(next(iter(self.engine.optimizers.values())).param_groups[0]["lr"]),
            "losses": dict(zip(losses, rounded(losses), strict=True)),
        }
        self.run.log(line)
        for note in self.engine.notes[self._noted :]:
            self.run.log({"step": self.engine.step, "note": note})
            view.update(self.engine.step, message=note)
        self._noted = len(self.engine.notes)
        view.update(line["step"], images_per_s=speed, losses=line["losses"])
        load().hook.gantk_step(run=self.run.path, stage=stage.name, step=line["step"], logs=line, batch=batch)

    def _samples(self, view: LiveView) -> None:
        """Pictures of held-out images, and their scores where the truth is known."""
        if self.runtime.main:
            step = self.engine.step
            with inference_weights(self.parts.method, self.engine):
                outputs = self.scorer.outputs(self.held)
                scores = self.scorer.validate()
            self._write_samples(step, outputs)
            if scores:
                self.run.log({"step": step, "validation": scores})
                view.update(step, validation=scores)
            for name, message in alarms(outputs, self.held) if step else []:
                self.run.log({"step": step, "alarm": name, "message": message})
                view.update(step, message=f"alarm: {message}")
        self.runtime.wait()  # the others' next gradients would not wait as long as this may take

    def _write_samples(self, step: int, outputs: dict[str, Tensor]) -> None:
        low, high = self.parts.data.range
        index_path = self.run.path / "samples" / "index.json"
        index = self.held.index(self.parts.data) | {"steps": sorted({*self._sampled(), step})}
        for direction, images in outputs.items():
            for k, image in enumerate(images.float().cpu().numpy()):
                self.run.write_picture(f"step-{step:06d}", f"{direction}-{k}", image, low, high)
            if step == 0 or not (self.run.path / "samples" / "input" / f"{direction}-0.png").exists():
                for group, known in (("input", self.held.inputs), ("truth", self.held.truths)):
                    for k, image in enumerate(known.get(direction, [])):
                        self.run.write_picture(group, f"{direction}-{k}", np.asarray(image), low, high)
        index_path.parent.mkdir(parents=True, exist_ok=True)
        self.run.write_json("samples/index.json", index)

    def _sampled(self) -> list[int]:
        folders = (self.run.path / "samples").glob("step-*")
        return [step for folder in folders if (step := int(folder.name[5:])) <= self.engine.step]

    def _take_up(self) -> None:
        """What earlier sittings chose: a process that was killed in a save may not have written it down."""
        if self.runtime.main:
            self.choice.take(self.run.read_log(), self.engine.step)
            if self.choice.best is not None:
                self._keep_best()

    def _save(self) -> None:
        self._check_finite()
        own = self.runtime.collect(own_buffers(self.parts.method)) if self.runtime.world > 1 else None
        if self.runtime.main:
            step, before = self.engine.step, self.choice.best
            judged = self._judged()
            self.choice.add(step, judged)
            self.run.log({"step": step, "selection": judged})
            # The former best goes only once best.json names the new one: a kill in between leaves both.
            save_checkpoint(self.run, self.parts, {before, self.choice.best} - {None}, own)
            self.run.write_json("usage.json", self.used.state(step, self.seconds + self._interval))
            self._keep_best()
        self.runtime.wait()

    def _check_finite(self) -> None:
        self.runtime.sync_errors(lambda: self.engine.check_finite(self._last_saved()))

    def _judged(self) -> dict[str, Any]:
        with inference_weights(self.parts.method, self.engine):
            try:
                return self.judge()
            except UserError as error:  # too few images for a distance: no reason to lose a training
                return {"score": None, "barred": str(error)}

    def _keep_best(self) -> None:
        self.run.write_json("best.json", self.choice.state())
        checkpoint.prune(self.run.checkpoints, self.table.keep, {self.choice.best})

    def _last_saved(self) -> str:
        steps = checkpoint.steps_saved(self.run.checkpoints)
        return f"The last good checkpoint is step {steps[-1]}." if steps else "No checkpoint had been saved yet."

    @contextmanager
    def _clock_stopped(self):
        """The clock runs while steps are taken, not while pictures are drawn, scores computed or files written."""
        self.runtime.synchronize()
        self._interval += time.perf_counter() - self._mark
        yield
        self._mark = time.perf_counter()


def rounded(losses: dict[str, Tensor]) -> list[float]:
    """The losses' values, in one wait for the device."""
    return [round(value, 6) for value in torch.stack(list(losses.values())).tolist()] if losses else []


def resized(batch: Batch, size: tuple[int, ...]) -> Batch:
    """Images and masks of a batch at a stage's size, averaged where they shrink; labels as they are."""
    return Batch(
        {
            name: tensor
            if tensor.ndim < 3 or tuple(tensor.shape[2:]) == tuple(size)
            else torch.nn.functional.interpolate(tensor, size, mode="area")
            for name, tensor in batch.items()
        }
    )


def save_checkpoint(
    run: RunFolder, parts: Parts, also: Collection[int] = (), own: list[dict[str, Tensor]] | None = None
) -> Path:
    """Weights (live and averaged), engine state, and what inference needs: intensities, channels, method.

    `own` are the buffers of each rank, see `own_buffers`.
    """
    engine = parts.engine
    weights = {f"model.{name}": tensor for name, tensor in parts.method.state_dict().items()}
    if engine.ema:
        weights |= {f"ema.{name}": tensor for name, tensor in engine.ema.state_dict().items()}
    meta = {
        "method": parts.model.method.name,
        "steps": engine.plan.steps,
        "domains": list(parts.model.data.domains),
        "channels": parts.data.channels,
        "classes": list(parts.data.classes),
        "intensity": parts.data.intensity_state(),
    }
    keep, state = parts.model.train.keep, engine.state_dict()
    if own and own[0]:
        state["ranks"] = own[1:]  # the first rank's are among the weights
    return checkpoint.save(run.checkpoints, engine.step, weights, state, meta, keep, also)


def own_buffers(method: Method) -> dict[str, Tensor]:
    """What each rank remembers for itself, on the host: image pools, statistics of norms."""
    shared = {name for name, _ in method.named_parameters()}
    return {name: tensor.cpu() for name, tensor in method.state_dict().items() if name not in shared}


def restore(parts: Parts, folder: Path) -> None:
    """Put a checkpoint's weights and engine state back, to the bit."""
    meta, weights = checkpoint.load_meta_of(parts.model.method.name, folder), checkpoint.load_weights(folder)
    live, average = trained.split_weights(weights)
    state, rank = checkpoint.load_state(folder), parts.runtime.rank
    own = state.get("ranks", [])
    if rank > 0 and len(own) == parts.runtime.world - 1:
        live |= own[rank - 1]
    checkpoint.load_into(parts.method, live, str(folder))
    parts.engine.load_state_dict(state, average)
    parts.data.restore_intensity(meta["intensity"])
    for name, images in parts.batches.sets.items():
        images.intensity = parts.data.intensity[name]


@contextmanager
def inference_weights(method: Method, engine: Engine):
    """Averaged weights, evaluation mode, no gradients; the random state is as before afterwards."""
    state = torch.get_rng_state()
    average = engine.ema.applied() if engine.ema else nullcontext()
    with torch.no_grad(), average:
        method.eval()
        yield
    method.train()
    torch.set_rng_state(state)
