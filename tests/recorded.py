"""Checks on a CPU whether a CUDA graph can capture a function: where the host waits, and which
values are frozen.

A graph records operations with their memory and repeats them. Values that Python computes during
the recording stay fixed, and operations that read a value from the device cannot be recorded. A CPU
shows both: a dispatch mode of torch receives every operation, also those of the backward pass.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from gantk.method import Method
from gantk.testing import MethodContract
from gantk.testing.methods import assert_equal
from gantk.training.optim import Linear

aten = torch.ops.aten
VALUES = {aten._local_scalar_dense, aten.is_nonzero, aten.equal}
SHAPES = {
    aten.nonzero,
    aten.masked_select,
    aten._unique2,
    aten.unique_dim,
    aten.unique_consecutive,
    aten.bincount,
}
# Methods that bypass the dispatcher if the tensor is on the host.
METHODS = {
    Tensor.tolist: "tolist",
    Tensor.numpy: "numpy",
    Tensor.cpu: "cpu",
    Tensor.__array__: "numpy",
}


def host_reads(function: Callable[[], Any]) -> list[str]:
    """List the places where `function()` reads from the device or copies to it; [] if a graph can
    capture it.

    Indexing with a mask counts as well (`nonzero`). Python numbers do not: they become arguments of
    kernels, and `Recording` shows where this freezes a value that should change.
    """
    found: list[str] = []
    with _Operations(found.append), _Methods(found.append):
        function()

    return found


class Recording:
    """Records one call of a function, operation by operation. `replay` repeats the operations on
    the same memory.

    Example:

        recording = Recording()
        losses = recording.record(lambda: engine.train_step(batch))
        recording.replay()  # `losses`, the weights and all buffers are now those of one more step

    Random operations draw new numbers from torch's global generator, as in a replayed CUDA graph.

    Raises:
        RuntimeError: the function makes the host wait, so that a capture would fail.
    """

    def record(self, function: Callable[[], Any]) -> Any:
        """Run `function` and record its operations; returns its result."""

        def refuse(read: str) -> None:
            raise RuntimeError(f"a CUDA graph cannot record this: {read}")

        with _Operations(refuse) as operations:
            result = function()

        self._calls = operations.calls
        return result

    @torch.no_grad()
    def replay(self) -> None:
        """Repeat the recorded operations. Their results overwrite those of the recording."""
        for func, args, kwargs, outputs in self._calls:
            for old, new in zip(outputs, _tensors(func(*args, **kwargs)), strict=True):
                if old.data_ptr() != new.data_ptr() or old.stride() != new.stride():
                    old.copy_(new)


class _Operations(TorchDispatchMode):
    """Appends all operations with their arguments and outputs to `calls`, and calls `tell` for each
    host read.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__()
        self.tell = tell
        self.calls: list[tuple[Any, tuple, dict, list[Tensor]]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        why = _reason_to_wait(func.overloadpacket, args, kwargs)
        if why:
            self.tell(f"{func.overloadpacket.__name__} {why}: {_place()}")

        out = func(*args, **kwargs)
        if not func.is_view:  # views share memory: no replay needed
            arguments = tree_map_only(Tensor, Tensor.detach, (args, kwargs))
            outputs = [tensor.detach() for tensor in _tensors(out)]
            self.calls.append((func, *arguments, outputs))

        return out


class _Methods(TorchFunctionMode):
    """Calls `tell` for host reads that bypass the dispatcher."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__()
        self.tell = tell

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in METHODS:
            self.tell(f"{METHODS[func]} copies to the CPU: {_place()}")
        return func(*args, **(kwargs or {}))


def _reason_to_wait(packet: Any, args: tuple, kwargs: dict) -> str | None:
    """Why an operation makes the host wait or copies a number from the host to the device; None if
    it does neither.
    """
    if packet in VALUES:
        return "reads a value"
    if packet is aten.lift_fresh:
        return "copies a number from the CPU"

    if packet in (aten._to_copy, aten.copy_):
        devices = {tensor.device.type for tensor in _tensors(args[:2])}
        if kwargs.get("device"):
            devices.add(torch.device(kwargs["device"]).type)
        return "copies between devices" if len(devices) > 1 else None

    if packet is aten.repeat_interleave:
        unknown_shape = not kwargs.get("output_size") and len(_tensors(args[:2])) == 2
    elif packet in (aten.index, aten.index_put, aten.index_put_):
        indices = _tensors(args[1])
        unknown_shape = any(index.dtype in (torch.bool, torch.uint8) for index in indices)
    else:
        unknown_shape = packet in SHAPES

    return "needs a shape that depends on values" if unknown_shape else None


def _tensors(value: Any) -> list[Tensor]:
    return [part for part in tree_flatten(value)[0] if isinstance(part, Tensor)]


def _place() -> str:
    """The innermost line of the stack outside torch: of gantk, a plugin or a test."""
    own = Path(__file__).name
    inside = Path(torch.__file__).parent
    for frame in reversed(traceback.extract_stack()):
        file = Path(frame.filename)
        if inside not in file.parents and file.name != own:
            return f"{file.name}:{frame.lineno} in {frame.name}"
    raise RuntimeError("all lines of the stack belong to torch")


class RecordedMethodContract(MethodContract):
    """The contract of a method whose steps a CUDA graph can capture."""

    captures: ClassVar[bool] = True  # False if a step reads values from the device

    def test_a_recorded_step_is_the_step(self, monkeypatch):
        """A step that is recorded once and replayed, like a CUDA graph, gives bit-identical
        weights.
        """
        d = min(self.dims)  # recording does not depend on the dimensions
        if not self.captures:
            pytest.skip("reads values from the device")

        monkeypatch.setattr("gantk.training.cuda_graph.WARM_UP", 1)
        steps = _steps_for_each_kind(self.build(d), times=4)
        plain = self.engine(self.build(d), steps=steps, schedule=Linear)
        replayed = self.engine(self.build(d), steps=steps, schedule=Linear, graph=Recording)
        if replayed.capture.obstacle is not None:
            pytest.skip(replayed.capture.obstacle)  # the optimizer cannot be captured

        self.train(plain, until=steps)
        self.train(replayed, until=steps)
        assert replayed.capture.obstacle is None, replayed.capture.obstacle
        assert replayed.capture.graphs, "no kind of step ran often enough to be recorded"
        assert_equal(replayed.weights(), plain.weights())


def _steps_for_each_kind(method: Method, times: int) -> int:
    """The fewest steps of a training, up to 1000, in which each stage takes each kind of step, as its
    phases are due, so many times.
    """
    least = times * math.lcm(*(phase.every for phase in method.phases()))
    stages = len(method.stages(1000))
    for steps in range(least * stages, 1000):
        found = [stage.steps for stage in method.stages(steps)]
        if len(found) == stages and min(found) >= least:
            return steps
    return 1000
