"""The runtime of a process: device, precision, memory format, random seeds, and communication with
other ranks.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gantk.machine.device import CHANNELS_LAST, choose, cpu_info, driver_version, precision_on
from gantk.machine.launch import Launch
from gantk.progress import track

if TYPE_CHECKING:
    from gantk.machine.ranks import Ranks, Reduction

# environment of a process that is no rank, although srun has begun it
ALONE = {"SLURM_STEP_NUM_TASKS": "1"}

T = TypeVar("T")
PlacedT = TypeVar("PlacedT", bound=Tensor | nn.Module)
BatchT = TypeVar("BatchT", bound=dict[str, Tensor])


@dataclass(frozen=True)
class Runtime:
    """Where and how one process computes: process `rank` of `world`, started by torchrun, by srun
    or by itself.
    """

    device: torch.device
    precision: str  # "bf16" or "fp32"
    channels_last: bool
    rank: int = 0
    world: int = 1
    ranks: Ranks | None = None  # connections to the others
    launched: Launch = Launch()  # what started it

    @property
    def main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    @property
    def _group(self) -> Any:
        """The group of ranks for gradients; None for a single process."""
        return None if self.ranks is None else self.ranks.gradients

    def autocast(self):
        """Context manager: bf16 autocast if the precision is bf16, else nothing."""
        if self.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def place(self, thing: PlacedT, dims: int) -> PlacedT:
        """Move images or a network to the device, in the memory format in force."""
        placed: Any = thing  # torch's stubs do not know that it keeps its type
        if isinstance(thing, Tensor) and self.device.type == "cuda" and not thing.is_cuda:
            # pinned, or the host would wait for the steps before
            placed = thing.pin_memory().to(self.device, non_blocking=True)
        if not self.channels_last or (isinstance(thing, Tensor) and thing.ndim != dims + 2):
            return placed.to(self.device)
        return placed.to(self.device, memory_format=CHANNELS_LAST[dims])

    def seed(self, seed: int, step: int) -> None:
        """Seed torch by (seed, rank, step) only, so that any step can be repeated."""
        torch.manual_seed(_mix(seed, self.rank, step))

    def reduction(self, parameters: Iterable[nn.Parameter]) -> Reduction:
        """An object that averages the gradients of these parameters over all ranks."""
        from gantk.machine.ranks import Reduction

        return Reduction(parameters, self.world, self._group)

    def mean(self, value: Tensor) -> Tensor:
        """The mean over all ranks."""
        if self.world > 1:
            dist.all_reduce(value, group=self._group)
        return value / self.world

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Copy rank 0's values to every rank, in place."""
        for tensor in tensors if self.world > 1 else ():
            dist.broadcast(tensor, 0, group=self._group)

    def main_batch(self, batch: BatchT) -> BatchT:
        """Rank 0's batch on every rank, so that what is computed from it once is the same
        everywhere.
        """
        if self.world == 1:
            return batch
        same = {name: tensor.contiguous().clone() for name, tensor in batch.items()}
        self.broadcast(same.values())
        return type(batch)(same)

    def gather(self, value: T) -> list[T]:
        """Return the `value` of every rank, in order of ranks."""
        return self.ranks.gather(value) if self.ranks else [value]

    def collect(self, value: T) -> list[T] | None:
        """Return the `value` of every rank on rank 0; None on the others."""
        return self.ranks.collect(value) if self.ranks else [value]

    def wait(self) -> None:
        """Wait for all ranks, however long it takes."""
        if self.ranks:
            dist.barrier()

    def sync_errors(self, work: Callable[[], T]) -> T:
        """`work()` on all ranks; a GantkError on one of them stops all, and only that rank raises
        it.
        """
        return self.ranks.sync_errors(work) if self.ranks else work()

    def from_main(self, work: Callable[[], T]) -> T:
        """The result of `work()` on rank 0, returned on all ranks; a GantkError in it stops all
        ranks.
        """
        results = self.gather(self.sync_errors(lambda: [work()] if self.main else []))
        return results[0][0]

    def share(
        self, parts: Sequence[Any], work: Callable[[Any], T], what: str, noun: str
    ) -> list[T] | None:
        """`work(part)` for every part, shared among the ranks; returns the results in order on rank
        0, else None. `what` and `noun`: as of `gantk.progress.track`.
        """
        own = parts[self.rank :: self.world]
        results = self.collect([work(part) for part in track(own, what, noun)])
        if results is None:
            return None
        return [results[number % self.world][number // self.world] for number in range(len(parts))]

    def watch_connection(self, advice: Callable[[], str]) -> AbstractContextManager:
        """Context manager: turns a lost connection to a rank into a GantkError with `advice`."""
        return self.ranks.watch_connection(advice) if self.ranks else contextlib.nullcontext()

    def synchronize(self) -> None:
        """Wait until the device has finished; call it before and after a timed section."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def start(
    device: str | None = None,
    precision: str = "auto",
    channels_last: bool = True,
    process: Launch = Launch(),  # noqa: B008 - frozen
) -> Runtime:
    """Set up the runtime of this process, alone or as the rank that `process` says; UserError if the
    device is missing or cannot compute at this precision.
    """
    ranks = _others(process)

    def device_and_precision() -> tuple[torch.device, str]:
        working = choose(device, process.rank, process.local)
        return working, precision_on(working, precision)

    chosen_device, arithmetic = sync_errors(device_and_precision, process)
    try:
        getpass.getuser()
    # an id that the system does not know (docker run --user); torch.export needs a name
    except (KeyError, OSError):
        os.environ["USER"] = str(os.getuid())

    if ranks is not None and ranks.gradients is None:
        ranks.connect(chosen_device)

    if chosen_device.type == "cuda":
        torch.cuda.set_device(chosen_device)
        torch.backends.cudnn.benchmark = True
        # With bf16, the remaining float32 products use TF32; with fp32 they are exact float32.
        torch.backends.cudnn.allow_tf32 = arithmetic == "bf16"
        torch.set_float32_matmul_precision("high" if arithmetic == "bf16" else "highest")

    return Runtime(
        chosen_device, arithmetic, channels_last, process.rank, process.world, ranks, process
    )


def sync_errors(work: Callable[[], T], process: Launch) -> T:
    """`work()` on all ranks, before there is a runtime; a GantkError on one of them stops all."""
    ranks = _others(process)
    return ranks.sync_errors(work) if ranks else work()


def _others(process: Launch) -> Ranks | None:
    if process.world == 1:
        return None
    from gantk.machine.ranks import meet

    return meet(process)


def describe(runtime: Runtime) -> dict:
    """The machine's hardware, versions and settings, for environment.json."""
    cuda = runtime.device.type == "cuda"
    names = (
        line.split(":", 1)[1].strip()
        for line in cpu_info().splitlines()
        if line.startswith("model name")
    )
    return {
        "device": torch.cuda.get_device_name(runtime.device) if cuda else runtime.device.type,
        "precision": runtime.precision,
        "channels_last": runtime.channels_last,
        "ranks": runtime.world,
        "cpu": next(names, platform.processor()),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if cuda else None,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "driver": driver_version() if cuda else None,
        "platform": platform.platform(),
    }


def _mix(*numbers: int) -> int:
    """Mix several numbers into a 63-bit seed (splitmix64): similar numbers give unrelated seeds."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1
