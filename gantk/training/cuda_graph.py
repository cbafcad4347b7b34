"""Records a whole training step as one CUDA graph: one launch by the host per step, instead of one
per operator.

A graph repeats the recorded operations on the same memory. So each batch is copied into the
recorded batch's memory, and values that change between steps (learning rates, `progress`, the
average's share) are tensors that the engine fills before a replay. Every kind of step (its phases,
the shapes of its batch) has its own graph, compared once with steps run operator by operator. If
recording fails, all state is restored, and a note gives the reason.
"""

from __future__ import annotations

import copy
import gc
import pickle
import random
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gantk.errors import one_line
from gantk.method import Batch, Losses

# steps of each kind before recording: allocates memory, chooses kernels, creates optimizer states
WARM_UP = 3
TESTED_STEPS = 2  # steps over which a new graph is compared with uncaptured ones
MAX_STEPS_AHEAD = 1000  # steps later in the training at which it is tested too
LOSS_TOLERANCE = 0.05  # relative difference of losses
CHANGE_TOLERANCE = 0.5  # relative difference of a step's changes; rounding affects Adam
PLAIN = (int, float, complex, str, bytes, type(None))  # values that Python holds
After = tuple[Tensor, "TensorState"]  # the losses of a few steps, and all tensors after them


class Graph:
    """One recorded call; `replay` runs it again in the same memory. Recording itself computes
    nothing.
    """

    def __init__(self, stream: Any, pool: Any):
        self._stream = stream
        self._pool = pool
        self._graph = torch.cuda.CUDAGraph()
        self.replay = self._graph.replay

    def record(self, call: Callable[[], Losses]) -> Losses:
        """Record `call` and return its result, whose memory every replay fills."""
        gc.collect()
        gc.disable()  # collecting an object may call the device, which aborts the recording
        # for data threads
        options = {"pool": self._pool, "stream": self._stream, "capture_error_mode": "thread_local"}
        try:
            with torch.cuda.graph(self._graph, **options):
                return call()
        except BaseException:
            # Reset the generator: after an aborted recording it refuses to draw outside of one.
            generator = torch.cuda.default_generators[self._stream.device_index]
            generator.graphsafe_set_state(generator.clone_state())
            raise
        finally:
            gc.enable()


class Capture:
    """Runs the steps of an `Engine`, by graph as soon as possible. `graph` creates a graph object; None: a
    CUDA graph.
    """

    def __init__(self, engine: Any, graph: Callable[[], Graph] | None):
        self.engine = engine
        self.device = engine.runtime.device
        self.obstacle: str | None = None  # the reason why no step is recorded
        for name, rule in engine.optimizers.items():
            groups = rule.param_groups
            if not all(group.get("fused") or group.get("capturable") for group in groups):
                kind = type(rule).__name__
                self.obstacle = (
                    f"the optimizer of phase '{name}' ({kind}) keeps its state on the CPU"
                )
        if engine.runtime.world > 1:
            self.obstacle = "the communication of several ranks cannot be recorded"
        if self.obstacle:
            engine.notes.append(f"train.fast.cuda_graph: steps are not recorded: {self.obstacle}")
        self._stream: torch.cuda.Stream | None = None
        if self.device.type == "cuda" and not self.obstacle:
            self._stream = torch.cuda.Stream(self.device)

        self._make_graph = graph or (lambda: Graph(self._stream, self._pool))
        self.forget()

    def __call__(self, kind: Hashable, batch: Batch) -> Losses:
        """Run one step and return its losses; adds its images to `batch`. Equal `kind` and shapes
        share a graph.
        """
        if self.obstacle is not None:
            return self.engine.take(batch)

        key = kind, tuple((name, tuple(t.shape), t.dtype, t.stride()) for name, t in batch.items())
        with self._on_stream():
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
        """Delete all graphs and free their memory, before steps of another size."""
        self._counts: dict[Hashable, int] = {}
        # key: graph, inputs, batch, losses
        self.graphs: dict[Hashable, tuple[Graph, Batch, Batch, Losses]] = {}
        # a pool without graphs cannot be reused
        self._pool = torch.cuda.graph_pool_handle() if self._stream else None

    def _record(self, key: Hashable, batch: Batch) -> bool:
        """Record a step, and compare two replays with two plain steps; returns success. Restores
        all state.
        """
        engine = self.engine
        before = None
        why = None
        python = PythonState(engine.method, engine.optimizers.values())
        with torch.random.fork_rng([self.device] if self._stream else []):
            try:
                before = _tensors_of(engine)
                inputs = Batch({name: tensor.clone() for name, tensor in batch.items()})
                wanted = self._after(lambda: engine.take(Batch(inputs)), before)
                python.expect_same()
                engine.set_time(0)
                inside = Batch(inputs)
                graph = self._make_graph()
                losses = graph.record(lambda: engine.take(inside))
                before.restore()
                why = _difference(
                    wanted, self._after(lambda: graph.replay() or losses, before), before
                )
            except Exception as error:  # any error: training continues without graphs
                why = f"{type(error).__name__}: {one_line(error)}"

            if before is not None:
                before.restore()

        python.restore()
        engine.set_time(0)
        if why is None:
            self.graphs[key] = graph, inputs, inside, losses
            return True

        self.obstacle = f"train.fast.cuda_graph: the step could not be recorded: {why}"
        engine.notes.append(self.obstacle)
        return False

    def _after(self, step: Callable[[], Losses], before: TensorState) -> After:
        """Run a few steps as if later in the training; returns losses and tensors after them, and
        restores `before`.
        """
        self.engine.set_time(
            max(1, min(MAX_STEPS_AHEAD, (self.engine.steps - self.engine.step) // 2))
        )
        torch.manual_seed(0)
        losses = torch.stack(
            [torch.stack([loss.float() for loss in step().values()]) for _ in range(TESTED_STEPS)]
        )
        after = _tensors_of(self.engine)
        before.restore()
        return losses, after

    @contextmanager
    def _on_stream(self):
        """Run on the capture stream: graphs cannot be recorded on the default stream, and warm-up
        must use the same.
        """
        if self._stream is None:
            yield
            return

        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            yield

        torch.cuda.current_stream().wait_stream(self._stream)


def _tensors_of(engine: Any) -> TensorState:
    """All tensors that an engine's step changes."""
    states = [
        state for optimizer in engine.optimizers.values() for state in optimizer.state.values()
    ]
    return TensorState(
        {
            "weights": list(engine.method.parameters()),
            "buffers": list(engine.method.buffers()),
            "averages": list(engine.ema.average.values()) if engine.ema else [],
            "optimizers": [
                value for state in states for value in state.values() if isinstance(value, Tensor)
            ],
        }
    )


def _difference(wanted: After, found: After, before: TensorState) -> str | None:
    """Describe how replayed steps differ from those run operator by operator; None where they
    agree.
    """
    near = torch.allclose(
        found[0], wanted[0], rtol=LOSS_TOLERANCE, atol=LOSS_TOLERANCE / 1000, equal_nan=True
    )
    apart = found[1].distances(wanted[1])
    moved = wanted[1].distances(before)
    wrong = ([] if near else ["losses"]) + [
        k for k in moved if not apart[k] <= CHANGE_TOLERANCE * max(moved[k], 1e-12)
    ]
    what = (
        "differ between replayed and normal steps; the step depends on a value that only"
        " Python holds"
    )
    return f"the {wrong[0]} {what}" if wrong else None


# ---- what a step may change


class TensorState:
    """Copies of tensors, by kind, made at construction; `restore` copies them back into the same
    tensors.
    """

    def __init__(self, kinds: dict[str, list[Tensor]]):
        self.kinds = {
            kind: [(tensor.detach(), tensor.detach().clone()) for tensor in tensors]
            for kind, tensors in kinds.items()
        }

    def restore(self) -> None:
        """Copy the saved values back into the tensors."""
        for pairs in self.kinds.values():
            for tensor, value in pairs:
                tensor.copy_(value)

    def distances(self, other: TensorState) -> dict[str, float]:
        """The distance of two states for each kind: the L2 norm of all differences."""
        found = {}
        for kind, pairs in self.kinds.items():
            both = zip(pairs, other.kinds[kind], strict=True)
            squares = [
                (mine.float() - theirs.float()).square().sum() for (_, mine), (_, theirs) in both
            ]
            found[kind] = float(torch.stack(squares).sum().sqrt()) if squares else 0.0

        return found


class PythonState:
    """Copies of numbers and texts, and of containers of them, among the attributes of a module, its
    parts and optimizers; and of the random states of Python and NumPy. A CUDA graph would not update
    them.
    """

    def __init__(self, module: nn.Module, optimizers: Iterable[torch.optim.Optimizer]):
        self._owners = [
            *module.named_modules(),
            *((f"optimizer {type(o).__name__}", o) for o in optimizers),
        ]
        self._before = copy.deepcopy(dict(self._plain()))
        self._random = (random.getstate(), np.random.get_state())

    def expect_same(self) -> None:
        """Raise a ValueError that names what a step changed, if it changed anything."""
        now = dict(self._plain())
        before = self._before
        missing = object()
        found = [
            place for place in before | now if before.get(place, missing) != now.get(place, missing)
        ]
        names = [
            ".".join(filter(None, (self._owners[owner][0], attribute)))
            for owner, attribute in found
        ]
        drawn = (random.getstate(), np.random.get_state())
        if pickle.dumps(drawn) != pickle.dumps(self._random):
            names.append("the state of `random` or of `numpy.random`")
        if names:
            raise ValueError(
                f"every step changes {', '.join(names)} in Python; keep such values in"
                " buffers, as tensors"
            )

    def restore(self) -> None:
        """Set attributes and random states to their saved values."""
        for owner, attribute in [place for place, _ in self._plain() if place not in self._before]:
            delattr(self._owners[owner][1], attribute)

        for (owner, attribute), value in self._before.items():
            attributes = vars(self._owners[owner][1])
            value = copy.deepcopy(value)
            if isinstance(held := attributes.get(attribute), list):  # others may hold the same list
                held[:] = value
            elif held != value:
                attributes[attribute] = value

        random.setstate(self._random[0])
        np.random.set_state(self._random[1])

    def _plain(self) -> Iterator[tuple[tuple[int, str], Any]]:
        for number, (_, owner) in enumerate(self._owners):
            for attribute, value in vars(owner).items():
                if attribute != "training" and _is_plain(value):
                    yield (number, attribute), value


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_plain, value))
    return isinstance(value, PLAIN)
