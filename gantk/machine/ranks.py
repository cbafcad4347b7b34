"""Several processes that train as one: they meet, agree, average gradients, share work, and notice a lost one."""

from __future__ import annotations

import atexit
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
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
ROLL_CALL = 5.0  # seconds that survivors have to answer once a connection broke
BROKEN = ("connection", "broken pipe", "timed out", "timeout", "socket", "gloo", "nccl", "peer")  # in torch's words


@dataclass(frozen=True)
class Name:
    """Where a rank runs."""

    host: str
    pid: int

    def __str__(self) -> str:
        return f"{self.host}, process {self.pid}"

    @property
    def here(self) -> bool:
        return self.host == socket.gethostname()

    @property
    def running(self) -> bool:
        """Whether this process, of this machine, is still at work."""
        try:
            os.kill(self.pid, 0)
            with open(f"/proc/{self.pid}/stat") as file:
                return file.read().rpartition(")")[2].split()[0] not in "ZX"  # no zombie
        except ProcessLookupError:
            return False
        except OSError:  # of another user, or a system without /proc
            return True


class Ranks:
    """This process among the others. Made by `meet`.

    Two groups connect them: one of the hosts (gloo), for words and waiting, which never keeps a device busy, and one
    for gradients (NCCL between GPUs).
    """

    def __init__(self, place: Launch, store: Any, names: Sequence[Name]):
        self.rank, self.world = place.rank, place.world
        self.names = list(names)
        self.gradients: Any = None
        self._store = store
        self._held_here = "TORCHELASTIC_USE_AGENT_STORE" not in os.environ  # by rank 0; else by torchrun

    def connect(self, device: torch.device) -> None:
        """Make the group of gradients; UserError where the ranks' devices do not fit together."""
        found = self.gather((device.type, _card(device)))
        self.sync_errors(lambda: self._expect_fitting(found) if self.rank == 0 else None)
        self.gradients = dist.new_group(backend="nccl" if device.type == "cuda" else "gloo")

    def _expect_fitting(self, devices: list[tuple[str, str | None]]) -> None:
        cards: dict[str | None, int] = {}
        for rank, (kind, card) in enumerate(devices):
            if kind != devices[0][0]:
                what = f"rank 0 computes on {devices[0][0]} and rank {rank} ({self.names[rank]}) on {kind}"
                raise UserError(what, where="--device", remedy="give all ranks GPUs, or start them with --device cpu")
            if card is not None and cards.setdefault(card, rank) != rank:
                what = f"ranks {cards[card]} and {rank} ({self.names[rank]}) would share one GPU"
                remedy = "start no more processes on a machine than it has GPUs, and leave --device out"
                raise UserError(what, where="--device", remedy=remedy)

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

    def share(self, parts: Sequence[Any], work: Callable[[Any], T]) -> list[T] | None:
        """`work` of every part, each done by one rank; rank 0 gets all in order, the others None."""
        own = [work(part) for part in parts[self.rank :: self.world]]
        found = self.collect(own)
        return found and [found[number % self.world][number // self.world] for number in range(len(parts))]

    def sync_errors(self, work: Callable[[], T]) -> T:
        """`work()` on every rank. Where it fails on some, all stop: the first of them says why."""
        result, error = None, None
        try:
            result = work()
        except GantkError as problem:
            error = problem
        codes = self.gather(None if error is None else error.exit_code)
        failed = [rank for rank, code in enumerate(codes) if code is not None]
        if not failed:
            return result
        if self.rank == failed[0]:
            raise error
        raise Elsewhere(failed[0], codes[failed[0]])

    def agree(self, about: Mapping[str, Any]) -> None:
        """UserError where a rank was started with something else than rank 0."""
        found = self.gather(dict(about))
        self.sync_errors(lambda: self._expect_alike(found) if self.rank == 0 else None)

    def _expect_alike(self, found: list[dict[str, Any]]) -> None:
        for rank, other in enumerate(found):
            for key in sorted(found[0].keys() | other.keys()):
                mine, its = found[0].get(key), other.get(key)
                if mine != its:
                    what = f"rank {rank} ({self.names[rank]}) was not started like rank 0: its {key} is {_short(its)}"
                    what += f", rank 0's is {_short(mine)}"
                    raise UserError(what, remedy="start all ranks with the same recipe, data, settings and versions")

    @contextmanager
    def watched(self, advice: Callable[[], str]) -> Iterator[None]:
        """Around all that needs the others: where one is gone, GantkError that names it, with `advice`."""
        try:
            yield
        except Elsewhere:
            raise
        except GantkError as error:  # told by this rank: the others need not tell that it is gone
            self._leave(f"told/{self.rank}", str(error.exit_code))
            raise
        except RuntimeError as error:
            if not _is_broken(error) or (loss := self._loss(error, advice)) is None:
                raise
            raise loss from error

    def _leave(self, key: str, value: str) -> None:
        if self._store_is_there():
            with suppress(RuntimeError):
                self._store.set(key, value)

    def _store_is_there(self) -> bool:
        """False where the store is known to have gone with rank 0: torch would print pages about it."""
        return not (self._held_here and self.names[0].here and not self.names[0].running)

    def _loss(self, error: RuntimeError, advice: Callable[[], str]) -> GantkError | None:
        """What to say when a connection broke: the first rank that is still there says it. None where all are there
        and torch does not say so itself: the words were about something else."""
        self._leave(f"here/{self.rank}", "1")
        here, told = self._roll_call()
        if told:
            rank, code = next(iter(told.items()))
            return Elsewhere(rank, code)
        lost = sorted(set(range(self.world)) - here)
        if not lost and not isinstance(error, dist.DistError) and not re.search("gloo|nccl", str(error), re.I):
            return None
        if here and min(here) < self.rank:
            return Elsewhere(min(here), GantkError.exit_code)
        names = ", ".join(f"rank {rank} ({self.names[rank]})" for rank in lost)
        which = f"{names} of {self.world} stopped or cannot be reached" if lost else "the connection of the ranks broke"
        said = re.sub(r"^\[\S*?\]\s*", "", str(error).strip().splitlines()[0]).rstrip(".")  # without torch's own place
        return GantkError(f"{which}: {_short(said, 120)}. {advice()}")

    def _roll_call(self) -> tuple[set[int], dict[int, int]]:
        """Ranks that are still there, this one among them, and the exit codes of those that said why they stopped."""
        until, others = time.monotonic() + ROLL_CALL, set(range(self.world)) - {self.rank}
        while True:
            running = {rank for rank in others if self.names[rank].here and self.names[rank].running}
            told = {rank: int(self._store.get(f"told/{rank}")) for rank in others if self._has(f"told/{rank}")}
            here = {self.rank} | running | {rank for rank in others if self._has(f"here/{rank}")}
            gone = others - here
            if told or (gone and all(self.names[rank].here for rank in gone)) or time.monotonic() > until:
                return here, told
            time.sleep(0.1)

    def _has(self, key: str) -> bool:
        with suppress(RuntimeError):
            return self._store_is_there() and self._store.check([key])
        return False


class Reduction:
    """Averages the gradients of one phase's parameters over all ranks: one message each for every type of number.

    What took part on some rank is averaged on all, and what took part on none keeps no gradient: with one of 0 its
    optimizer would count a step. One message after the backward pass is as fast as several in the middle of it (1.70
    and 1.66 times one rank's images/s on two).

    Not DistributedDataParallel: several forward passes before one backward pass fail in it where a module has buffers,
    and a phase's loss may run any network any number of times.

    Args:
        parameters: what is reduced; their shapes and memory layouts no longer change.
        world: the number of ranks; 1: nothing is done.
        group: the process group that carries gradients; None: the default one.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], world: int, group: Any = None):
        self.parameters, self.world, self.group = list(parameters), world, group
        self._messages: list[tuple[list[nn.Parameter], Tensor, list[Tensor]]] = []

    @property
    def bytes(self) -> int:
        """What one reduction hands over, in bytes."""
        return sum(parameter.nbytes for parameter in self.parameters)

    @torch.no_grad()
    def reduce(self) -> None:
        """To be called after a backward pass on every rank; the gradients are then the mean."""
        if self.world == 1 or not self.parameters:
            return
        self._messages = self._messages or list(self._layout())
        for members, flat, gradients in self._messages:
            present = flat[-len(members) :]
            present.fill_(1.0)
            missing = [number for number, parameter in enumerate(members) if parameter.grad is None]
            for number in missing:
                gradients[number].zero_()
                present[number].zero_()
            there = [number for number, parameter in enumerate(members) if parameter.grad is not None]
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
    """Connect with the other ranks, once in a process; GantkError where they do not come."""
    global _met
    if _met is not None:
        return _met
    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        store, _, _ = next(dist.rendezvous("env://", place.rank, place.world, timeout=MEETING))
    except RuntimeError as error:
        what = f"rank {place.rank} of {place.world} cannot meet the others at {address}: {_short(str(error), 160)}"
        raise UserError(
            what,
            where="MASTER_ADDR and MASTER_PORT",
            remedy="name a host that all machines reach and a port that is free there, and start all ranks together",
        ) from None
    store = dist.PrefixStore(f"gantk/{place.restarts}", store)  # torchrun may keep what an earlier start left in it
    store.set(f"name/{place.rank}", f"{socket.gethostname()}\n{os.getpid()}")
    names = [_name_of(store, rank, place.world) for rank in range(place.world)]
    hosts = dist.PrefixStore("hosts", store)
    try:
        dist.init_process_group("gloo", store=hosts, rank=place.rank, world_size=place.world, timeout=PATIENCE)
    except RuntimeError as error:
        what = f"rank {place.rank} ({names[place.rank]}) met the others but cannot talk to them"
        remedy = "Set GLOO_SOCKET_IFNAME to the network that joins the machines."
        raise GantkError(f"{what}: {_short(str(error), 160)}. {remedy}") from None
    _met = Ranks(place, store, names)
    atexit.register(_part)
    return _met


def _part() -> None:
    """At the end of a process that did its work: torch complains of groups that are left open."""
    if dist.is_initialized() and all(name.running for name in _met.names if name.here):
        dist.destroy_process_group()


def _name_of(store: Any, rank: int, world: int) -> Name:
    key = f"name/{rank}"
    try:
        store.wait([key], MEETING)
    except RuntimeError:
        what = f"rank {rank} of {world} did not come within {MEETING.seconds // 60} minutes"
        raise GantkError(f"{what}. Start all ranks together; look at what the missing one printed.") from None
    host, pid = store.get(key).decode().split("\n")
    return Name(host, int(pid))


def _card(device: torch.device) -> str | None:
    """Which GPU it is, in all the world; None for other devices."""
    if device.type != "cuda":
        return None
    unique = getattr(torch.cuda.get_device_properties(device), "uuid", device.index)
    return f"{socket.gethostname()} {unique}"


def _is_broken(error: RuntimeError) -> bool:
    """Whether torch speaks of a connection. Its gloo errors have no type of their own."""
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in text for word in BROKEN)


def _short(value: Any, length: int = 80) -> str:
    text = " ".join(str(value).split()) if value is not None else "absent"
    return text if len(text) <= length else f"{text[: length - 3]}..."
