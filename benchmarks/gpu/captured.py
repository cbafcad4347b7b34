"""A whole training step as one graph: the host then launches once a step, instead of once for each operator.

Warm up on a stream of its own, record one `Engine.train_step` over a batch that stays where it is, replay. What the
engine works out in Python is recorded as it was: the learning rate's schedule, `progress`, the moving average's early
decay, and phases that run every n-th step. That is enough to time a step and to say what stands in the way of a
capture; a training needs those as tensors.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gantk.engine import Engine
from gantk.method import Batch

WARM_UP = 3
COMPARED = 4  # steps that replays and eager steps are compared over: what one replay leaves out, the next ones show
Losses = dict[str, Tensor]


class CudaGraph:
    """One recorded call of a function, replayed on the device. Nothing is computed while it is recorded."""

    def __init__(self) -> None:
        self._graph = torch.cuda.CUDAGraph()

    def record(self, call: Callable[[], Losses]) -> None:
        gc.collect()
        gc.disable()  # what is collected while a step is recorded may have to ask the device, and that breaks it off
        try:
            with torch.cuda.graph(self._graph):
                self._losses = call()
        finally:
            gc.enable()

    def replay(self) -> Losses:
        self._graph.replay()
        return self._losses

    @staticmethod
    @contextmanager
    def warming_up():
        """A stream of its own, as a capture needs it."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            yield
        torch.cuda.current_stream().wait_stream(stream)


class StandIn:
    """Where there are no graphs: keeps the function and calls it, so that all else is the same on any device."""

    def record(self, call: Callable[[], Losses]) -> None:
        self._call = call

    def replay(self) -> Losses:
        return self._call()

    @staticmethod
    @contextmanager
    def warming_up():
        yield


@dataclass
class Captured:
    """A step that was captured: call it to take one. `difference` says how far its losses are from eager ones."""

    step: Callable[[], Losses]
    difference: float | None  # largest relative difference of a loss over a few steps; None: not compared


def capture(
    engine: Engine, batch: Batch, graph: CudaGraph | StandIn | None = None, *, compare: bool = False
) -> Captured:
    """The engine's step over `batch` as a graph; whatever refuses the capture is raised.

    The step's random numbers follow `runtime.seed` at each replay. With `compare` the same steps are taken eagerly
    before, from the same state; 0 where a device computes the same thing the same way twice.
    """
    cuda = engine.runtime.device.type == "cuda"
    graph = graph or (CudaGraph() if cuda else StandIn())
    if cuda:
        make_capturable(engine)
    with graph.warming_up():
        for _ in range(WARM_UP):
            eager(engine, batch)
    plain = []
    if compare:
        state = State(engine)
        plain = [_floats(eager(engine, batch)) for _ in range(COMPARED)]
        state.restore()
    seed(engine)
    graph.record(lambda: engine.train_step(Batch(batch)))

    def step() -> Losses:
        seed(engine)
        losses = graph.replay()
        engine.step += 1
        return losses

    return Captured(step, _apart(plain, [_floats(step()) for _ in plain]) if compare else None)


def eager(engine: Engine, batch: Batch) -> Losses:
    """One step, operator by operator: what `Engine.fit` does for a batch."""
    seed(engine)
    losses = engine.train_step(Batch(batch))  # a batch of its own: phases leave their fakes in it
    engine.step += 1
    return losses


def seed(engine: Engine) -> None:
    """The random numbers of the step that comes."""
    engine.runtime.seed(engine.plan.seed, engine.step)


def make_capturable(engine: Engine) -> None:
    """Optimizers count steps and hold learning rates on the device, where they can."""
    for optimizer in engine.optimizers.values():
        for group in optimizer.param_groups:
            if "capturable" in group:
                group["capturable"] = True
                if not isinstance(group["lr"], Tensor):
                    group["lr"] = torch.tensor(float(group["lr"]), device=engine.runtime.device)
        for state in optimizer.state.values():
            if isinstance(state.get("step"), Tensor):
                state["step"] = state["step"].to(engine.runtime.device)


@dataclass
class State:
    """All that a step changes, as it was when this was made: weights, buffers, averages, optimizers."""

    engine: Engine
    tensors: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # each with its value
    remembered: list[tuple[dict, dict]] = field(default_factory=list)  # an optimizer's state, with its entries

    def __post_init__(self) -> None:
        engine = self.engine
        self.step, self.updates = engine.step, engine.ema.updates if engine.ema else 0
        found = [*engine.method.parameters(), *engine.method.buffers()]
        found += engine.ema.average.values() if engine.ema else []
        for optimizer in engine.optimizers.values():
            for state in optimizer.state.values():
                self.remembered.append((state, {key: _copied(value) for key, value in state.items()}))
                found += [value for value in state.values() if isinstance(value, Tensor)]
        self.tensors = [(tensor, tensor.detach().clone()) for tensor in found]

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back, in the same tensors."""
        for state, entries in self.remembered:
            state.clear()
            state.update(entries)
        for tensor, value in self.tensors:
            tensor.copy_(value)
        self.engine.step = self.step
        if self.engine.ema:
            self.engine.ema.updates = self.updates


def _copied(value: Any) -> Any:
    return list(value) if isinstance(value, list) else value


def _floats(losses: Losses) -> dict[str, float]:
    return {name: float(loss) for name, loss in losses.items()}


def _apart(plain: list[dict[str, float]], again: list[dict[str, float]]) -> float:
    pairs = [(one[name], other.get(name, math.nan)) for one, other in zip(plain, again, strict=True) for name in one]
    found = [abs(a - b) / max(abs(a), abs(b), 1e-6) for a, b in pairs]
    return max((apart if math.isfinite(apart) else math.inf for apart in found), default=0.0)
