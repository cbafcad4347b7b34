"""Sides of a comparison: `Side`, which takes training steps on given batches, and `OwnSide`,
gantk's side.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from gantk.errors import GantkError
from gantk.inference.tiles import TiledNetwork
from gantk.machine.runtime import start
from gantk.method import Batch, Stage
from gantk.recipe.load import load_recipe
from gantk.training.accelerate.cuda_graph import WARM_UP
from gantk.training.assemble import Parts, assemble
from gantk.training.loop import resize_batch
from gantk_bench.harness import Turn
from peers.cases import Case

OTHER = {"a": "b", "b": "a"}


@dataclass
class Setup:
    """Arguments to build a peer's side."""

    case: Case
    channels: dict[str, int]  # by domain
    device: torch.device
    seed: int = 0
    weights: int = 0  # of gantk's networks
    bf16: bool = False  # packages compute under autocast


class Side:
    """Base of every side. `name` stands in the rows, `notes` say what differs from the published
    defaults.
    """

    name: str = ""
    notes: tuple[str, ...] = ()
    keep = False  # whether it keeps freed memory
    settling = 0  # further untimed steps before the first timed one, besides those of all sides

    def step(self, batch: dict[str, Tensor]) -> None:
        """One training step on CPU tensors `a` and `b`, (N, C, H, W) in [-1, 1], with their copy to
        the device.
        """
        raise NotImplementedError(type(self).__name__)

    def networks(self) -> Iterable[nn.Module]:
        """All trained networks."""
        raise NotImplementedError(type(self).__name__)

    @property
    def weights(self) -> int:
        """Number of parameters of all networks."""
        return sum(p.numel() for network in self.networks() for p in network.parameters())

    def check_finite(self) -> None:
        """Raises GantkError if a weight is NaN or infinite, as the times of such steps mean
        nothing.
        """
        if not all(
            bool(torch.isfinite(p).all())
            for network in self.networks()
            for p in network.parameters()
        ):
            raise GantkError(
                f"the weights of {self.name} are no longer finite, so its steps say nothing"
            )


class BatchTurn(Turn):
    """A side's turns: gives it clones of the batches in order; `digest` is the SHA-256 of all of
    them.
    """

    def __init__(
        self, side: Side, batch_at: Callable[[int], dict[str, Tensor]], device: torch.device
    ):
        super().__init__(lambda: side.step(clone(batch_at(0))), device, side.keep, side.settling)
        self.side = side
        self.batch_at = batch_at
        self.taken = 0
        self._sha = hashlib.sha256()

    def calls(self, steps: int) -> list[Callable[[], object]]:
        batches = [clone(self.batch_at(self.taken + k)) for k in range(steps)]
        self.taken += steps
        for batch in batches:
            for image in batch.values():
                self._sha.update(image.numpy().tobytes())
        return [lambda batch=batch: self.side.step(batch) for batch in batches]

    @property
    def digest(self) -> str:
        return self._sha.hexdigest()


def clone(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: batch[name].clone() for name in "ab"}


class OwnSide(Side):
    """gantk's engine on a case's recipe with `settings`; `parts` holds its data, batches, method
    and runtime.

    In a case of windows, a step translates a batch of images larger than the training patches:
    whole, if memory allows.
    """

    name = "gantk"

    def __init__(self, case: Case, settings: Iterable[str], device: str | None):
        self.windows = bool(case.window)
        self.model = model = load_recipe(case.tables()).override(settings).check()
        self.parts: Parts = assemble(
            model, start(device, model.train.precision, model.train.fast.channels_last)
        )
        cpu = self.device.type == "cpu"
        self.keep = cpu and model.train.fast.keep_memory
        self.settling = 0 if cpu else WARM_UP + 1
        self._batch: dict[str, Tensor] = {}
        self._running = self.parts.engine.fit(self._placed)
        if self.windows:
            method = self.parts.method.eval()
            self._whole = TiledNetwork.of_method(
                partial(method.translate, to="b"), method, model, self.parts.runtime
            )

    @property
    def device(self) -> torch.device:
        return self.parts.runtime.device

    def step(self, batch: dict[str, Tensor]) -> None:
        if self.windows:
            self._whole(batch["a"])
            return
        self._batch = batch
        next(self._running)

    def networks(self) -> Iterable[nn.Module]:
        return [self.generator if self.windows else self.parts.method]

    def batch(self, step: int) -> dict[str, Tensor]:
        """The images of a step, on the CPU: a training batch, or whole images for translation by
        windows.
        """
        if not self.windows:
            return self.parts.batches.at(step)
        data = self.parts.data
        images = {}
        for name in "ab":
            records = [record for record in data.training if record.domain == name]
            images[name] = data.image(records[step % len(records)])[None]
        return images

    @property
    def generator(self) -> nn.Module:
        """The network from a to b."""
        return self.parts.method.g_ab

    def _placed(self, step: int, stage: Stage) -> Batch:
        runtime = self.parts.runtime
        batch = Batch(
            {
                name: runtime.place(image, self.model.data.dims)
                for name, image in self._batch.items()
            }
        )
        return resize_batch(batch, stage.size)


@contextmanager
def full_precision() -> Iterator[None]:
    """Inside, float32 products are computed in float32, torch's default; gantk's runtime sets TF32
    on a GPU.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
