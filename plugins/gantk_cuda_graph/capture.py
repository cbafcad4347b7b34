"""A whole training step as one CUDA graph: the host launches once a step, instead of once for each operator.

A graph runs the operations that it was recorded with, on the same memory. So batches are copied to where the recorded
one lies, and what changes from step to step (learning rates, `progress`, the average's share) is a tensor that the
engine fills before it. Every kind of step (its phases, the shapes of its batch) has a graph of its own, compared once
with steps operator by operator. Where anything stands in the way, all is put back, and a note says why. No card has
measured it yet.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gantk.errors import told
from gantk.method import Batch
from gantk.training.accelerate.state import PythonState, TensorState

if TYPE_CHECKING:
    from gantk.training.engine import Engine

WARM_UP = 3  # steps of each kind before it is recorded: memory is claimed, kernels are chosen, optimizers make states
TRIED, AHEAD = 2, 1000  # a fresh graph is compared over so many steps, at a point so many steps later, at most
TOLERANCE, MOVED = 0.05, 0.5  # relative differences of losses, and of what a step changes (rounding moves Adam)
Losses = dict[str, Tensor]
After = tuple[Tensor, TensorState]  # the losses of a few steps, and all tensors behind them


class Graph:
    """One recorded call, run again in the same memory by `replay`. Nothing is computed while it is recorded."""

    def __init__(self, stream: torch.cuda.Stream, pool: Any):
        self._stream, self._pool, self._graph = stream, pool, torch.cuda.CUDAGraph()
        self.replay = self._graph.replay

    def record(self, call: Callable[[], Losses]) -> Losses:
        """What `call` gives, in memory that every replay fills."""
        gc.collect()
        gc.disable()  # what is collected meanwhile may have to ask the device, and that breaks the recording off
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


class Capture:
    """Takes an engine's steps: by graph as soon as that is possible. `graph` makes one; None: CUDA's, on a card."""

    def __init__(self, engine: Engine, graph: Callable[[], Graph] | None = None):
        self.engine, self.device = engine, engine.runtime.device
        why = ["several ranks: what they tell each other is not recorded"] if engine.runtime.world > 1 else []
        for name, rule in engine.optimizers.items():
            if not all(group.get("fused") or group.get("capturable") for group in rule.param_groups):
                why.append(f"the optimizer of the {name} ({type(rule).__name__}) keeps its state on the host")
        self.obstacle = next(iter(why), None)  # why no step is recorded
        engine.notes += [f"steps are not recorded: {each}" for each in why[:1]]
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" and not self.obstacle else None
        self._graph = graph or (lambda: Graph(self._stream, self._pool))
        self.forget()

    def __call__(self, kind: Hashable, batch: Batch) -> Losses:
        """One step; what it leaves for later is put into `batch`. `kind`: what beside shapes makes steps differ."""
        if self.obstacle is not None:
            return self.engine.take(batch)
        key = kind, tuple((name, tuple(t.shape), t.dtype, t.stride()) for name, t in batch.items())
        with self._on_stream() if self._stream else nullcontext():
            if key not in self.graphs:
                taken = self._counts[key] = self._counts.get(key, 0) + 1
                if taken <= WARM_UP or not self._record(key, batch):
                    return self.engine.take(batch)
            graph, inputs, inside, losses = self.graphs[key]
            for name, tensor in batch.items():
                inputs[name].copy_(tensor)
            graph.replay()
            batch.update(inside)
            return losses

    def forget(self) -> None:
        """Let go of all graphs and their memory: steps of another size come."""
        self._counts: dict[Hashable, int] = {}
        self.graphs: dict[Hashable, tuple[Graph, Batch, Batch, Losses]] = {}  # with what they read, leave and give
        self._pool = torch.cuda.graph_pool_handle() if self._stream else None  # one no graph is left of cannot serve

    def _record(self, key: Hashable, batch: Batch) -> bool:
        """Record a step and compare two replays, later in the training, with two steps; all is as before afterwards."""
        engine, before, why = self.engine, None, None
        python = PythonState(engine.method, engine.optimizers.values())
        with torch.random.fork_rng([self.device] if self._stream else []):
            try:
                before = _tensors_of(engine)
                inputs = Batch({name: tensor.clone() for name, tensor in batch.items()})
                wanted = self._after(lambda: engine.take(Batch(inputs)), before)
                python.expect_same()
                engine.set_time(0)
                inside, graph = Batch(inputs), self._graph()
                losses = graph.record(lambda: engine.take(inside))
                before.restore()
                why = _difference(wanted, self._after(lambda: graph.replay() or losses, before), before)
            except Exception as error:  # whatever it is: training goes on without
                why = told(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {told(error)}"
            if before is not None:
                before.restore()
        python.restore()
        engine.set_time(0)
        if why is None:
            self.graphs[key] = graph, inputs, inside, losses
            return True
        self.obstacle = f"the step could not be recorded: {why}"
        engine.notes.append(self.obstacle)
        return False

    def _after(self, step: Callable[[], Losses], before: TensorState) -> After:
        """Losses of a few steps later in the training, and the tensors after them, which are put back."""
        self.engine.set_time(max(1, min(AHEAD, (self.engine.steps - self.engine.step) // 2)))
        torch.manual_seed(0)
        losses = torch.stack([torch.stack([loss.float() for loss in step().values()]) for _ in range(TRIED)])
        after = _tensors_of(self.engine)
        before.restore()
        return losses, after

    @contextmanager
    def _on_stream(self):
        """Graphs must not be recorded on the default stream, and what warms up must run where the graph will."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            yield
        torch.cuda.current_stream().wait_stream(self._stream)


def _tensors_of(engine: Engine) -> TensorState:
    """All tensors that an engine's step changes."""
    states = [state for optimizer in engine.optimizers.values() for state in optimizer.state.values()]
    return TensorState(
        {
            "weights": list(engine.method.parameters()),
            "buffers": list(engine.method.buffers()),
            "averages": list(engine.ema.average.values()) if engine.ema else [],
            "optimizers": [value for state in states for value in state.values() if isinstance(value, Tensor)],
        }
    )


def _difference(wanted: After, found: After, before: TensorState) -> str | None:
    """What of replayed steps differs from those taken operator by operator; None where nothing does."""
    near = torch.allclose(found[0], wanted[0], rtol=TOLERANCE, atol=TOLERANCE / 1000, equal_nan=True)
    apart, moved = found[1].distances(wanted[1]), wanted[1].distances(before)
    wrong = ([] if near else ["losses"]) + [k for k in moved if not apart[k] <= MOVED * max(moved[k], 1e-12)]
    what = "of replayed steps differ from those of others: something in it follows what only Python knows"
    return f"the {wrong[0]} {what}" if wrong else None
