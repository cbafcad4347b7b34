"""The gradients of several processes become their mean: in buckets, while the backward pass still makes others."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gantk.errors import GantkError

LARGEST = 25 * 2**20  # bytes of a bucket, at most
SMALLEST = 2**20  # below it a message costs its latency rather than its bytes
PARTS = 4  # buckets that a phase has at least, where they do not become smaller than that
ALIGNED = 16  # bytes at which every gradient begins: kernels read four numbers at once


class Reduction:
    """Averages the gradients of one phase's parameters over all ranks.

        with reduction.during():
            loss.backward()

    Buckets hold the parameters from the last to the first, about the order in which a backward pass is done with them.
    With `overlap` a bucket is sent as soon as all its gradients are there, and the others at the end of the `with`;
    without it there is one message. Every rank sends all buckets in the same order, whatever took part in its step.
    What took part on no rank keeps no gradient: with one of 0 its optimizer would count a step.

    Not DistributedDataParallel: several forward passes before one backward pass fail in it where a module has buffers,
    and a phase's loss may run any network any number of times.

    Args:
        parameters: what is reduced; their shapes and memory layouts no longer change.
        world: the number of ranks; 1: nothing is done.
        group: the process group that carries gradients; None: the default one.
        overlap: send while the backward pass goes on.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], world: int, group: Any = None, overlap: bool = True):
        self.parameters = list(parameters)
        self.world, self.group, self.overlap = world, group, overlap
        self._buckets: list[_Bucket] = []
        self._of: dict[nn.Parameter, _Bucket] = {}
        self._sent = 0  # buckets
        self._armed = False
        self._known: dict[tuple[bool, ...], tuple[list[bool], Tensor]] = {}  # what is missing here -> what is taken
        self._differs: Tensor | None = None  # on the device: whether another rank changed what takes part
        if world > 1 and overlap:
            arrived = weakref.WeakMethod(self._arrived)  # a hook that held the reduction would keep all of it for ever
            for parameter in self.parameters:
                parameter.register_post_accumulate_grad_hook(lambda p: method(p) if (method := arrived()) else None)

    @property
    def bytes(self) -> int:
        """What one reduction hands over, in bytes."""
        return sum(parameter.nbytes for parameter in self.parameters)

    @contextmanager
    def during(self, last: bool = True) -> Iterator[None]:
        """Around a backward pass; only the `last` of several microbatches is reduced."""
        if self.world == 1 or not last or not self.parameters:
            yield
            return
        self._begin()
        try:
            yield
        finally:
            self._armed = False
        self._finish()

    def check(self) -> None:
        """At a log point: GantkError where ranks no longer agree on which weights take part in a step."""
        if self._differs is not None and bool(self._differs):
            raise GantkError(
                "which weights take part in a step changed on some ranks and not on others, so that they no longer "
                "train the same networks. Train this method with one process."
            )

    def _begin(self) -> None:
        if not self._buckets:
            self._buckets = list(_buckets(self.parameters, self.overlap))
            self._of = {parameter: bucket for bucket in self._buckets for parameter in bucket.parameters}
        for bucket in self._buckets:
            bucket.begin()
        self._sent, self._armed = 0, True

    @torch.no_grad()
    def _arrived(self, parameter: nn.Parameter) -> None:
        """The gradient of a parameter is complete: once in a backward pass, however often its network ran."""
        if not self._armed:
            return
        bucket = self._of[parameter]
        if bucket.work is not None:  # a backward pass within the backward pass
            raise GantkError(
                "a gradient came after it had been sent to the other ranks: the backward pass of this method makes it "
                "in several parts. Set train.overlap = false."
            )
        bucket.awaited.discard(parameter)
        while self._sent < len(self._buckets) and not self._buckets[self._sent].awaited:
            self._send()

    def _send(self) -> None:
        self._buckets[self._sent].send(self.group)
        self._sent += 1

    @torch.no_grad()
    def _finish(self) -> None:
        while self._sent < len(self._buckets):
            self._send()
        for bucket in self._buckets:
            bucket.receive(self.world)
        for (parameter, gradient), takes in zip(self._received(), self._taken(), strict=True):
            parameter.grad = gradient if takes else None

    def _received(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        for bucket in self._buckets:
            yield from zip(bucket.parameters, bucket.gradients, strict=True)

    def _taken(self) -> list[bool]:
        """Which gradients exist on some rank, in the order of the buckets.

        On a GPU the answer is waited for once for each set of parameters that is missing here, and looked over at the
        next log point after that.
        """
        missing = tuple(parameter.grad is None for bucket in self._buckets for parameter in bucket.parameters)
        if not any(missing):
            return [True] * len(missing)
        present = torch.cat([bucket.present for bucket in self._buckets]) > 0
        if present.device.type == "cpu":
            return present.tolist()
        if missing not in self._known:
            self._known[missing] = present.tolist(), present
        taken, expected = self._known[missing]
        differs = (present != expected).any()
        self._differs = differs if self._differs is None else self._differs | differs
        return taken


class _Bucket:
    """Some gradients side by side in one piece of memory, and for each a number that says whether it exists."""

    def __init__(self, parameters: list[nn.Parameter]):
        self.parameters = parameters
        first = parameters[0]
        step = ALIGNED // first.element_size()
        starts, end = [], 0
        for parameter in parameters:
            starts.append(end)
            end += -(-parameter.numel() // step) * step
        self.flat = first.detach().new_zeros(end + len(parameters))
        self.present = self.flat[end:]
        # in each parameter's own memory layout: optimizers and copies walk both in storage order
        self.gradients = [
            self.flat.as_strided(parameter.shape, torch.empty_like(parameter).stride(), start)
            for parameter, start in zip(parameters, starts, strict=True)
        ]
        self.awaited: set[nn.Parameter] = set()
        self.work: Any = None

    def begin(self) -> None:
        """Await all gradients again."""
        self.awaited, self.work = set(self.parameters), None

    def send(self, group: Any) -> None:
        """Copy the gradients that are there and start the message."""
        there = [number for number, parameter in enumerate(self.parameters) if parameter.grad is not None]
        self.present.fill_(1.0)
        if len(there) < len(self.parameters):
            for number in set(range(len(self.parameters))) - set(there):
                self.gradients[number].zero_()
                self.present[number].zero_()
        if there:
            torch._foreach_copy_([self.gradients[n] for n in there], [self.parameters[n].grad for n in there])
        self.work = dist.all_reduce(self.flat, group=group, async_op=True)

    def receive(self, world: int) -> None:
        """The mean, once the message has gone round; on a GPU the device waits, not the host."""
        self.work.wait()
        self.flat /= world


def _buckets(parameters: list[nn.Parameter], overlap: bool) -> Iterator[_Bucket]:
    """The parameters from last to first, by type of number; one bucket each where nothing is to be overlapped."""
    room = max(SMALLEST, min(LARGEST, sum(p.nbytes for p in parameters) // PARTS))
    kinds: dict[tuple, list[nn.Parameter]] = {}
    for parameter in reversed(parameters):
        kinds.setdefault((parameter.dtype, parameter.device), []).append(parameter)
    for members in kinds.values():
        held, size = [], 0
        for parameter in members:
            held.append(parameter)
            size += parameter.nbytes
            if overlap and size >= room:
                yield _Bucket(held)
                held, size = [], 0
        if held:
            yield _Bucket(held)
