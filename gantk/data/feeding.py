"""Batches on the device at the step that needs them, copied there while the step before is at work."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from gantk.data.batches import Batches
from gantk.machine.runtime import Runtime
from gantk.method import Batch
from gantk.nets.layout import CHANNELS_LAST


class Lane(Protocol):
    """A way to the device beside the one that computes."""

    def room(self, shape: tuple[int, ...], dtype: torch.dtype, memory_format: torch.memory_format) -> Tensor:
        """Host memory that the device can fetch by itself."""

    def send(self, batch: Batch) -> tuple[Batch, object]:
        """Begin to copy, without a wait: the batch on the device, and what to `receive` it by."""

    def receive(self, batch: Batch, sent: object) -> None:
        """What is computed from now on waits for the copy, on the device."""


class Feed:
    """The batches of a training on its device, in its memory format.

    On CUDA with `pin`, readers write into pinned host memory; a stream of its own copies a batch as soon as it is read,
    mostly while the step before it computes. Elsewhere readers write what the step uses: nothing is copied.

    Args:
        batches: what to feed; from now on they are made in memory that suits the device.
        runtime: where to.
        dims: 2 or 3.
        pin: whether copies may overlap the step.
        lane: takes the place of CUDA's; None: `CudaLane` on CUDA, else none.
    """

    def __init__(self, batches: Batches, runtime: Runtime, dims: int, pin: bool = True, lane: Lane | None = None):
        self.batches, self.runtime, self.dims = batches, runtime, dims
        cuda = runtime.device.type == "cuda"
        self.lane = (lane or (CudaLane(runtime.device) if cuda else None)) if pin else None
        self._sent: tuple[int, Batch, object] | None = None  # the step whose copy was begun early
        batches.room = self._room

    def at(self, step: int) -> Batch:
        """That step's batch; what went wrong while it was read is raised here. Never waits for the device."""
        if self.lane is None:
            return Batch({name: self.runtime.place(x, self.dims) for name, x in self.batches.at(step).items()})
        (_, batch, sent), self._sent = self._begun(step), None
        if self.batches.ready(step + 1):
            self._sent = self._begun(step + 1)
        self.lane.receive(batch, sent)
        return batch

    def close(self) -> None:
        """Let go of what was read and copied ahead; `at` starts again."""
        self._sent = None
        self.batches.close()

    def _begun(self, step: int) -> tuple[int, Batch, object]:
        if self._sent is not None and self._sent[0] == step:
            return self._sent
        return step, *self.lane.send(self.batches.at(step))

    def _room(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        inside = self.runtime.channels_last and len(shape) == self.dims + 2
        memory_format = CHANNELS_LAST[self.dims] if inside else torch.contiguous_format
        if self.lane is None:
            return torch.empty(shape, dtype=dtype, memory_format=memory_format)
        return self.lane.room(shape, dtype, memory_format)


class CudaLane:
    """Pinned memory and a stream beside the current one."""

    def __init__(self, device: torch.device):
        self.device, self._stream = device, torch.cuda.Stream(device)

    def room(self, shape: tuple[int, ...], dtype: torch.dtype, memory_format: torch.memory_format) -> Tensor:
        """Pinned memory; torch keeps it and hands it out again once the copy from it is done."""
        return torch.empty(shape, dtype=dtype, pin_memory=True, memory_format=memory_format)

    def send(self, batch: Batch) -> tuple[Batch, torch.cuda.Event]:
        """Copy on the other stream, in the memory format that the batch has."""
        with torch.cuda.stream(self._stream):
            there = Batch({name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()})
            return there, self._stream.record_event()

    def receive(self, batch: Batch, sent: torch.cuda.Event) -> None:
        """The current stream waits, and owns the memory until it is done with it."""
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(sent)
        for tensor in batch.values():
            tensor.record_stream(stream)
