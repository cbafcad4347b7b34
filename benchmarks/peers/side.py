"""One side of a comparison: something that takes training steps on batches it is handed, and translates images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from gantk.errors import GantkError
from peers.cases import Case
from peers.switches import enter

OTHER = {"a": "b", "b": "a"}


@dataclass(frozen=True)
class Found:
    """Where a toolkit was found: its version, or the commit of its checkout."""

    version: str  # "1.6.1", "2a7afba2895d", "files 3f0c..." where no git knows the checkout
    where: str  # "package monai", "checkout"


@dataclass(frozen=True)
class Schedule:
    """How long a training will be, for learning rates that fall; steps = 0: they never do, as in a timing."""

    steps: int = 0
    per_epoch: int = 1  # steps that show the larger domain once


@dataclass
class Setup:
    """What a side is built from."""

    case: Case
    channels: dict[str, int]  # by domain
    device: torch.device
    seed: int = 0
    schedule: Schedule = field(default_factory=Schedule)


class Side:
    """Base of every side. `name` is what rows call it, `notes` say what differs from the published defaults."""

    name: str = ""
    notes: tuple[str, ...] = ()
    settling: int = 0  # steps before the first timed one, beside those that all sides take

    def enter(self) -> bool:
        """Called before each turn: the process's memory as this side has it alone; whether that is a change."""
        return enter(False)

    def step(self, batch: dict[str, Tensor]) -> None:
        """One training step on host tensors `a` and `b`, (N, C, H, W) in [-1, 1]; bringing them over is part of it."""
        raise NotImplementedError(type(self).__name__)

    def translate(self, images: Tensor, to: str) -> Tensor:
        """Images (N, C, H, W) of the other domain as domain `to`, without gradients."""
        raise NotImplementedError(type(self).__name__)

    def directions(self) -> list[str]:
        """The domains that `translate` makes."""
        return ["b", "a"]

    def networks(self) -> Iterable[nn.Module]:
        """Everything that is trained, for counting weights."""
        raise NotImplementedError(type(self).__name__)

    @property
    def weights(self) -> int:
        """Trained numbers in all networks."""
        return sum(p.numel() for network in self.networks() for p in network.parameters())

    def check_finite(self) -> None:
        """GantkError where a weight is no longer a number: steps and scores of such a side say nothing."""
        if not all(bool(torch.isfinite(p).all()) for network in self.networks() for p in network.parameters()):
            raise GantkError(f"the weights of {self.name} are no longer finite, so it has neither a speed nor a score")


@contextmanager
def full_precision() -> Iterator[None]:
    """float32 products in float32, torch's own default: gantk's runtime lowers it to TF32 on a GPU."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
