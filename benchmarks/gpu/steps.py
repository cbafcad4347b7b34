"""The training step of a recipe on a batch that stays on the device: rows of part "step"."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gantk.machine.runtime import Runtime, start
from gantk.method import Batch, Method
from gantk.recipe.load import load_recipe
from gantk.recipe.tables import Model
from gantk.training.accelerate import accelerate
from gantk.training.accelerate.cuda_graph import WARM_UP, Graph
from gantk.training.assemble import plan_of
from gantk.training.engine import Engine
from gpu import noise, timing
from gpu.cases import MODES
from gpu.flops import counted
from gpu.rows import FAILED, MEMORY, first_line, row
from gpu.waits import host_waits, how_many

STEPS = 100_000  # of the training that the step is one of: schedules stand at their beginning
EFFORT = {"seconds": 0.6, "least": 3, "most": 40}  # samples of one row
TINY = {"seconds": 0.0, "least": 2, "most": 2}
NO_GRAPHS = "not captured: graphs need a CUDA device"


@dataclass
class Subject:
    """One recipe's engine with the batch that it steps over."""

    model: Model
    engine: Engine
    batch: Batch
    device: torch.device

    @classmethod
    def build(
        cls,
        recipe: str | dict,
        settings: list[str],
        batch: int,
        precision: str | None,
        device: str,
        graph: Callable[[], Graph] | None = None,
    ) -> Subject:
        """The recipe's method and engine as a training makes them, on noise in the place of data.

        `precision` None: the recipe's. `graph`: what records steps in the place of CUDA's graphs.
        """
        own = [f"train.batch={batch}", *([f'train.precision="{precision}"'] if precision else [])]
        model = load_recipe(recipe).override([*settings, *own]).check()
        runtime = start(device, model.train.precision, model.train.fast.channels_last)
        shape = noise.shape_of(model)
        method = built(model, shape, runtime)
        stage = method.stages(STEPS)[-1]  # the whole size, nothing faded in
        images = noise.batch_of(model, shape, stage, runtime)
        method.begin(stage, images)
        engine = Engine(method, plan_of(model.train, STEPS), runtime, graph)
        engine.phases = accelerate(method, engine.phases, runtime, model.train, engine.notes)
        return cls(model, engine, images, runtime.device)

    def step(self) -> dict[str, Tensor]:
        """One step, as `Engine.fit` takes it."""
        engine = self.engine
        engine.runtime.seed(engine.plan.seed, engine.step)
        losses = engine.train_step(Batch(self.batch))  # a batch of its own: phases leave their fakes in it
        engine.step += 1
        return losses

    @property
    def settling(self) -> int:
        """Steps until every kind of step is as it stays: taken by hand, then recorded where that can be."""
        return (WARM_UP + 1) * max(phase.every for phase in self.engine.phases)

    @property
    def notes(self) -> list[str]:
        """What the step does otherwise than it was asked to, and why."""
        engine = self.engine
        found = list(engine.notes)
        if engine.plan.capture and not engine.capture.graphs and not found:
            cuda = self.device.type == "cuda"
            found.append(f"not captured: {engine.capture.obstacle}" if cuda else NO_GRAPHS)
        return found

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.engine.method.parameters())


def built(model: Model, shape: noise.Shape, runtime: Runtime) -> Method:
    """The method as a training builds it, its first weights drawn on the device where that can be: seconds less."""
    if runtime.device.type == "cuda":
        with contextlib.suppress(Exception), runtime.device:
            return noise.build(model, shape, runtime)
    return noise.build(model, shape, runtime)


def measure(task: dict[str, Any], device: str) -> Iterator[dict[str, Any]]:
    """One row: a case in one mode. What goes wrong is a row too; nothing is raised."""
    about = {key: task[key] for key in ("case", "recipe", "settings", "dims", "size", "batch", "precision", "mode")}
    effort = TINY if task.get("tiny") else EFFORT
    settings = [*task["settings"], *MODES[task["mode"]]]
    with memory_watched(device) as peak:
        subject, why = attempt(
            lambda: Subject.build(task["recipe"], settings, task["batch"], task["precision"], device)
        )
        if subject is None:
            yield row("step", *why, **about)
            return
        about |= {"method": subject.model.method.name, "parameters": subject.parameters}
        found, why = attempt(lambda: own_values(subject, effort, countable=task["mode"] != "compiled"))
        values = found or {"notes": subject.notes}
        yield row("step", *(why or ("ok", None)), **about, **values, peak_memory_gib=peak() if found else None)


def own_values(subject: Subject, effort: dict[str, Any], countable: bool = True) -> dict[str, Any]:
    """What `values` measures of gantk's step, how often the host waits in it, and the notes of its engine."""
    images = len(next(iter(subject.batch.values())))
    found = values(subject.step, images, subject.device, effort, subject.settling, countable)
    subject.engine.check_finite("")  # numbers that are not finite may be quicker than others
    steps = how_many(found["median_s"])
    places = host_waits(subject.step, subject.device, steps)
    notes = subject.notes + [f"the host waits at {place}" for place in list(dict.fromkeys(places or ()))[:5]]
    return found | {"host_waits": None if places is None else len(places) / steps, "notes": notes}


def values(
    step: Callable[[], object],
    images: int,
    device: torch.device,
    effort: dict[str, Any],
    settling: int,
    countable: bool = True,
) -> dict[str, Any]:
    """What a step takes and computes.

    Args:
        step: takes one step over a batch of so many `images` of each domain.
        settling: steps before the first timed one.
        countable: whether its operations can be counted while it settles, as they cannot where it is compiled.
    """
    first = timing.once(step, device)
    flops, operators = (attempt(lambda: counted(step))[0] if countable else None) or (None, None)
    for _ in range(settling - 1 - countable):
        step()
    found = timing.summary(timing.samples(step, device, **effort))
    median = found["median_s"]
    return found | {
        "first_step_s": first,
        "images_per_s": images / median,
        "flops": flops,
        "operators": operators,
        "tflops_per_s": flops / median / 1e12 if flops else None,
    }


def is_memory(error: BaseException) -> bool:
    """Whether the device's memory was too small, whoever says so."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text


@contextlib.contextmanager
def memory_watched(device: str):
    """Gives what asks for the peak since then, in GiB (None where the device does not count); leaves nothing behind."""
    cuda = torch.device(device).type == "cuda"
    gc.collect()
    before = 0
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    yield lambda: (torch.cuda.max_memory_allocated() - before) / 2**30 if cuda else None
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()


def attempt(work: Callable[[], Any], otherwise: str = FAILED) -> tuple[Any, tuple[str, str] | None]:
    """(result, None), or (None, (status, reason)) where it raised; the frames of the error are let go."""
    try:
        return work(), None
    except Exception as error:  # one cell's failure, of whatever kind, is a row and never the end
        return None, (MEMORY if is_memory(error) else otherwise, first_line(error))
