"""Several processes that train as one: they meet, agree, average gradients, share work, and notice a lost one."""

from __future__ import annotations

import atexit
import os
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gantk.errors import Elsewhere, GantkError, UserError
from gantk.machine.launch import Launch

T = TypeVar("T")
MEETING = timedelta(minutes=10)  # until all ranks must have come: machines load torch at different speeds
PATIENCE = timedelta(days=30)  # of ranks that wait while another writes or scores, which has no end known before
ALIGNED = 16  # bytes at which every gradient of a message begins: kernels read four numbers at once
BROKEN = "connection|broken pipe|timed out|timeout|socket|gloo|nccl|peer"  # as torch says it, without types of errors


class Ranks:
    """This process among the others, made by `meet`. Two groups connect them: one of the hosts (gloo), for words and
    waiting, which never keeps a device busy, and one for gradients (NCCL between GPUs)."""

    def __init__(self, place: Launch):
        self.rank, self.world = place.rank, place.world
        self.names = self.gather(f"{socket.gethostname()}, process {os.getpid()}")
        self.gradients: Any = None
        self.broken = False  # whether a connection to another rank was lost

    def connect(self, device: torch.device) -> None:
        """Make the group of gradients; UserError where the ranks' devices do not fit together."""
        card = None
        if device.type == "cuda":  # which GPU it is, in all the world
            uuid = getattr(torch.cuda.get_device_properties(device), "uuid", device.index)
            card = f"{socket.gethostname()} {uuid}"
        devices = self.gather((device.type, card))

        def expect_fitting() -> None:
            for rank, (kind, card) in enumerate(devices):
                if kind != devices[0][0]:
                    what = f"rank 0 computes on {devices[0][0]} and rank {rank} ({self.names[rank]}) on {kind}"
                    remedy = "give all ranks GPUs, or start them with --device cpu"
                    raise UserError(what, where="--device", remedy=remedy)
                if card is not None and (kind, card) in devices[:rank]:
                    what = f"ranks {devices.index((kind, card))} and {rank} ({self.names[rank]}) would share one GPU"
                    remedy = "start no more processes on a machine than it has GPUs, and leave --device out"
                    raise UserError(what, where="--device", remedy=remedy)

        self.sync_errors(expect_fitting)
        self.gradients = dist.new_group(backend="nccl" if device.type == "cuda" else "gloo")

    def gather(self, thing: T) -> list[T]:
        """What each rank has, by rank."""
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, thing)
        return found

    def collect(self, thing: T) -> list[T] | None:
        """What each rank has, by rank, on rank 0; None on the others."""
        found: list[Any] | None = [None] * self.world if self.rank == 0 else None
        dist.gather_object(thing, found)
        return found

    def sync_errors(self, work: Callable[[], T]) -> T:
        """`work()` on every rank. Where it fails on some, all stop: the first of them says why."""
        result, error = None, None
        try:
            result = work()
        except GantkError as problem:
            error = problem
        codes = self.gather(error and error.exit_code)
        failed = next((rank for rank, code in enumerate(codes) if code is not None), None)
        if failed is not None:
            raise error if self.rank == failed else Elsewhere(failed, codes[failed])
        return result

    def agree(self, about: Mapping[str, Any]) -> None:
        """UserError where a rank was started with something else than rank 0."""
        found = self.gather(dict(about))

        def expect_alike() -> None:
            for rank, other in enumerate(found):
                for key in sorted(found[0].keys() | other.keys()):
                    if found[0].get(key) != other.get(key):
                        what = f"rank {rank} ({self.names[rank]}) was not started like rank 0: its {key} is "
                        what += f"{_short(other.get(key))}, rank 0's is {_short(found[0].get(key))}"
                        remedy = "start all ranks with the same recipe, data, settings and versions"
                        raise UserError(what, remedy=remedy)

        self.sync_errors(expect_alike)

    @contextmanager
    def watched(self, advice: Callable[[], str]) -> Iterator[None]:
        """Around all that needs the others: where one is gone, GantkError with `advice`."""
        try:
            yield
        except RuntimeError as error:
            if not isinstance(error, dist.DistError) and not re.search(BROKEN, str(error), re.IGNORECASE):
                raise
            self.broken = True
            said = re.sub(r"^\[\S*?\]\s*", "", str(error).strip().splitlines()[0]).rstrip(".")  # without torch's place
            what = f"rank {self.rank} ({self.names[self.rank]}) lost the others: one stopped or cannot be reached"
            raise GantkError(f"{what} ({_short(said, 120)}). {advice()}") from error


class Reduction:
    """Averages the gradients of one phase's parameters over the ranks of a group: a message for every type of number.

    What took part on some rank is averaged on all, and what took part on none keeps no gradient: with one of 0 its
    optimizer would count a step. Shapes and memory layouts of the parameters no longer change. One message after the
    backward pass is as fast as several in the middle of it (1.70 and 1.66 times one rank's images/s on two). Not
    DistributedDataParallel: in it, several forward passes before one backward pass fail where a module has buffers.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], world: int, group: Any = None):
        self.parameters, self.world, self.group = list(parameters), world, group
        self._messages: list[tuple[list[nn.Parameter], Tensor, list[Tensor]]] = []

    @torch.no_grad()
    def reduce(self) -> None:
        """To be called after a backward pass on every rank; the gradients are then the mean."""
        if self.world == 1 or not self.parameters:
            return
        self._messages = self._messages or list(self._layout())
        for members, flat, gradients in self._messages:
            present = flat[-len(members) :]
            there = [number for number, parameter in enumerate(members) if parameter.grad is not None]
            missing = set(range(len(members))).difference(there)
            present.fill_(1.0)
            for number in missing:
                gradients[number].zero_()
                present[number].zero_()
            if there:
                torch._foreach_copy_([gradients[n] for n in there], [members[n].grad for n in there])
            dist.all_reduce(flat, group=self.group)
            flat /= self.world
            taken = (present > 0).tolist() if missing else [True] * len(members)
            for parameter, gradient, takes in zip(members, gradients, taken, strict=True):
                parameter.grad = gradient if takes else None

    def _layout(self) -> Iterator[tuple[list[nn.Parameter], Tensor, list[Tensor]]]:
        """Parameters, one piece of memory for their gradients and a number each that says whether it exists, views."""
        kinds: dict[tuple, list[nn.Parameter]] = {}
        for parameter in self.parameters:
            kinds.setdefault((parameter.dtype, parameter.device), []).append(parameter)
        for members in kinds.values():
            step, starts, end = ALIGNED // members[0].element_size(), [], 0
            for parameter in members:
                starts.append(end)
                end += -(-parameter.numel() // step) * step
            flat = members[0].detach().new_zeros(end + len(members))
            # in each parameter's own memory layout: optimizers and copies walk both in storage order
            views = [
                flat.as_strided(parameter.shape, torch.empty_like(parameter).stride(), start)
                for parameter, start in zip(members, starts, strict=True)
            ]
            yield members, flat, views


_met: Ranks | None = None


def meet(place: Launch) -> Ranks:
    """Connect with the other ranks, once in a process; UserError where they do not come."""
    global _met
    if _met is not None:
        return _met
    try:
        store, _, _ = next(dist.rendezvous("env://", place.rank, place.world, timeout=MEETING))
        store = dist.PrefixStore(f"gantk/{place.restarts}", store)  # torchrun may keep what an earlier start left in it
        store.set(f"here/{place.rank}", "")
        store.wait([f"here/{rank}" for rank in range(place.world)], MEETING)
        hosts = dist.PrefixStore("hosts", store)
        dist.init_process_group("gloo", store=hosts, rank=place.rank, world_size=place.world, timeout=PATIENCE)
    except RuntimeError as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        what = f"rank {place.rank} of {place.world} cannot meet the others at {address}: {_short(str(error), 160)}"
        remedy = "name a host that all machines reach and a port that is free there, start all ranks together, and set "
        remedy += "GLOO_SOCKET_IFNAME to the network that joins the machines"
        raise UserError(what, where="MASTER_ADDR and MASTER_PORT", remedy=remedy) from None
    _met = Ranks(place)
    atexit.register(_part)
    return _met


def _part() -> None:
    """At the end of a process that did its work: torch complains of groups that are left open."""
    if dist.is_initialized() and not _met.broken:
        dist.destroy_process_group()


def _short(value: Any, length: int = 80) -> str:
    text = " ".join(str(value).split()) if value is not None else "absent"
    return text if len(text) <= length else f"{text[: length - 3]}..."
