"""What a bench times: a training step of any recipe on a batch of noise, and samples of a call."""

import contextlib
import statistics
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from gantk.catalog.contrasts import contrast_names
from gantk.machine.runtime import Runtime, start
from gantk.method import Batch, Method, Stage, domain_letters
from gantk.recipe.load import Recipe, load_recipe
from gantk.recipe.tables import CheckedRecipe
from gantk.runs.trained import build_method
from gantk.training.cuda_graph import WARM_UP
from gantk.training.engine import Engine
from gantk_bench.rows import without_paths

CPU = torch.device("cpu")
TRAINING_STEPS = 100_000  # so long that schedules are at their beginning


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], object]) -> float:
    """Seconds that a call takes on the CPU."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def samples(
    work: Callable[[], object],
    device: torch.device = CPU,
    *,
    seconds: float = 1.0,
    least: int = 5,
    most: int = 50,
) -> list[float]:
    """Seconds of single calls, back to back: as many as fit into `seconds`, from `least` to `most`.
    No warm-up.

    On a GPU they are measured by events on the stream: waiting after each call would hide that
    Python runs ahead.
    """

    def timed(count: int) -> list[float]:
        if device.type != "cuda":
            return [seconds_of(work) for _ in range(count)]
        torch.cuda.synchronize(device)
        events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
        events[0].record()
        for event in events[1:]:
            work()
            event.record()
        torch.cuda.synchronize(device)
        return [
            first.elapsed_time(second) / 1e3
            for first, second in zip(events[:-1], events[1:], strict=True)
        ]

    pilot = timed(min(3, least))
    count = int(seconds / max(statistics.median(pilot), 1e-9))
    return pilot if least <= len(pilot) >= count else timed(max(least, min(most, count)))


def summary(samples: list[float]) -> dict[str, Any]:
    """The samples, their median, and their interquartile range and 5th to 95th percentile, both
    over the median.
    """
    low, middle, high = statistics.quantiles(samples if len(samples) > 1 else samples * 2, n=4)
    ends = np.percentile(samples, [5, 95])
    spread_90 = float(ends[1] - ends[0]) / middle
    return {
        "samples_s": samples,
        "median_s": middle,
        "spread": (high - low) / middle,
        "spread_90": spread_90,
    }


def reason(error: BaseException) -> str:
    """Class and first line of an error and the place of its origin: `ValueError: no such luck
    (model.py:12)`.
    """
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    at = traceback.extract_tb(error.__traceback__)[-1]
    text = without_paths(f"{type(error).__name__}: {first}".rstrip(": "))
    return f"{text[:300]}  ({Path(at.filename).name}:{at.lineno})"


# ---- a training step of any recipe, on a batch of noise that stays on the device


@dataclass
class RecipeStep:
    """A recipe's engine with one batch; a call takes one training step."""

    model: CheckedRecipe
    engine: Engine
    batch: Batch
    device: torch.device

    @classmethod
    def build(
        cls,
        recipe: str | dict[str, Any] | Recipe,
        settings: Sequence[str] = (),
        device: str | None = None,
    ) -> Self:
        """Build the recipe's method and engine as a training does."""
        loaded = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
        model = loaded.override(list(settings)).check()
        runtime = start(device, model.train.precision, model.train.fast.channels_last)
        method, channels = method_of(model, runtime)
        stage = method.stages(TRAINING_STEPS)[-1]  # full image size, without fade-in
        images = noise(model, channels, stage, runtime)
        sets = {letter: batch.float().cpu() for letter, batch in images.items()}
        for letter, companion in method.companions(sets).items():
            near = [companion(index, sets) for index in range(model.train.batch)]
            images[f"near_{letter}"] = runtime.place(torch.stack(near), model.data.dims)
        method.begin(stage, images)
        engine = Engine(method, model.train, TRAINING_STEPS, runtime)
        return cls(model, engine, images, runtime.device)

    def __call__(self) -> dict[str, Tensor]:
        """Take one training step as `Engine.fit` does; returns its losses."""
        engine = self.engine
        engine.runtime.seed(engine.table.seed, engine.step)
        losses = engine.train_step(Batch(self.batch))  # a copy, as phases add their fakes to it
        engine.step += 1
        return losses

    @property
    def keeps_memory(self) -> bool:
        """Whether the process keeps freed memory in this training."""
        return self.device.type == "cpu" and self.model.train.fast.keep_memory

    @property
    def settling(self) -> int:
        """Warm-up steps until every kind of step has been captured as a CUDA graph, where capture
        is possible.
        """
        if self.device.type == "cpu":
            return 0
        return (WARM_UP + 1) * max(phase.every for phase in self.engine.phases)

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.engine.method.parameters())


def method_of(model: CheckedRecipe, runtime: Runtime) -> tuple[Method, dict[str, int]]:
    """(the recipe's method, channels of each domain): one channel for each contrast, two classes
    for labels.

    On a GPU the initial weights are drawn there if the method allows it, which saves seconds.
    """
    table = model.data
    each = (table.channels or 1) * (2 * table.neighbours + 1)
    letters = domain_letters(table.domains)
    channels = {
        letter: each * len(contrast_names(name))
        for letter, name in zip(letters, table.domains, strict=True)
    }
    low, high = table.intensity().range
    arguments = (
        model,
        channels,
        ("0", "1") if table.labels else (),
        (float(low), float(high)),
        runtime,
    )
    if runtime.device.type == "cuda":
        with contextlib.suppress(Exception), runtime.device:
            return build_method(*arguments), channels
    return build_method(*arguments), channels


def noise(model: CheckedRecipe, channels: dict[str, int], stage: Stage, runtime: Runtime) -> Batch:
    """A batch of uniform noise in [-1, 1] at the stage's size, with labels and masks if the recipe
    has them.
    """
    table = model.data
    count = model.train.batch
    batch = Batch()
    for name in model.method.target.reads:
        batch[name] = torch.rand(count, channels[name], *stage.size) * 2 - 1
        if table.mask:
            batch[f"mask_{name}"] = torch.zeros(count, 1, *stage.size)
    placed = Batch({name: runtime.place(image, table.dims) for name, image in batch.items()})
    if table.labels:
        placed["label"] = runtime.place(torch.arange(count) % 2, table.dims)
    return placed
