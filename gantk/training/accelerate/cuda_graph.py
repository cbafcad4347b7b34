"""A whole training step as one CUDA graph: the host launches once a step, instead of once for each operator.

A graph runs the operations that it was recorded with, on the memory that it was recorded with. So batches are copied to
where the recorded one lies, and what changes from step to step (learning rates, `progress`, the average's share) is a
tensor that the engine fills before it. Random numbers follow the generator's seed at each replay.

Every kind of step (its phases, its stage, the shapes of its batch) has a graph of its own. The first few are taken
operator by operator: memory is claimed, kernels are chosen, optimizers make their state. Then one is recorded and tried
out: from the same state it must lead where the operators lead, at another point of the training too. Where anything
stands in the way, all is put back, training goes on operator by operator, and `notes` says why.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Hashable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from gantk.method import Batch
from gantk.training.accelerate.python_state import PythonState

WARM_UP = 3  # steps of each kind before it is recorded
TRIED = 2  # steps that a fresh graph is compared over: what one leaves out, the next one shows
TOLERANCE = 0.05  # of its losses, relative: bfloat16 kernels that add in any order stay far below
# Of what steps change, relative to the change: where a gradient is nothing but rounding, Adam makes a whole step of it.
MOVED = 0.5
Losses = dict[str, Tensor]
Step = Callable[[Batch], Losses]


class Graph(Protocol):
    """Something that records a call and runs it again, in the same memory."""

    def record(self, call: Callable[[], Losses]) -> Losses: ...

    def replay(self) -> None: ...


class CudaGraph:
    """One recorded call. Nothing is computed while it is recorded."""

    def __init__(self, stream: torch.cuda.Stream, pool: tuple[int, int]):
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
        except BaseException:
            # The generator waits for the end of a recording that never comes, and would not draw outside of one.
            generator = torch.cuda.default_generators[self._stream.device_index]
            generator.graphsafe_set_state(generator.clone_state())
            raise
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
    """Tensors as they were when this was made; `restore` puts that back into the same tensors."""

    tensors: list[Tensor]
    values: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.values = [tensor.detach().clone() for tensor in self.tensors]

    @torch.no_grad()
    def restore(self) -> None:
        for tensor, value in zip(self.tensors, self.values, strict=True):
            tensor.detach().copy_(value)

    def moved(self, since: State) -> float:
        """How far these values are from those of another state of the same tensors."""
        return _distance(self.values, since.values)

    def away(self) -> float:
        """How far the tensors are from here now."""
        return _distance(self.tensors, self.values)


class Capture:
    """Takes steps: operator by operator, and by graph as soon as that is possible.

    Args:
        step: batch -> losses, one whole training step without anything that the host decides by the step's number.
        at: sets the tensors that follow the step's number, for the step that many ahead of this one.
        later: how many steps ahead learning rates, `progress` and the average's share are others.
        changes: the tensors that a step changes, by kind: weights, averages and the like.
        python: what Python holds now, which no replay would change.
        device: where it all happens.
        obstacle: why nothing is to be recorded at all; None: try.
        graph: makes a graph; None: CUDA's.
    """

    def __init__(
        self,
        step: Step,
        at: Callable[[int], None],
        later: Callable[[], int],
        changes: Callable[[], dict[str, list[Tensor]]],
        python: Callable[[], PythonState],
        device: torch.device,
        obstacle: str | None = None,
        graph: Callable[[], Graph] | None = None,
    ):
        self.step, self.at, self.later, self.changes = step, at, later, changes
        self.python, self.device, self.obstacle = python, device, obstacle
        self.notes: list[str] = []  # why steps are not recorded although they might be
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" and obstacle is None else None
        self._pool = self._new_pool()
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
        self._pool = self._new_pool()  # one that no graph is left of must not be used again

    def _new_pool(self) -> tuple[int, int] | None:
        return torch.cuda.graph_pool_handle() if self._stream else None

    def _record(self, key: Hashable, batch: Batch) -> bool:
        """Record a step and try it out; whether it can be used. All is as before afterwards."""
        state, python, random = None, self.python(), _random_state(self.device)
        try:
            state = {kind: State(tensors) for kind, tensors in self.changes().items()}
            inputs = Batch({name: tensor.clone() for name, tensor in batch.items()})
            self.step(Batch(inputs))
            python.expect_same()
            _restore(state)
            inside, graph = Batch(inputs), self._graph()
            losses = graph.record(lambda: self.step(inside))
            recorded = Recorded(graph, inputs, inside, losses)
            _restore(state)
            why = self._differs(recorded, state)
        except ValueError as error:
            why = str(error).split("\n")[0]
        except Exception as error:  # whatever it is: training goes on without
            why = f"{type(error).__name__}: {str(error).strip().split(chr(10))[0][:200]}"
        _restore(state or {})
        python.restore()
        self.at(0)
        _set_random_state(self.device, random)
        if why is None:
            self._recorded[key] = recorded
            return True
        self.obstacle = f"the step could not be recorded: {why}"
        self.notes.append(self.obstacle)
        return False

    def _differs(self, recorded: Recorded, state: dict[str, State]) -> str | None:
        """How replays differ from other steps, now or later; None where they do not."""
        for ahead in (0, self.later()):
            self.at(ahead)
            torch.manual_seed(ahead)
            expected = [_floats(self.step(Batch(recorded.inputs))) for _ in range(TRIED)]
            there = {kind: State(each.tensors) for kind, each in state.items()}
            _restore(state)
            self.at(ahead)
            torch.manual_seed(ahead)
            apart = {"losses": 0.0}
            for wanted in expected:
                recorded.graph.replay()
                apart["losses"] = max(apart["losses"], _difference(wanted, _floats(recorded.losses)))
            for kind, each in there.items():
                apart[kind] = each.away() / max(each.moved(state[kind]), 1e-12)
            _restore(state)
            for kind, distance in apart.items():
                if not distance <= (TOLERANCE if kind == "losses" else MOVED):
                    what = f"the {kind} of replayed steps differ from those of others by {distance:.2g}"
                    return f"{what}: something in it follows what only Python knows"
        return None

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


def _restore(states: dict[str, State]) -> None:
    for state in states.values():
        state.restore()


def _distance(one: list[Tensor], other: list[Tensor]) -> float:
    """The norm of all differences together."""
    squares = [(a.detach().float() - b.detach().float()).square().sum() for a, b in zip(one, other, strict=True)]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0


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

