"""One side of a comparison: takes training steps on the batches that it is handed; gantk's own sides."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Turn
from torch import Tensor, nn

from gantk.data.sources.source import source_for
from gantk.errors import GantkError
from gantk.inference.tiles import whole_images
from gantk.machine.runtime import start
from gantk.method import Batch, Stage
from gantk.recipe.load import load_recipe
from gantk.recipe.tables import Model
from gantk.training.assemble import Parts, assemble
from gantk.training.loop import resized
from gantk_cuda_graph.capture import WARM_UP
from peers.cases import Case

OTHER = {"a": "b", "b": "a"}


@dataclass
class Setup:
    """What a peer's side is built from."""

    case: Case
    channels: dict[str, int]  # by domain
    device: torch.device
    seed: int = 0


class Side:
    """Base of every side. `name` is what rows call it, `notes` say what differs from the published defaults."""

    name: str = ""
    notes: tuple[str, ...] = ()
    keep = False  # whether it keeps freed memory
    settling = 0  # steps before the first timed one, beside those that all sides take

    def step(self, batch: dict[str, Tensor]) -> None:
        """One training step on host tensors `a` and `b`, (N, C, H, W) in [-1, 1]; bringing them over is part of it."""
        raise NotImplementedError(type(self).__name__)

    def networks(self) -> Iterable[nn.Module]:
        """Everything that is trained."""
        raise NotImplementedError(type(self).__name__)

    @property
    def weights(self) -> int:
        """Trained numbers in all networks."""
        return sum(p.numel() for network in self.networks() for p in network.parameters())

    def check_finite(self) -> None:
        """GantkError where a weight is no longer a number: the steps of such a side say nothing."""
        if not all(bool(torch.isfinite(p).all()) for network in self.networks() for p in network.parameters()):
            raise GantkError(f"the weights of {self.name} are no longer finite, so its steps say nothing")


class HandedTurn(Turn):
    """A side's place in the rounds: it is handed clones of the batches in order; `digest` is the sha256 of them all."""

    def __init__(self, side: Side, batch_at: Callable[[int], dict[str, Tensor]], device: torch.device):
        super().__init__(lambda: side.step(clone(batch_at(0))), device, side.keep, side.settling)
        self.side, self.batch_at, self.taken, self._sha = side, batch_at, 0, hashlib.sha256()

    def calls(self, steps: int) -> list[Callable[[], object]]:
        handed = [clone(self.batch_at(self.taken + k)) for k in range(steps)]
        self.taken += steps
        for batch in handed:
            for image in batch.values():
                self._sha.update(image.numpy().tobytes())
        return [lambda batch=batch: self.side.step(batch) for batch in handed]

    @property
    def digest(self) -> str:
        return self._sha.hexdigest()


def clone(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: batch[name].clone() for name in "ab"}


def checked(case: Case, settings: Iterable[str] = (), *, data: str | None = None, seed: int = 0) -> Model:
    """The case's recipe, pointed at a folder where one is given."""
    tables: dict[str, Any] = case.tables(seed)
    if data is not None:
        tables["data"]["source"] = source_for(Path(data), 2, None)
    return load_recipe(tables).override(settings).check()


class Own(Side):
    """gantk's engine on a case's recipe; `parts` are its data and batches too.

    Where the case has windows, its step is the translation of a batch larger than what the networks are trained on: by
    default whole, as long as memory allows; with translate.statistics = "window" in overlapping windows.
    """

    name = "gantk"

    def __init__(self, model: Model, device: str | None, windows: bool = False):
        self.model, self.windows = model, windows
        self.parts: Parts = assemble(model, start(device, model.train.precision, model.train.fast.channels_last))
        cpu = self.device.type == "cpu"
        self.keep, self.settling = cpu and model.train.fast.keep_memory, 0 if cpu else WARM_UP + 1
        self._batch: dict[str, Tensor] = {}
        self._running = self.parts.engine.fit(self._placed)
        if windows:
            method = self.parts.method.eval()
            self._whole = whole_images(lambda x: method.translate(x, "b"), method, model, self.parts.runtime)

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
        """The images that step sees, on the host; whole ones where the step is a translation by windows."""
        if not self.windows:
            return self.parts.batches.at(step)
        data, found = self.parts.data, {}
        for name in "ab":
            records = [record for record in data.training if record.domain == name]
            found[name] = data.image(records[step % len(records)])[None]
        return found

    @property
    def generator(self) -> nn.Module:
        """The network from a to b."""
        return self.parts.method.g_ab

    def _placed(self, step: int, stage: Stage) -> Batch:
        runtime = self.parts.runtime
        batch = Batch({name: runtime.place(image, self.model.data.dims) for name, image in self._batch.items()})
        return resized(batch, stage.size)


@contextmanager
def full_precision() -> Iterator[None]:
    """float32 products in float32, torch's own default: gantk's runtime lowers it to TF32 on a GPU."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def fix_seeds(seed: int) -> None:
    """All global generators: peers draw from any of them."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
