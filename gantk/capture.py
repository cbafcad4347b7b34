"""A whole training step as one CUDA graph: the host launches once a step, instead of once for each operator.

A graph runs the operations that it was recorded with, on the memory that it was recorded with. So batches are copied to
where the recorded one lies, and what changes from step to step (learning rates, `progress`, the average's share) is a
tensor that the engine fills before it. Random numbers follow the generator's seed at each replay.

Every kind of step (its phases, its stage, the shapes of its batch) has a graph of its own. The first few are taken
operator by operator: memory is claimed, kernels are chosen, optimizers make their state. Then one is recorded and tried
out: from the same state it must lead where the operators lead, at another point of the training too. Where anything
stands in the way, training goes on operator by operator, and `notes` says why.
"""

from __future__ import annotations

import gc
import math
import random
from collections.abc import Callable, Hashable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from gantk.method import Batch

WARM_UP = 3  # steps of each kind before it is recorded
TRIED = 2  # steps that a fresh graph is compared over: what one leaves out, the next one shows
LATER = 1000  # steps ahead: learning rates, `progress` and the average's share are others there
TOLERANCE = 0.05  # of its losses, relative: bfloat16 kernels that add in any order stay far below
Losses = dict[str, Tensor]
Step = Callable[[Batch], Losses]


class Graph(Protocol):
    """Something that records a call and runs it again, in the same memory."""

    def record(self, call: Callable[[], Losses]) -> Losses: ...

    def replay(self) -> None: ...


class CudaGraph:
    """One recorded call. Nothing is computed while it is recorded."""

    def __init__(self, stream: torch.cuda.Stream, pool: Any):
        self._stream, self._pool = stream, pool
        self._graph = torch.cuda.CUDAGraph()

    def record(self, call: Callable[[], Losses]) -> Losses:
        gc.collect()
        gc.disable()  # what is collected while a step is recorded may have to ask the device, and that breaks it off
        try:
            # threads that read ahead may go on meanwhile
            with torch.cuda.graph(
                self._graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                return call()
        finally:
            gc.enable()

    def replay(self) -> None:
        self._graph.replay()


@dataclass
class Recorded:
    """A graph with the memory that it reads and writes."""

    graph: Graph
    inputs: Batch
    batch: Batch  # the inputs, and what the step left beside them
    losses: Losses


@dataclass
class State:
    """All that steps change, as it was when this was made; `restore` puts it back into the same tensors."""

    tensors: list[Tensor]
    values: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.values = [tensor.detach().clone() for tensor in self.tensors]

    @torch.no_grad()
    def restore(self) -> None:
        for tensor, value in zip(self.tensors, self.values, strict=True):
            tensor.detach().copy_(value)


class Capture:
    """Takes steps: operator by operator, and by graph as soon as that is possible.

    Args:
        step: batch -> losses, one whole training step without anything that the host decides by the step's number.
        at: sets the tensors that follow the step's number, for the step that many ahead of this one.
        changes: the tensors that a step changes, optimizers' and averages' among them.
        python: names and values that Python holds, which no replay would change; see `python_state`.
        device: where it all happens.
        obstacle: why nothing is to be recorded at all; None: try.
        graph: makes a graph; None: CUDA's.
    """

    def __init__(
        self,
        step: Step,
        at: Callable[[int], None],
        changes: Callable[[], list[Tensor]],
        python: Callable[[], dict[str, Any]],
        device: torch.device,
        obstacle: str | None = None,
        graph: Callable[[], Graph] | None = None,
    ):
        self.step, self.at, self.changes, self.python, self.device = step, at, changes, python, device
        self.obstacle = obstacle
        self.notes: list[str] = []  # why steps are not recorded although they might be
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" and obstacle is None else None
        self._pool = torch.cuda.graph_pool_handle() if self._stream else None
        self._graph = graph or (lambda: CudaGraph(self._stream, self._pool))
        self._counts: dict[Hashable, int] = {}
        self._recorded: dict[Hashable, Recorded] = {}

    def __call__(self, kind: Hashable, batch: Batch) -> Losses:
        """One step. `kind`: what else than the batch's shapes makes steps differ. Losses of a graph are overwritten by
        the next step; what the step left in the batch is put into `batch`."""
        if self.obstacle is not None:
            return self.step(batch)
        key = kind, tuple((name, tuple(t.shape), t.dtype, t.stride()) for name, t in batch.items())
        with self._on_stream():
            if key not in self._recorded:
                taken = self._counts[key] = self._counts.get(key, 0) + 1
                if taken <= WARM_UP or not self._record(key, batch):
                    return self.step(batch)
            recorded = self._recorded[key]
            for name, tensor in batch.items():
                recorded.inputs[name].copy_(tensor)
            recorded.graph.replay()
            batch.update(recorded.batch)
            return recorded.losses

    @property
    def graphs(self) -> int:
        """How many kinds of steps are recorded."""
        return len(self._recorded)

    def forget(self) -> None:
        """Let go of all graphs and their memory: steps of another size come."""
        self._recorded.clear()
        self._counts.clear()

    def _record(self, key: Hashable, batch: Batch) -> bool:
        """Record a step and try it out; whether it can be used. State and random numbers are as before afterwards."""
        state, random = None, _random_state(self.device)
        try:
            state = State(self.changes())
            inputs = Batch({name: tensor.clone() for name, tensor in batch.items()})
            self._check_python(inputs)
            state.restore()
            inside, graph = Batch(inputs), self._graph()
            losses = graph.record(lambda: self.step(inside))
            recorded = Recorded(graph, inputs, inside, losses)
            state.restore()
            apart = self._apart(recorded, state)
            why = f"replayed steps differ from others by {apart:.2g}: something in it follows what only Python knows"
        except ValueError as error:
            apart, why = math.inf, str(error).split("\n")[0]
        except Exception as error:  # whatever it is: training goes on without
            apart, why = math.inf, f"{type(error).__name__}: {str(error).strip().split(chr(10))[0][:200]}"
        if state is not None:
            state.restore()
        self.at(0)
        _set_random_state(self.device, random)
        if apart <= TOLERANCE:
            self._recorded[key] = recorded
            return True
        self.obstacle = f"the step could not be recorded: {why}"
        self.notes.append(self.obstacle)
        return False

    def _check_python(self, inputs: Batch) -> None:
        """Take a step; ValueError where it changed what only Python holds."""
        before = self.python()
        self.step(Batch(inputs))
        after = self.python()
        changed = [name for name in before | after if before.get(name) != after.get(name)]
        if changed:
            raise ValueError(f"every step changes {', '.join(changed)} in Python; hold it in a buffer, as a tensor")

    def _apart(self, recorded: Recorded, state: State) -> float:
        """The largest relative difference of a loss between replays and other steps, of now and of much later."""
        worst = 0.0
        for ahead in (0, LATER):
            self.at(ahead)
            torch.manual_seed(ahead)
            expected = [_floats(self.step(Batch(recorded.inputs))) for _ in range(TRIED)]
            state.restore()
            self.at(ahead)
            torch.manual_seed(ahead)
            for wanted in expected:
                recorded.graph.replay()
                worst = max(worst, _difference(wanted, _floats(recorded.losses)))
            state.restore()
        return worst

    @contextmanager
    def _on_stream(self):
        """Graphs must not be recorded on the default stream, and what warms up must run where the graph will."""
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            yield
        torch.cuda.current_stream().wait_stream(self._stream)


def python_state(module: nn.Module) -> dict[str, Any]:
    """Numbers and texts among the attributes of a module and its parts, and the state of Python's random numbers."""
    found: dict[str, Any] = {"the random numbers of `random`": random.getstate()}
    name, keys, place, *_ = np.random.get_state()
    found["the random numbers of `numpy`"] = name, keys.tobytes(), place
    for path, part in module.named_modules():
        for attribute, value in vars(part).items():
            if isinstance(value, int | float | str) and attribute != "training":
                found[f"{path}.{attribute}" if path else attribute] = value
    return found


def _floats(losses: Losses) -> dict[str, float]:
    return dict(zip(losses, torch.stack([loss.float() for loss in losses.values()]).tolist(), strict=True))


def _difference(one: dict[str, float], other: dict[str, float]) -> float:
    if one.keys() != other.keys():
        return math.inf
    found = [abs(a - b) / max(abs(a), abs(b), 1e-3) for a, b in ((one[name], other[name]) for name in one)]
    lost = [math.isfinite(one[name]) != math.isfinite(other[name]) for name in one]
    return math.inf if any(lost) else max((apart for apart in found if math.isfinite(apart)), default=0.0)


def _random_state(device: torch.device) -> list[Tensor]:
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _set_random_state(device: torch.device, state: list[Tensor]) -> None:
    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)

