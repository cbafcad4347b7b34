"""gantk's own side: the same recipe on its default path, on its plain one, and with what it adds to the method."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gantk.data.items import Record
from gantk.data.sources.detect import source_for
from gantk.inference.tiles import whole_images
from gantk.machine.runtime import start
from gantk.method import Batch, Method, Stage
from gantk.recipe.load import load_recipe
from gantk.recipe.tables import Model
from gantk.training.accelerate.cuda_graph import WARM_UP
from gantk.training.assemble import Parts, assemble
from gantk.training.loop import inference_weights, resized
from peers.cases import STRUCTURE, Case
from peers.side import Side
from peers.switches import PLAIN, enter

WAYS: dict[str, tuple[str, ...]] = {  # label -> what is set over the case's recipe
    "gantk": (),
    "gantk plain": PLAIN,
    "gantk + structure": STRUCTURE,
}


def checked(case: Case, settings: Iterable[str] = (), *, data: str | None = None, seed: int = 0) -> Model:
    """The case's recipe, pointed at a folder where one is given."""
    tables: dict[str, Any] = case.tables(seed)
    if data is not None:
        tables["data"]["source"] = source_for(Path(data), 2, None)
    return load_recipe(tables).override(settings).check()


class Own(Side):
    """gantk's engine on a case's recipe; `parts` are its data, batches and scorer too."""

    name = "gantk"

    def __init__(self, model: Model, device: str | None):
        self.model = model
        self.parts: Parts = assemble(model, start(device, model.train.precision, model.train.fast.channels_last))
        self._batch: dict[str, Tensor] = {}
        self._running = self.parts.engine.fit(self._placed)

    @property
    def settling(self) -> int:
        """On a GPU the first steps are taken operator by operator, and then one is recorded."""
        return WARM_UP + 1 if self.parts.runtime.device.type == "cuda" else 0

    def enter(self) -> bool:
        return enter(self.parts.runtime.device.type == "cpu" and self.model.train.fast.keep_memory)

    def step(self, batch: dict[str, Tensor]) -> None:
        self._batch = batch
        next(self._running)

    def directions(self) -> list[str]:
        return self.parts.method.directions()

    def translate(self, images: Tensor, to: str) -> Tensor:
        """With averaged weights, as a run translates."""
        method, parts = self.parts.method, self.parts
        with inference_weights(method, parts.engine):
            return whole_images(lambda x: method.translate(x, to), method, self.model, parts.runtime)(images)

    def networks(self) -> Iterable[nn.Module]:
        return [self.parts.method]

    def batch(self, step: int) -> dict[str, Tensor]:
        """The images that step sees, on the host."""
        return self.parts.batches.at(step)

    @property
    def generator(self) -> nn.Module:
        """The network from a to b."""
        return self.parts.method.g_ab

    def scores(self) -> dict[str, Any]:
        """gantk's metrics, baselines and verdict on the test split."""
        self.parts.engine.check_finite("")
        with inference_weights(self.parts.method, self.parts.engine):
            return self.parts.scorer.test()

    def _placed(self, step: int, stage: Stage) -> Batch:
        runtime = self.parts.runtime
        batch = Batch({name: runtime.place(image, self.model.data.dims) for name, image in self._batch.items()})
        return resized(batch, stage.size)


class OwnWindows(Own):
    """Its step is the translation of a batch larger than what the networks are trained on.

    By default whole, as long as memory allows; with translate.statistics = "window" in overlapping windows.
    """

    def __init__(self, model: Model, device: str | None):
        super().__init__(model, device)
        method = self.parts.method.eval()
        self._whole = whole_images(lambda x: method.translate(x, "b"), method, model, self.parts.runtime)

    def batch(self, step: int) -> dict[str, Tensor]:
        data = self.parts.data
        return {name: data.image(records[step % len(records)])[None] for name, records in self._records.items()}

    def step(self, batch: dict[str, Tensor]) -> None:
        self._whole(batch["a"])

    def networks(self) -> Iterable[nn.Module]:
        return [self.generator]

    @cached_property
    def _records(self) -> dict[str, list[Record]]:
        training = self.parts.data.training
        return {name: [record for record in training if record.domain == name] for name in ("a", "b")}


class Guest(Method):
    """Another side as gantk's scorer sees it: a method that only translates."""

    def __init__(self, side: Side, host: Method):
        super().__init__(host.geometry)
        self.side, self.reads, self.paired = side, host.reads, host.paired

    def directions(self) -> list[str]:
        return self.side.directions()

    def translate(self, image: Tensor, to: str) -> Tensor:
        with torch.autocast(image.device.type, enabled=False):
            return self.side.translate(image.float(), to)
