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
from torch.utils._pytree import tree_flatten, tree_map_only

aten = torch.ops.aten
VALUES = {aten._local_scalar_dense, aten.is_nonzero, aten.equal}
SHAPES = {aten.nonzero, aten.masked_select, aten._unique2, aten.unique_dim, aten.unique_consecutive, aten.bincount}
# These go past the dispatcher where the tensor is on the host already.
METHODS = {Tensor.tolist: "tolist", Tensor.numpy: "numpy", Tensor.cpu: "cpu", Tensor.__array__: "numpy"}


def host_reads(function: Callable[[], Any]) -> list[str]:
    """Every place where `function()` makes the host wait for the device, or feeds it; [] where a graph could hold it.

    Indexing with a mask counts too (`nonzero`). Numbers that Python holds anyway do not: they become part of a kernel's
    arguments, and `Recording` shows where that freezes what should change.
    """
    found: list[str] = []
    with _Operations(found.append), _Methods(found.append):
        function()
    return found


class Recording:
    """One call of a function, recorded operation by operation; `replay` runs them again on the same memory.

        recording = Recording()
        losses = recording.record(lambda: engine.train_step(batch))
        recording.replay()   # `losses`, the weights and all buffers are now those of one more step

    Random operations draw anew from torch's global generator, as they do when a CUDA graph is replayed. Raises
    RuntimeError where the function makes the host wait, since a capture would fail there.
    """

    def record(self, function: Callable[[], Any]) -> Any:
        """What `function` gives; it runs as usual meanwhile."""

        def refuse(read: str) -> None:
            raise RuntimeError(f"a graph cannot hold this: {read}")

        with _Operations(refuse) as operations:
            result = function()
        self._calls = operations.calls
        return result

    @torch.no_grad()
    def replay(self) -> None:
        """Run what was recorded, into the memory of the recording."""
        for func, args, kwargs, outputs in self._calls:
            for old, new in zip(outputs, _tensors(func(*args, **kwargs)), strict=True):
                if old.data_ptr() != new.data_ptr() or old.stride() != new.stride():
                    old.copy_(new)


class _Operations(TorchDispatchMode):
    """Keeps all operations with their arguments and outputs in `calls`, and tells `tell` of each host read."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__()
        self.tell = tell
        self.calls: list[tuple[Any, tuple, dict, list[Tensor]]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if why := _waits(func.overloadpacket, args, kwargs):
            self.tell(f"{func.overloadpacket.__name__} {why}: {_place()}")
        out = func(*args, **kwargs)
        returns = func._schema.returns
        view = bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)
        if not view:  # views need no copy when they run again
            known = tree_map_only(Tensor, Tensor.detach, (args, kwargs))
            self.calls.append((func, *known, [t.detach() for t in _tensors(out)]))
        return out


class _Methods(TorchFunctionMode):
    """Tells `tell` of the calls that never reach the dispatcher."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__()
        self.tell = tell

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in METHODS:
            self.tell(f"{METHODS[func]} copies to the host: {_place()}")
        return func(*args, **(kwargs or {}))


def _waits(packet: Any, args: tuple, kwargs: dict) -> str | None:
    """Why the host waits for an operation, or hands over a number that it made; None where it does neither."""
    if packet in VALUES:
        return "reads a value"
    if packet is aten.lift_fresh:
        return "copies a number from the host"
    if packet in (aten._to_copy, aten.copy_):
        devices = {t.device.type for t in args[:2] if isinstance(t, Tensor)}
        devices |= {torch.device(kwargs["device"]).type} if kwargs.get("device") else set()
        return "copies between devices" if len(devices) > 1 else None
    shape = packet in SHAPES
    if packet is aten.repeat_interleave:
        shape = not kwargs.get("output_size") and isinstance((*args, 0)[1], Tensor)
    if packet in (aten.index, aten.index_put, aten.index_put_):
        shape = any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1])
    return "needs a shape that depends on values" if shape else None


def _tensors(value: Any) -> list[Tensor]:
    return [part for part in tree_flatten(value)[0] if isinstance(part, Tensor)]


def _place() -> str:
    """The innermost line of gantk, of a plugin or of a test that led here."""
    own, inside = Path(__file__).name, Path(torch.__file__).parent
    frames = [frame for frame in traceback.extract_stack() if inside not in Path(frame.filename).parents]
    frame = next(frame for frame in reversed(frames) if Path(frame.filename).name != own)
    return f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}"
