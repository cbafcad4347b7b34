"""What one training step needs, found without taking it: the step runs on tensors that have shapes and no memory.

Every operator of a step, its optimizers and averages included, tells the shapes of what it makes (torch's
FakeTensorMode); the bytes that live at once and the multiplications are counted. No data are read.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException as AsksForValues
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.utils.flop_counter import flop_registry

from gantk.data.items import contrast_names, domain_letters
from gantk.errors import UserError
from gantk.inference.layer_trace import Memory
from gantk.machine.runtime import Runtime
from gantk.method import Batch, Method, Stage
from gantk.recipe.tables import Model
from gantk.training.engine import Engine, check_plan
from gantk.training.loop import build_method, plan_of


@dataclass(frozen=True)
class Need:
    """Bytes that a training holds at its peak, part by part, and what a step computes."""

    weights: int
    buffers: int  # image pools, statistics of norms
    average: int  # the moving average of the weights
    optimizer: int
    gradients: int  # of the phase that updates the most
    activations: int  # what waits for the backward pass, and what is at work
    flops: float  # of convolutions and matrix products in a step

    @property
    def total(self) -> int:
        """Bytes of tensors that live at once, at most."""
        return sum(value for name, value in asdict(self).items() if name != "flops")

    @property
    def state(self) -> int:
        """Bytes that stay from step to step."""
        return self.weights + self.buffers + self.average + self.optimizer


@dataclass(frozen=True)
class Shape:
    """What a method must know of its data, as far as a recipe tells it."""

    channels: dict[str, int]
    classes: tuple[str, ...]
    range: tuple[float, float]


class Watch(Memory):
    """Counts bytes that live together beside the `known` tensors, and what convolutions and products compute."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self._known.update(tensor.untyped_storage()._cdata for tensor in known)
        self.flops = 0.0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = super().__torch_dispatch__(func, types, args, kwargs)
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.flops += count(*args, **(kwargs or {}), out_val=result)
        return result


def shape_of(model: Model) -> Shape:
    """Channels, classes and range without a look at the data: a contrast is taken for one channel, labels for two."""
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


def largest(stages: Iterable[Stage]) -> Stage:
    """The stage of the largest images, the first of its size: what fades in needs the most."""
    return max(stages, key=lambda stage: math.prod(stage.size))


def build(model: Model, shape: Shape, runtime: Runtime) -> Method:
    """The recipe's method, checked for the recipe's plan."""
    reads = model.method.target.reads
    if set(reads) - set(shape.channels):
        what = f"this method needs {len(reads)} domains, and data.domains names {len(shape.channels)}"
        raise UserError(what, where="data.domains", remedy='for example domains = ["T1", "T2"]')
    method = build_method(model, shape.channels, shape.classes, shape.range, runtime)
    check_plan(method, plan_of(model.train, steps_of(model)))
    return method


def steps_of(model: Model) -> int:
    """The recipe's steps; where it counts epochs, 1000, since only the data know how many steps an epoch has."""
    return 1000 if model.train.steps is None else max(1, model.train.steps)


def need_of(model: Model, runtime: Runtime, stage: Stage | None = None, shape: Shape | None = None) -> Need:
    """What a step of the stage needs (None: of the largest images); UserError where the recipe does not fit itself."""
    shape = shape or shape_of(model)
    with same_random_numbers():
        method = build(model, shape, runtime)
        stage = stage or largest(method.stages(steps_of(model)))
        method.begin(stage, batch_of(model, shape, stage, runtime))
        try:
            return _need(model, runtime, stage, shape, method, FakeTensorMode())
        except AsksForValues:  # it decides by numbers, as L-BFGS does: taken for real, on noise
            return _need(model, runtime, stage, shape, method, None)


def _need(
    model: Model, runtime: Runtime, stage: Stage, shape: Shape, method: Method, mode: FakeTensorMode | None
) -> Need:
    if mode is not None:
        with FakeCopyMode(mode):
            method = copy.deepcopy(method)
    plan = replace(plan_of(model.train, steps_of(model)), capture=False)
    with mode or nullcontext(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        engine = Engine(method, plan, replace(runtime, rank=0, world=1, ranks=None))
        engine.train_step(batch_of(model, shape, stage, runtime))  # optimizers make their state
        optimizers = list(_tensors(state for each in engine.optimizers.values() for state in each.state.values()))
        average = list(engine.ema.average.values()) if engine.ema else []
        for parameter in method.parameters():
            parameter.grad = None
        with Watch([*method.parameters(), *method.buffers(), *average, *optimizers]) as watch:
            engine.train_step(batch_of(model, shape, stage, runtime))
    parts = {
        "weights": _bytes(method.parameters()),
        "buffers": _bytes(method.buffers()),
        "average": _bytes(average),
        "optimizer": _bytes(optimizers),
        "gradients": max(map(_bytes, engine.parameters.values())),
    }
    activations = max(0, watch.peak - parts["gradients"])
    return Need(**parts, activations=activations, flops=watch.flops)


def _tensors(states: Iterable[dict[str, Any]]) -> Iterator[Tensor]:
    """All tensors of optimizers' states, in lists and dicts too."""
    for state in states:
        for value in state.values():
            if isinstance(value, Tensor):
                yield value
            elif isinstance(value, list | tuple):
                yield from (each for each in value if isinstance(each, Tensor))


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum({id(tensor): tensor.numel() * tensor.element_size() for tensor in tensors}.values())


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Random numbers go on afterwards as if nothing had been drawn."""
    cuda = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=cuda):
        yield
