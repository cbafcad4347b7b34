"""Training over several processes: connecting them, comparing settings, averaging gradients, and
lost ranks.
"""

from __future__ import annotations

import atexit
import os
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import copy_context
from datetime import timedelta
from threading import Timer
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from gantk.errors import FailedOnOtherRank, GantkError, UserError, count_noun, one_line
from gantk.machine.launch import Launch
from gantk.terminal import warn

T = TypeVar("T")
# for all ranks to connect: machines load torch at different speeds
CONNECT_TIMEOUT = timedelta(minutes=10)
SILENT_SECONDS = 2.0  # of waiting for other processes until a line says so
# for ranks that wait while another one writes or scores, however long that takes
WAIT_TIMEOUT = timedelta(days=30)
ALIGNED = 16  # alignment in bytes of every gradient in a message: kernels read four numbers at once
# in torch's error messages
CONNECTION_ERRORS = "connection|broken pipe|timed out|timeout|socket|gloo|nccl|peer"


class Ranks:
    """This process's connections to the other ranks, made by `meet`: one group over the CPUs
    (gloo), for objects and waiting, which never blocks a device, and one for gradients (NCCL
    between GPUs).
    """

    def __init__(self, process: Launch):
        self.rank = process.rank
        self.world = process.world
        self.names = self.gather(f"{socket.gethostname()}, process {os.getpid()}")
        self.gradients: Any = None
        self.broken = False  # whether a connection to another rank was lost

    def connect(self, device: torch.device) -> None:
        """Create the group for gradients; UserError if the ranks' devices do not fit together."""
        card = None
        if device.type == "cuda":  # identifies the GPU across machines
            uuid = torch.cuda.get_device_properties(device).uuid
            card = f"{socket.gethostname()} {uuid}"

        devices = self.gather((device.type, card))

        def expect_fitting() -> None:
            for rank, (kind, card) in enumerate(devices):
                if kind != devices[0][0]:
                    raise UserError(
                        f"rank 0 uses {devices[0][0]}, but rank {rank} ({self.names[rank]})"
                        f" uses {kind}",
                        where="--device",
                        remedy="give every rank a GPU, or start all ranks with --device cpu",
                    )

                if card is not None and (kind, card) in devices[:rank]:
                    raise UserError(
                        f"ranks {devices.index((kind, card))} and {rank} ({self.names[rank]}) would"
                        " share one GPU",
                        where="--device",
                        remedy="start at most one process per GPU on each machine, and omit --device",
                    )

        self.sync_errors(expect_fitting)
        self.gradients = dist.new_group(backend="nccl" if device.type == "cuda" else "gloo")

    def gather(self, value: T) -> list[T]:
        """Return the `value` of every rank, in order of ranks."""
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def collect(self, value: T) -> list[T] | None:
        """Return the `value` of every rank, in order, on rank 0; None on the others."""
        values: list[Any] | None = [None] * self.world if self.rank == 0 else None
        dist.gather_object(value, values)
        return values

    def sync_errors(self, work: Callable[[], T]) -> T:
        """`work()` on every rank. A GantkError on one stops all; the first to fail raises it,
        others Elsewhere.
        """
        try:
            result = work()
        except GantkError as error:
            failure = self._first_failure(error.exit_code)
            if failure is None or failure[0] == self.rank:
                raise
            raise FailedOnOtherRank(*failure) from None

        failure = self._first_failure(None)
        if failure is not None:
            raise FailedOnOtherRank(*failure)

        return result

    def _first_failure(self, code: int | None) -> tuple[int, int] | None:
        """The first rank that failed, and its exit code, by every rank's `code`; None: none did."""
        codes = self.gather(code)
        return next(((rank, code) for rank, code in enumerate(codes) if code is not None), None)

    def agree(self, about: Mapping[str, Any]) -> None:
        """UserError if a rank was started with settings (`about`) that differ from rank 0's."""
        found = self.gather(dict(about))

        def expect_alike() -> None:
            for rank, other in enumerate(found):
                for key in sorted(found[0].keys() | other.keys()):
                    if found[0].get(key) != other.get(key):
                        its, that = (one_line(str(each.get(key)), 80) for each in (other, found[0]))
                        raise UserError(
                            f"rank {rank} ({self.names[rank]}) and rank 0 were started differently:"
                            f" its {key} is {its}, that of rank 0 is {that}",
                            remedy="start all ranks with the same recipe, data, settings and versions",
                        )

        self.sync_errors(expect_alike)

    @contextmanager
    def watch_connection(self, advice: Callable[[], str]) -> Iterator[None]:
        """Context manager: turns a lost connection to a rank into a GantkError with `advice`."""
        try:
            yield
        except RuntimeError as error:
            if not isinstance(error, dist.DistError) and not re.search(
                CONNECTION_ERRORS, str(error), re.IGNORECASE
            ):
                raise

            self.broken = True
            # without torch's prefix
            said = re.sub(r"^\[\S*?\]\s*", "", str(error).strip().splitlines()[0]).rstrip(".")
            raise GantkError(
                f"rank {self.rank} ({self.names[self.rank]}) lost the connection: another rank"
                f" stopped or cannot be reached ({one_line(said, 120)}). {advice()}"
            ) from error


class Reduction:
    """Averages the gradients of one phase's parameters over the ranks of a group, with one message
    per number type.

    A parameter with a gradient on any rank gets the average on all; one without any keeps None: a
    gradient of 0 would count as an optimizer step. Shapes and memory layouts of the parameters must
    not change. One message after the backward pass is as fast as several during it (1.70 and 1.66
    times one rank's images/s on two). Not DistributedDataParallel: several forward passes before
    one backward pass fail in it if a module has buffers.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], world: int, group: Any = None):
        self.parameters = list(parameters)
        self.world = world
        self.group = group
        self._messages: list[tuple[list[nn.Parameter], Tensor, list[Tensor]]] = []

    @torch.no_grad()
    def reduce(self) -> None:
        """Average the gradients in place; call it on every rank after a backward pass."""
        if self.world == 1 or not self.parameters:
            return

        self._messages = self._messages or list(self._layout())
        for members, flat, gradients in self._messages:
            present = flat[-len(members) :]
            complete = _fill(gradients, present, members)
            dist.all_reduce(flat, group=self.group)
            flat /= self.world
            has_gradient = [True] * len(members) if complete else (present > 0).tolist()
            for parameter, gradient, keep in zip(members, gradients, has_gradient, strict=True):
                parameter.grad = gradient if keep else None

    def _layout(self) -> Iterator[tuple[list[nn.Parameter], Tensor, list[Tensor]]]:
        """Yield parameters, a flat buffer for their gradients and a flag each (1: has a gradient),
        and views of it.
        """
        kinds: dict[tuple, list[nn.Parameter]] = {}
        for parameter in self.parameters:
            kinds.setdefault((parameter.dtype, parameter.device), []).append(parameter)

        for members in kinds.values():
            step = ALIGNED // members[0].element_size()
            starts = []
            end = 0
            for parameter in members:
                starts.append(end)
                end += -(-parameter.numel() // step) * step

            flat = members[0].detach().new_zeros(end + len(members))
            # in each parameter's own memory layout: optimizers and copies read both in storage
            # order
            views = [
                flat.as_strided(parameter.shape, torch.empty_like(parameter).stride(), start)
                for parameter, start in zip(members, starts, strict=True)
            ]
            yield members, flat, views


def _fill(gradients: list[Tensor], present: Tensor, members: list[nn.Parameter]) -> bool:
    """Copy the parameters' gradients, 0 where one has none, and set its flag in `present`; returns
    whether all have one.
    """
    present.fill_(1.0)
    targets = []
    own = []
    for number, parameter in enumerate(members):
        if parameter.grad is None:
            gradients[number].zero_()
            present[number].zero_()
        else:
            targets.append(gradients[number])
            own.append(parameter.grad)

    if own:
        torch._foreach_copy_(targets, own)

    return len(own) == len(members)


_met: Ranks | None = None


def meet(process: Launch) -> Ranks:
    """Connect to the other ranks, once per process; UserError if they cannot be reached."""
    global _met
    if _met is not None:
        return _met

    waiting = Timer(SILENT_SECONDS, copy_context().run, (_say_waiting, process))
    waiting.daemon = True
    waiting.start()
    try:
        everyones, _, _ = next(
            rendezvous("env://", process.rank, process.world, timeout=CONNECT_TIMEOUT)
        )
        # torchrun may keep keys of an earlier start
        store = PrefixStore(f"gantk/{process.restarts}", everyones)
        store.set(f"here/{process.rank}", "")
        store.wait([f"here/{rank}" for rank in range(process.world)], CONNECT_TIMEOUT)
        hosts = PrefixStore("hosts", store)
        dist.init_process_group(
            "gloo", store=hosts, rank=process.rank, world_size=process.world, timeout=WAIT_TIMEOUT
        )
    except RuntimeError as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise UserError(
            f"rank {process.rank} of {process.world} cannot connect to the other ranks at"
            f" {address}: {one_line(error)}",
            where="MASTER_ADDR and MASTER_PORT",
            remedy="name a host that all machines can reach and a free port on it, start all"
            " ranks together, and set GLOO_SOCKET_IFNAME to the network interface that connects"
            " the machines",
        ) from None
    finally:
        waiting.cancel()

    _met = Ranks(process)
    atexit.register(_part)
    return _met


def _say_waiting(process: Launch) -> None:
    """Say for whom this process waits, and how it trains alone."""
    others = count_noun(process.world - 1, "other process")
    warn(
        f"rank {process.rank} waits for {others}, because {process.variable} is {process.world}."
        f" To train in one process, put `env -u RANK {process.variable}=1` before the command."
    )


def _part() -> None:
    """Close the groups at the end of a process: torch warns about open ones."""
    if _met is not None and dist.is_initialized() and not _met.broken:
        dist.destroy_process_group()
