"""A recipe's method and a batch of noise for it, without a look at the data."""

from __future__ import annotations

from typing import NamedTuple

import torch

from gantk.data.items import contrast_names, domain_letters
from gantk.machine.runtime import Runtime
from gantk.method import Batch, Method, Stage
from gantk.recipe.tables import Model
from gantk.runs.trained import build_method
from gantk.training.assemble import plan_of
from gantk.training.engine import check_plan


class Shape(NamedTuple):
    """What a method must know of its data: channels by domain, names of the labels, black and white."""

    channels: dict[str, int]
    classes: tuple[str, ...]
    range: tuple[float, float]


def shape_of(model: Model) -> Shape:
    """A contrast is taken for one channel, labels for two."""
    table = model.data
    own = table.source.table().get("channels")
    each = (own if isinstance(own, int) else 1) * (2 * table.neighbours + 1)
    letters = domain_letters(table.domains)
    channels = {letter: each * len(contrast_names(name)) for letter, name in zip(letters, table.domains, strict=True)}
    low, high = table.intensity().range
    return Shape(channels, ("0", "1") if table.labels else (), (float(low), float(high)))


def batch_of(model: Model, shape: Shape, stage: Stage, runtime: Runtime) -> Batch:
    """Images of noise as a step of the stage gets them, with labels and masks where the recipe asks for them."""
    table, count = model.data, model.train.batch
    batch = Batch()
    for name in model.method.target.reads:
        batch[name] = torch.rand(count, shape.channels[name], *stage.size) * 2 - 1
        if table.mask:
            batch[f"mask_{name}"] = torch.zeros(count, 1, *stage.size)
    placed = Batch({name: runtime.place(image, table.dims) for name, image in batch.items()})
    if shape.classes:
        placed["label"] = runtime.place(torch.arange(count) % len(shape.classes), table.dims)
    return placed


def build(model: Model, shape: Shape, runtime: Runtime) -> Method:
    """The recipe's method, checked for the recipe's plan."""
    method = build_method(model, shape.channels, shape.classes, shape.range, runtime)
    check_plan(method, plan_of(model.train, model.train.steps or 1000))
    return method
