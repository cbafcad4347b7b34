"""A whole training step as one CUDA graph: the host launches once a step, instead of once for each operator.

A graph runs the operations that it was recorded with, on the memory that it was recorded with. So batches are copied to
where the recorded one lies, and what changes from step to step (learning rates, `progress`, the average's share) is a
tensor that the engine fills before it. Random numbers follow the generator's seed at each replay. Every kind of step
(its phases, the shapes of its batch) has a graph of its own, recorded after a few steps operator by operator and
compared with them once. Where anything stands in the way, all is put back, training goes on, and `notes` says why.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Hashable
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from gantk.method import Batch
from gantk.training.accelerate.state import PythonState, TensorState

WARM_UP = 3  # steps of each kind before it is recorded: memory is claimed, kernels are chosen, optimizers make states
TRIED = 2  # steps that a fresh graph is compared over: what one leaves out, the next one shows
# Relative differences: of losses, where bfloat16 kernels that add in any order stay far below; of what a step changes,
# relative to the change, where a gradient that is nothing but rounding becomes a whole step of Adam's.
TOLERANCE, MOVED = 0.05, 0.5
Losses = dict[str, Tensor]


class Graph(Protocol):
    """Something that records a call and runs it again, in the same memory."""

    def record(self, call: Callable[[], Losses]) -> Losses: ...

    def replay(self) -> None: ...


class CudaGraph:
    """One recorded call. Nothing is computed while it is recorded."""

    def __init__(self, stream: torch.cuda.Stream, pool: Any):
        self._stream, self._pool, self._graph = stream, pool, torch.cuda.CUDAGraph()
        self.replay = self._graph.replay

    def record(self, call: Callable[[], Losses]) -> Losses:
        """What `call` gives, in memory that every replay fills."""
        gc.collect()
        gc.disable()  # what is collected while a step is recorded may have to ask the device, and that breaks it off
        options = {"pool": self._pool, "stream": self._stream, "capture_error_mode": "thread_local"}  # readers go on
        try:
            with torch.cuda.graph(self._graph, **options):
                return call()
        except BaseException:
            # The generator waits for the end of a recording that never comes, and would not draw outside of one.
            generator = torch.cuda.default_generators[self._stream.device_index]
            generator.graphsafe_set_state(generator.clone_state())
            raise
        finally:
            gc.enable()


class Recorded(NamedTuple):
    """A graph with the memory that it reads and writes; `batch` is the inputs and what the step left beside them."""

    graph: Graph
    inputs: Batch
    batch: Batch
    losses: Losses


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
        step: Callable[[Batch], Losses],
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
        self._graph = graph or (lambda: CudaGraph(self._stream, self._pool))
        self.forget()

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
        self._counts: dict[Hashable, int] = {}
        self._recorded: dict[Hashable, Recorded] = {}
        self._pool = torch.cuda.graph_pool_handle() if self._stream else None  # one no graph is left of cannot serve

    def _record(self, key: Hashable, batch: Batch) -> bool:
        """Record a step and compare two replays, later in the training, with two steps; all is as before afterwards."""
        before, python, devices = {}, self.python(), [self.device] if self._stream else []
        with torch.random.fork_rng(devices):
            try:
                before = {kind: TensorState(tensors) for kind, tensors in self.changes().items()}
                inputs = Batch({name: tensor.clone() for name, tensor in batch.items()})
                wanted = self._after(lambda: self.step(Batch(inputs)), before)
                python.expect_same()
                self.at(0)
                inside, graph = Batch(inputs), self._graph()
                losses = graph.record(lambda: self.step(inside))
                _restore(before)
                found = self._after(lambda: graph.replay() or losses, before)
                why = _difference(wanted, found, before)
            except Exception as error:  # whatever it is: training goes on without
                first = str(error).strip().split("\n")[0][:200]
                why = first if isinstance(error, ValueError) else f"{type(error).__name__}: {first}"
            _restore(before)
        python.restore()
        self.at(0)
        if why is None:
            self._recorded[key] = Recorded(graph, inputs, inside, losses)
            return True
        self.obstacle = f"the step could not be recorded: {why}"
        self.notes.append(self.obstacle)
        return False

    def _after(self, step: Callable[[], Losses], before: dict[str, TensorState]) -> tuple[list[Tensor], dict]:
        """The losses of a few steps later in the training and the tensors after them, which are put back."""
        self.at(self.later())
        torch.manual_seed(0)
        losses = [torch.stack([loss.float() for loss in step().values()]).clone() for _ in range(TRIED)]
        after = {kind: TensorState(state.tensors) for kind, state in before.items()}
        _restore(before)
        return losses, after

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


def _restore(states: dict[str, TensorState]) -> None:
    for state in states.values():
        state.restore()


def _difference(wanted: tuple[list, dict], found: tuple[list, dict], before: dict[str, TensorState]) -> str | None:
    """How replayed steps differ from those taken operator by operator; None where they do not."""
    one, other = (torch.stack(losses).nan_to_num(nan=math.inf) for losses in (wanted[0], found[0]))
    apart = torch.where(one == other, 0.0, (one - other).abs() / torch.maximum(one.abs(), other.abs()).clamp_min(1e-3))
    distances = {"losses": (float(apart.nan_to_num(nan=math.inf).max()), TOLERANCE)}
    for kind, state in wanted[1].items():
        distances[kind] = (found[1][kind].distance(state) / max(state.distance(before[kind]), 1e-12), MOVED)
    for kind, (distance, most) in distances.items():
        if not distance <= most:
            what = f"the {kind} of replayed steps differ from those of others by {distance:.2g}"
            return f"{what}: something in it follows what only Python knows"
    return None
