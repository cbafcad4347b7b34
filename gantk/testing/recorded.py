"""What a CUDA graph would make of a function, found out on a CPU: where the host waits, and what it would freeze.

A graph records which operations run on which memory, and runs them again. Whatever Python worked out meanwhile stays as
it was, and whatever asks the device for a value cannot be recorded at all. Both can be seen on any machine: torch shows
every operation, those of the backward pass too, to a dispatch mode.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

aten = torch.ops.aten
# The host waits for a value or for a shape that depends on values, or hands over a number that it made.
READS = {
    aten._local_scalar_dense: "reads a value",
    aten.is_nonzero: "reads a value",
    aten.equal: "reads a value",
    aten.nonzero: "needs a shape that depends on values",
    aten.masked_select: "needs a shape that depends on values",
    aten._unique2: "needs a shape that depends on values",
    aten.unique_dim: "needs a shape that depends on values",
    aten.unique_consecutive: "needs a shape that depends on values",
    aten.repeat_interleave: "needs a shape that depends on values",
    aten.bincount: "needs a shape that depends on values",
    aten.lift_fresh: "copies a number from the host",
}
# These go past the dispatcher where the tensor is on the host already.
METHODS = {Tensor.tolist: "tolist", Tensor.numpy: "numpy", Tensor.cpu: "cpu", Tensor.__array__: "numpy"}


class Watch(TorchDispatchMode):
    """Notes every host read while it is entered: `found` has a line for each, with the place in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if read := _read(func, args, kwargs):
            self.found.append(read)
        return func(*args, **kwargs)


class _Methods(TorchFunctionMode):
    """Notes the calls that never reach the dispatcher."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in METHODS:
            self.found.append(f"{METHODS[func]} copies to the host: {_place()}")
        return func(*args, **(kwargs or {}))


def _read(func: Any, args: tuple, kwargs: dict) -> str | None:
    """What a call makes the host wait for, and where; None where nothing."""
    packet = func.overloadpacket
    why = READS.get(packet)
    if packet is aten.repeat_interleave and (kwargs.get("output_size") or not isinstance((*args, 0)[1], Tensor)):
        why = None  # the shape is known
    if packet in (aten.index, aten.index_put, aten.index_put_):
        masks = [i for i in args[1] if isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8)]
        why = "needs a shape that depends on values" if masks else None
    if packet in (aten._to_copy, aten.copy_):
        devices = {t.device.type for t in args[:2] if isinstance(t, Tensor)}
        devices |= {torch.device(kwargs["device"]).type} if kwargs.get("device") else set()
        why = "copies between devices" if len(devices) > 1 else None
    return why and f"{packet.__name__} {why}: {_place()}"


def host_reads(function: Callable[[], Any]) -> list[str]:
    """Every place where `function()` makes the host wait for the device, or feeds it; [] where a graph could hold it.

    Indexing with a mask counts too (`nonzero`). Numbers that Python holds anyway do not: they become part of a kernel's
    arguments, and `Recording` shows where that freezes what should change.
    """
    with Watch() as watch, _Methods(watch.found):
        function()
    return watch.found


class Recording:
    """One call of a function, recorded operation by operation; `replay` runs them again on the same memory.

        recording = Recording()
        losses = recording.record(lambda: engine.train_step(batch))
        recording.replay()   # `losses`, the weights and all buffers are now those of one more step

    Random operations draw anew from torch's global generator, as they do when a CUDA graph is replayed. Raises
    RuntimeError where the function makes the host wait, since a capture would fail there.
    """

    def __init__(self) -> None:
        self._calls: list[tuple[Any, tuple, dict, list[Tensor]]] = []

    def record(self, function: Callable[[], Any]) -> Any:
        """What `function` gives; it runs as usual meanwhile."""
        with _Tape(self._calls):
            return function()

    @torch.no_grad()
    def replay(self) -> None:
        """Run what was recorded, into the memory of the recording."""
        for func, args, kwargs, outputs in self._calls:
            again = _tensors(func(*args, **kwargs))
            for old, new in zip(outputs, again, strict=True):
                if old.data_ptr() != new.data_ptr() or old.stride() != new.stride():
                    old.copy_(new)


class _Tape(TorchDispatchMode):
    """Writes the operations down; views and operations in place need no copy when they run again."""

    def __init__(self, calls: list) -> None:
        super().__init__()
        self.calls = calls

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if read := _read(func, args, kwargs):
            raise RuntimeError(f"a graph cannot hold this: {read}")
        out = func(*args, **kwargs)
        if _is_view(func):
            return out
        held = tree_map(_kept, (args, kwargs))
        self.calls.append((func, *held, [t.detach() for t in _tensors(out)]))
        return out


def _is_view(func: Any) -> bool:
    """Whether the outputs only look at the inputs' memory."""
    returns = func._schema.returns
    return bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)


def _kept(value: Any) -> Any:
    """The same memory under a name that autograd does not know."""
    return value.detach() if isinstance(value, Tensor) else value


def _tensors(value: Any) -> list[Tensor]:
    return [part for part in tree_flatten(value)[0] if isinstance(part, Tensor)]


def _place() -> str:
    """The innermost line of gantk, of a plugin or of a test that led here."""
    own, inside = Path(__file__).name, Path(torch.__file__).parent
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if inside not in path.parents and path.name != own:
            return f"{path.name}:{frame.lineno} in {frame.name}"
    return "?"
