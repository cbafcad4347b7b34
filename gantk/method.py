"""What a trainable model is to the engine: phases of named losses, stages of image size, and a way to use it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gantk.errors import UserError


class Batch(dict[str, Tensor]):
    """Images of one step by name: `a` and `b`, or `image`; (N, C, *size). An earlier phase may leave detached fakes.

    Where the recipe asks for them: `label`, (N,) int64, an index into `Geometry.classes`; and `mask_a`, `mask_b` or
    `mask_image`, (N, 1, *size) from 0 to 1, 1 inside a lesion.
    """


@dataclass(frozen=True)
class Geometry:
    """What a method must know of its data to build networks."""

    dims: int  # 2 or 3
    size: tuple[int, ...]  # of the images the networks see
    channels: dict[str, int]  # per domain: {"a": 1, "b": 1} or {"image": 1}
    classes: tuple[str, ...] = ()  # names of the labels that a batch carries; () where the recipe asks for none
    range: tuple[float, float] = (-1.0, 1.0)  # network intensities of black and white


@dataclass(frozen=True)
class Phase:
    """One optimizer: the modules it updates and the losses it minimises.

    Args:
        name: what logs call it.
        updates: only these modules get gradients while the phase runs.
        loss: batch -> {name: scalar}; the engine minimises the sum and logs each by name.
        every: run on every n-th step.
        ema: keep a moving average of `updates`, used for inference.
        optimizer: parameters -> Optimizer, where the recipe's does not fit; None: the recipe's.
    """

    name: str
    updates: tuple[nn.Module, ...]
    loss: Callable[[Batch], dict[str, Tensor]]
    every: int = 1
    ema: bool = False
    optimizer: Callable | None = None


@dataclass(frozen=True)
class Stage:
    """A stretch of training at one image size."""

    name: str
    steps: int
    size: tuple[int, ...]


class Method(nn.Module):
    """Base of every method. Keyword-only parameters of `__init__` are the keys of a recipe's `[method]` table.

    All that is remembered between steps lives in `state_dict`. `progress` is a scalar tensor, 0 at the first step and 1
    at the last, set by the engine; `batched` says whether `together` may join passes.
    """

    reads: ClassVar[tuple[str, ...]] = ("a", "b")  # the images a step needs
    paired: ClassVar[bool] = False  # whether a[i] and b[i] must show the same anatomy
    conditional: bool = False  # whether samples are of a class that can be asked for
    weighs_lesions: bool = False  # whether a loss needs the lesion masks of data.mask = true

    def __init__(self, geometry: Geometry):
        super().__init__()
        self.geometry = geometry
        self.batched = True
        self.register_buffer("progress", torch.zeros(()), persistent=False)

    def phases(self) -> list[Phase]:
        """The phases, in the order in which a step runs them."""
        raise TypeError(f"{type(self).__name__} must define phases()")

    def stages(self, steps: int) -> list[Stage]:
        """The stages of a training of `steps` steps: one, at the recipe's size, unless a method grows."""
        return [Stage("main", steps, self.geometry.size)]

    def begin(self, stage: Stage, batch: Batch) -> None:
        """Called before a stage's first step and after a resume inside it: grow a network, place a canvas."""

    def translate(self, image: Tensor, to: str) -> Tensor:
        """Images (N, C, *size) of the other domain as domain `to` ("a" or "b"), in network intensities."""
        raise self._unable("translate", "an image-to-image method, such as cyclegan or dualgan")

    def variants(self, image: Tensor, to: str, n: int, seed: int) -> Tensor:
        """`n` different translations of each image, (n, N, C, *size), the same for the same seed."""
        raise self._unable("give several translations of one image", "a multimodal method, such as munit")

    def translate_like(self, image: Tensor, to: str, example: Tensor) -> Tensor:
        """Images as domain `to`, each in the style of its example (N, C, *size) of that domain."""
        raise self._unable("take its style from an example", "a multimodal method, such as munit")

    def sample(self, n: int, seed: int, labels: Tensor | None = None) -> Tensor:
        """`n` images from noise, (n, C, *size), the same for the same seed.

        `labels`, (n,) int64, are for methods that were trained on labels; None: the classes in turn.
        """
        raise self._unable("sample", "a noise-to-image method, such as dcgan")

    @property
    def samples(self) -> bool:
        """Whether the method makes images from noise."""
        return type(self).sample is not Method.sample

    def directions(self) -> list[str]:
        """The domains `translate` can produce."""
        return [d for d in ("b", "a") if type(self).translate is not Method.translate and d in self.reads]

    def together(self, network: nn.Module, *images: Tensor) -> list[Tensor]:
        """The network's output for each input: in one pass where its norm keeps the samples of a batch apart."""
        shapes = {image.shape[1:] for image in images}
        if not self.batched or len(images) == 1 or len(shapes) > 1 or not getattr(network, "batch_independent", False):
            return [network(image) for image in images]
        return list(network(torch.cat(images)).split([len(image) for image in images]))

    def _unable(self, verb: str, instead: str) -> UserError:
        return UserError(f"the method '{type(self).__name__}' cannot {verb}", remedy=f"use a run of {instead}")


def check_networks(method: Method, size: tuple[int, ...] | None = None) -> None:
    """Ask every network that can say so whether it takes `size` (None: the recipe's); UserError before any training."""
    whole = size in (None, method.geometry.size)
    size = size or method.geometry.size
    for name, network in method.named_children():
        if hasattr(network, "check_size"):
            try:
                network.check_size(size)
            except UserError as error:
                error.where = f"{'data.size' if whole else 'size of a stage'} = {list(size)}, for {name}"
                if not whole:
                    error.remedy = "choose data.size so that every stage fits, or train without that stage"
                raise
