"""The training step of a recipe on a batch that stays on the device, eager and captured: rows of part "step"."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from gantk.data.records import contrast_names, domain_letters
from gantk.engine import Engine, Plan
from gantk.method import Batch, Method
from gantk.recipe import load_recipe
from gantk.runtime import Runtime, start
from gantk.tables import Model
from gantk.training import build_method
from gpu import captured, timing
from gpu.flops import counted
from gpu.rows import DIFFERS, FAILED, MEMORY, REFUSED, first_line, row

STEPS = 100_000  # of the training that the step is one of: schedules stand at their beginning
WARM_UP = 3
EFFORT = {"seconds": 0.6, "least": 3, "most": 40}  # samples of one row
TINY = {"seconds": 0.0, "least": 2, "most": 2}
TOLERANCE = 0.05  # of a replay's losses from the eager ones, relative: beyond it something was left out
RANGE = (-1.0, 1.0)  # network intensities of black and white
MODES = ("eager", "captured")


@dataclass
class Subject:
    """One recipe's engine with the batch that it steps over."""

    model: Model
    engine: Engine
    batch: Batch
    device: torch.device

    @classmethod
    def build(cls, recipe: str | dict, settings: list[str], batch: int, precision: str, device: str) -> Subject:
        """The recipe's method and engine as a training makes them, with images drawn from a seed."""
        model = load_recipe(recipe).override([*settings, f'train.precision="{precision}"']).check()
        runtime = start(device, precision, model.train.channels_last)
        letters, data = domain_letters(model.data.domains), model.data
        channels = {
            letter: len(contrast_names(name)) * (2 * data.neighbours + 1)
            for letter, name in zip(letters, data.domains, strict=True)
        }
        classes = ("one", "other") if data.labels else ()
        method = built(model, channels, classes, runtime)
        train = model.train
        plan = Plan(STEPS, train.optimizer, train.optimizers, train.schedule(), train.microbatch, train.ema, train.seed)
        stage = method.stages(STEPS)[-1]  # the whole size, nothing faded in
        images = random_batch(method, model, channels, batch, stage.size)
        placed = Batch({name: runtime.place(tensor, data.dims) for name, tensor in images.items()})
        method.begin(stage, placed)
        return cls(model, Engine(method, plan, runtime), placed, runtime.device)

    def step(self) -> dict[str, torch.Tensor]:
        """One eager step."""
        return captured.eager(self.engine, self.batch)

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.engine.method.parameters())


def built(model: Model, channels: dict[str, int], classes: tuple[str, ...], runtime: Runtime) -> Method:
    """The method as a training builds it, its first weights drawn on the device where that can be: seconds less."""
    if runtime.device.type == "cuda":
        with contextlib.suppress(Exception), runtime.device:
            return build_method(model, channels, classes, RANGE, runtime)
    return build_method(model, channels, classes, RANGE, runtime)


def random_batch(method: Method, model: Model, channels: dict[str, int], count: int, size: tuple[int, ...]) -> Batch:
    """Uniform noise in [-1, 1] of every domain that the method reads; labels and masks where the recipe has them."""
    generator = torch.Generator().manual_seed(0)
    batch = Batch()
    for name in method.reads:
        batch[name] = torch.rand(count, channels[name], *size, generator=generator) * 2 - 1
        if model.data.mask:
            batch[f"mask_{name}"] = (torch.rand(count, 1, *size, generator=generator) < 0.1).float()
    if model.data.labels:
        batch["label"] = torch.arange(count) % 2
    return batch


def measure(task: dict[str, Any], device: str, modes: tuple[str, ...] = MODES) -> Iterator[dict[str, Any]]:
    """A row for each mode. What goes wrong is a row too; nothing is raised.

    `task["captured"]`: why not even to try a capture, for instance since it was refused before; None: try.
    """
    about = {key: task[key] for key in ("case", "recipe", "settings", "dims", "size", "batch", "precision")}
    effort = TINY if task.get("tiny") else EFFORT
    with memory_watched(device):
        subject, why = attempt(
            lambda: Subject.build(task["recipe"], task["settings"], task["batch"], task["precision"], device)
        )
        if subject is None:
            yield from (row("step", *why, **about, mode=mode) for mode in modes)
            return
        about |= {"method": subject.model.method.name, "parameters": subject.parameters}
        counts: dict[str, Any] = {}
        for mode in modes:
            if mode == "captured" and task.get("captured"):
                yield row("step", REFUSED, task["captured"], **about, mode=mode)
                continue
            values = eager_row(subject, about, counts, effort) if mode == "eager" else None
            yield values or captured_row(subject, about, counts, effort, compare=task.get("compare", True))
            if values and values["status"] == MEMORY:
                yield from (row("step", MEMORY, "the eager step did not fit", **about, mode=m) for m in modes[1:])
                return


def eager_row(subject: Subject, about: dict[str, Any], counts: dict[str, Any], effort: dict[str, Any]) -> dict:
    """The step from Python. What it computes is put into `counts`, for the other rows of the same step."""

    def work() -> dict[str, Any]:
        first = timing.once(subject.step, subject.device)
        for _ in range(WARM_UP - 1):
            subject.step()
        found = timing.samples(subject.step, subject.device, **effort)
        subject.engine.check_finite("")  # numbers that are not finite may be quicker than others
        peak = peak_memory(subject.device)
        counted_now, _ = attempt(lambda: counted(subject.step))
        counts.update(zip(("flops", "operators"), counted_now or (None, None), strict=True))
        return rates(subject, found, counts) | {"first_step_s": first, "peak_memory_gib": peak}

    found, why = attempt(work)
    return row("step", *(why or ("ok", None)), **about, mode="eager", **(found or {}))


def captured_row(
    subject: Subject, about: dict[str, Any], counts: dict[str, Any], effort: dict[str, Any], compare: bool = False
) -> dict:
    """The same step replayed, or what stands in the way."""

    def work() -> dict[str, Any]:
        step = captured.capture(subject.engine, subject.batch, compare=compare)
        found = timing.samples(step.step, subject.device, **effort)
        peak = peak_memory(subject.device)
        return rates(subject, found, counts) | {"loss_difference": step.difference, "peak_memory_gib": peak}

    found, why = attempt(work, REFUSED)
    apart = (found or {}).get("loss_difference")
    if apart is not None and apart > TOLERANCE:
        why = DIFFERS, f"the losses of replays are off by {apart:.1%}: the recorded step leaves something out"
    return row("step", *(why or ("ok", None)), **about, mode="captured", **(found or {}))


def rates(subject: Subject, found: list[float], counts: dict[str, Any]) -> dict[str, Any]:
    """What follows from the samples: images and operations a second."""
    values = timing.summary(found) | counts
    median, flops = values["median_s"], counts.get("flops")
    count = len(next(iter(subject.batch.values())))
    return values | {"images_per_s": count / median, "tflops_per_s": flops / median / 1e12 if flops else None}


def peak_memory(device: torch.device) -> float | None:
    """GiB that tensors held at most since the peak was last reset; None where the device does not count."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None


def is_memory(error: BaseException) -> bool:
    """Whether the device's memory was too small, whoever says so."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text


@contextlib.contextmanager
def memory_watched(device: str):
    """Count the peak of memory from nothing, and leave nothing behind."""
    cuda = torch.device(device).type == "cuda"
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    yield
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()


def attempt(work: Callable[[], Any], otherwise: str = FAILED) -> tuple[Any, tuple[str, str] | None]:
    """(result, None), or (None, (status, reason)) where it raised; the frames of the error are let go."""
    try:
        return work(), None
    except Exception as error:  # one cell's failure, of whatever kind, is a row and never the end
        return None, (MEMORY if is_memory(error) else otherwise, first_line(error))
