"""The training step that all step benchmarks time: of any recipe, on a batch of noise that stays on the device."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from harness import Turn
from torch import Tensor

from gantk.data.preparation import contrast_names, domain_letters
from gantk.machine.runtime import Runtime, start
from gantk.method import Batch, Method, Stage
from gantk.recipe.load import Recipe, load_recipe
from gantk.recipe.tables import Model
from gantk.runs.trained import build_method
from gantk.training.accelerate import accelerate
from gantk.training.engine import Engine
from gantk_cuda_graph.capture import WARM_UP

STEPS = 100_000  # length of the training, so that schedules are at their beginning
NO_GRAPHS = "not captured: graphs need a CUDA device"


@dataclass
class RecipeStep:
    """A recipe's engine with one batch; a call takes one training step."""

    model: Model
    engine: Engine
    batch: Batch
    device: torch.device

    @classmethod
    def build(
        cls, recipe: str | dict[str, Any] | Recipe, settings: Sequence[str] = (), device: str | None = None
    ) -> RecipeStep:
        """Build the recipe's method and engine as a training does."""
        loaded = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
        model = loaded.override(list(settings)).check()
        runtime = start(device, model.train.precision, model.train.fast.channels_last)
        method, channels = method_of(model, runtime)
        stage = method.stages(STEPS)[-1]  # full image size, without fade-in
        images = noise(model, channels, stage, runtime)
        method.begin(stage, images)
        engine = Engine(method, model.train, STEPS, runtime)
        engine.phases = accelerate(method, engine.phases, runtime, model.train, engine.notes)
        return cls(model, engine, images, runtime.device)

    def __call__(self) -> dict[str, Tensor]:
        """Take one training step as `Engine.fit` does; returns its losses."""
        engine = self.engine
        engine.runtime.seed(engine.table.seed, engine.step)
        losses = engine.train_step(Batch(self.batch))  # a copy, as phases add their fakes to it
        engine.step += 1
        return losses

    def turn(self) -> Turn:
        """This step as a side of a comparison."""
        cpu = self.device.type == "cpu"
        return Turn(self, self.device, cpu and self.model.train.fast.keep_memory, 0 if cpu else self.settling)

    @property
    def settling(self) -> int:
        """Warm-up steps until every kind of step has been captured as a CUDA graph, where capture is possible."""
        return (WARM_UP + 1) * max(phase.every for phase in self.engine.phases)

    @property
    def notes(self) -> list[str]:
        """Settings that the step could not apply, with the reasons."""
        engine = self.engine
        notes = list(engine.notes)
        requested, capture = engine.table.fast.cuda_graph and not engine.table.recompute, engine.capture
        if requested and not notes and not (capture and capture.graphs):
            notes.append(f"not captured: {capture.obstacle}" if capture else NO_GRAPHS)
        return notes

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.engine.method.parameters())


def method_of(model: Model, runtime: Runtime) -> tuple[Method, dict[str, int]]:
    """(the recipe's method, channels of each domain): one channel for each contrast, two classes for labels.

    On a GPU the initial weights are drawn there if the method allows it, which saves seconds.
    """
    table = model.data
    source_channels = table.source.table().get("channels")
    each = (source_channels if isinstance(source_channels, int) else 1) * (2 * table.neighbours + 1)
    letters = domain_letters(table.domains)
    channels = {letter: each * len(contrast_names(name)) for letter, name in zip(letters, table.domains, strict=True)}
    low, high = table.intensity().range
    arguments = model, channels, ("0", "1") if table.labels else (), (float(low), float(high)), runtime
    if runtime.device.type == "cuda":
        with contextlib.suppress(Exception), runtime.device:
            return build_method(*arguments), channels
    return build_method(*arguments), channels


def noise(model: Model, channels: dict[str, int], stage: Stage, runtime: Runtime) -> Batch:
    """A batch of uniform noise in [-1, 1] at the stage's size, with labels and masks if the recipe has them."""
    table, count, batch = model.data, model.train.batch, Batch()
    for name in model.method.target.reads:
        batch[name] = torch.rand(count, channels[name], *stage.size) * 2 - 1
        if table.mask:
            batch[f"mask_{name}"] = torch.zeros(count, 1, *stage.size)
    placed = Batch({name: runtime.place(image, table.dims) for name, image in batch.items()})
    if table.labels:
        placed["label"] = runtime.place(torch.arange(count) % 2, table.dims)
    return placed
