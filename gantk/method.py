"""`Method`, the engine's interface to a trainable model: phases of named losses, stages of image
size, inference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from gantk.errors import UserError


class Batch(dict[str, Tensor]):
    """Images of one step by name: `a` and `b`, or `image`; (N, C, *size). An earlier phase may add
    detached fakes.

    With data.labels: `label`, (N,) int64, an index into `Geometry.classes`. With data.mask:
    `mask_a`, `mask_b` or `mask_image`, (N, 1, *size) from 0 to 1, 1 inside a lesion. `near_a` and
    `near_b` come from `Method.companions`.
    """


@dataclass(frozen=True)
class Geometry:
    """What a method needs to know about its data to build networks."""

    dims: int  # 2 or 3
    size: tuple[int, ...]  # of the images the networks see
    channels: dict[str, int]  # per domain: {"a": 1, "b": 1} or {"image": 1}
    classes: tuple[str, ...] = ()  # names of the labels that a batch carries; () without labels
    range: tuple[float, float] = (-1.0, 1.0)  # network intensities of black and white
    # names per domain: {"a": ("T1", "FLAIR"), ...}
    contrasts: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def known_classes(self, conditional: bool) -> int:
        """The number of classes that networks get as input, 0 unless `conditional`; UserError for
        fewer than two.
        """
        if conditional and len(self.classes) < 2:
            if self.classes:
                found = f"images of one class only, '{self.classes[0]}'"
            else:
                found = "no labels"

            what = f"a conditional method needs two classes or more, but the data have {found}"
            remedy = (
                "set data.labels = true and use data with two classes or more, or set"
                " method.conditional = false"
            )
            raise UserError(what, where="method.conditional", remedy=remedy)

        return len(self.classes) if conditional else 0


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


class Images(Protocol):
    """The training images (C, *size) of one domain."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Tensor: ...


# is pickled, so it must not hold the images
Companions = Callable[[int, Mapping[str, Images]], Tensor]


class Method(nn.Module):
    """Base of every method. Keyword-only parameters of `__init__` are the keys of a recipe's
    `[method]` table.

    All state that outlives a step is in `state_dict`. `progress` is a scalar tensor, 0 at the first
    step and 1 at the last, set by the engine; `batched` says whether `batched_forward` may join
    passes.
    """

    reads: ClassVar[tuple[str, ...]] = ("a", "b")  # the images a step needs
    paired: ClassVar[bool] = False  # whether a[i] and b[i] must show the same anatomy
    # whether it masks contrasts itself, and can train where targets are missing
    hides: ClassVar[bool] = False
    conditional: bool = False  # whether `sample` makes images of given labels
    weighs_lesions: bool = False  # whether a loss needs the lesion masks of data.mask = true
    progress: Tensor
    latent: int  # length of the noise vectors of a method with `sampler`

    def __init__(self, geometry: Geometry):
        super().__init__()
        self.geometry = geometry
        self.batched = True
        self.register_buffer("progress", torch.zeros(()), persistent=False)

    def companions(self, sets: Mapping[str, Images]) -> Mapping[str, Companions]:
        """By domain a function of (index, sets) that returns a companion of that image, (channels,
        *size) on its grid.

        Called before a training on the first rank, with the training images (C, *size) by domain;
        the other ranks are sent the result. A batch then holds the companions of `a` as `near_a`,
        and augmentation moves both alike.
        """
        return {}

    def phases(self) -> list[Phase]:
        """The phases, in the order in which a step runs them."""
        raise TypeError(f"{type(self).__name__} must define phases()")

    def stages(self, steps: int) -> list[Stage]:
        """The stages of a training of `steps` steps: one, at the recipe's size, unless a method
        grows.
        """
        return [Stage("main", steps, self.geometry.size)]

    def begin(self, stage: Stage, batch: Batch) -> None:
        """Called before a stage's first step and after a resume inside it: grow a network, place a
        canvas.
        """

    def translate(self, image: Tensor, to: str) -> Tensor:
        """Images (N, C, *size) of the other domain as domain `to` ("a" or "b"), in network
        intensities.
        """
        raise self._unable("translate", "an image-to-image method, such as cyclegan or dualgan")

    def variants(self, image: Tensor, to: str, n: int, seed: int) -> Tensor:
        """`n` different translations of each image, (n, N, C, *size), the same for the same seed."""
        raise self._unable(
            "generate several translations of one image", "a multimodal method, such as munit"
        )

    def translate_like(self, image: Tensor, to: str, example: Tensor) -> Tensor:
        """Images as domain `to`, each in the style of its example (N, C, *size) of that domain."""
        raise self._unable("use the style of an example", "a multimodal method, such as munit")

    def check_example(self, image: Tensor, example: Tensor, to: str, fault: str) -> None:
        """UserError, with `fault` between the shapes, where an example (N, C, *size) of domain `to`
        does not have its channels, or is neither one nor as many as the images.
        """
        channels = self.geometry.channels[to]
        count = len(image)
        fits = example.ndim == image.ndim and example.shape[1] == channels
        if not fits or len(example) not in (1, count):
            what = f"an example of shape {tuple(example.shape)} {fault} {tuple(image.shape)}"
            allowed = f"1 or {count} images of {channels} channels"
            raise UserError(what, where="example", allowed=allowed)

    def sample(self, n: int, seed: int, labels: Tensor | None = None) -> Tensor:
        """`n` images from noise, (n, C, *size), the same for the same seed.

        `labels`, (n,) int64, are for methods that were trained on labels; None: the classes in
        turn.
        """
        raise self._unable("sample", "a noise-to-image method, such as dcgan")

    def labels_of(self, n: int, labels: Tensor | None) -> Tensor:
        """Labels (n,) of `n` samples: those given, or the classes in turn; UserError where one is
        not a class.
        """
        classes = len(self.geometry.classes) if self.conditional else 0
        if labels is None:
            labels = torch.arange(n) % max(1, classes)
        elif not classes:
            what = "this method was not trained on labels"
            remedy = "train with method.conditional = true"
            raise UserError(what, where="labels", remedy=remedy)
        elif not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise UserError(
                "a label is not among the classes", where="labels", allowed=f"0 to {classes - 1}"
            )

        return labels.to(self.progress.device)

    @property
    def samples(self) -> bool:
        """Whether the method generates images from noise."""
        return type(self).sample is not Method.sample

    def directions(self) -> list[str]:
        """The domains `translate` can produce."""
        return [
            d
            for d in ("b", "a")
            if type(self).translate is not Method.translate and d in self.reads
        ]

    def batched_forward(
        self, network: nn.Module, *inputs: Tensor | tuple[Tensor, ...], call: Callable | None = None
    ) -> list:
        """The network's output for each input, in one pass if its norms treat each sample of a
        batch separately.

        An input is a tensor (N, ...), or a tuple of tensors as several arguments. `call` is called
        instead of the network: one of its methods, or an augmentation followed by the network; it
        returns a tensor (N, ...) or a list of them. A network whose samples do not affect each
        other has an attribute `batch_independent`: see the function of that name in
        `gantk.nets.blocks`. Without it, and where inputs differ in shape, each input has its own
        pass.
        """
        call = network if call is None else call
        # the arguments of each call
        passes = [entry if isinstance(entry, tuple) else (entry,) for entry in inputs]
        joins = self.batched and len(passes) > 1 and getattr(network, "batch_independent", False)
        if joins:
            shapes = [[tensor.shape[1:] for tensor in arguments] for arguments in passes]
        else:
            shapes = []

        if not joins or any(shape != shapes[0] for shape in shapes):
            return [call(*arguments) for arguments in passes]

        joined = [torch.cat(tensors) for tensors in zip(*passes, strict=True)]
        return _split(call(*joined), [len(arguments[0]) for arguments in passes])

    def real_fake_losses(
        self,
        name: str,
        network: nn.Module,
        adversarial: Any,
        real: Tensor,
        fake: Tensor,
        augment: Any = None,
    ) -> dict[str, Tensor]:
        """A discriminator's losses: {"d_NAME": loss}, and "penalty_NAME" where the adversarial
        loss has a gradient penalty.

        `adversarial` is a built adversarial loss; `fake` is detached. `augment`, a
        DiscriminatorAugment, changes both before the network, and observes the logits of the real
        images.
        """
        logits = self.batched_forward(
            network, real, fake, call=compose(augment, network) if augment else None
        )
        if augment:
            augment.observe(logits[0])

        losses = {f"d_{name}": adversarial.discriminator(*logits)}
        penalty = adversarial.penalty(network, real, fake)
        return losses if penalty is None else losses | {f"penalty_{name}": penalty}

    def _unable(self, verb: str, instead: str) -> UserError:
        return UserError(
            f"the method '{type(self).__name__}' cannot {verb}", remedy=f"use a run of {instead}"
        )


def compose(first: Callable[[Tensor], Tensor], then: Callable) -> Callable:
    """Both functions as one, such as an augmentation and a discriminator; a `call` for
    `Method.batched_forward`.
    """
    return lambda image: then(first(image))


def check_networks(
    method: Method, size: tuple[int, ...] | None = None, key: str = "data.size"
) -> None:
    """UserError where a network's `check_size` refuses `size` (None: the recipe's, its `key`),
    before a training.
    """
    whole = size in (None, method.geometry.size)
    size = size or method.geometry.size
    for name, network in method.named_children():
        check = getattr(network, "check_size", None)
        if check is not None:
            try:
                check(size)
            except UserError as error:
                error.where = f"{key if whole else 'size of a stage'} = {list(size)}, for {name}"
                stages = (
                    "choose a data.size (or data.patch, if set) that fits every stage, or"
                    " train without this stage"
                )
                error.remedy = (error.remedy or "").replace("data.size", key) if whole else stages
                raise


def check_losses(method: Method, phase: Phase, losses: object) -> dict[str, Tensor]:
    """The losses that a phase returned; UserError unless they are scalar tensors by name, one of
    them with gradient.
    """
    where = f"the phase '{phase.name}' of the method {type(method).__name__}"
    if not isinstance(losses, dict) or not losses:
        what = "the phase did not return a dictionary of losses"
        raise UserError(what, where=where, allowed='{"name": loss, ...}, each a tensor of shape ()')

    for name, loss in losses.items():
        if not isinstance(loss, Tensor) or loss.ndim or loss.device != method.progress.device:
            if isinstance(loss, Tensor):
                shape = f" of shape {tuple(loss.shape)} on {loss.device}"
            else:
                shape = ""

            what = (
                f"the loss '{name}' is {type(loss).__name__}{shape}, but it must be a"
                " tensor with one number"
            )
            remedy = (
                "return its .mean() or .sum() on the device of the method, without"
                " .item(), float() or .cpu()"
            )
            raise UserError(what, where=where, remedy=remedy)

    if not any(loss.requires_grad for loss in losses.values()):
        what = (
            f"no loss ({', '.join(losses)}) depends on a weight, so nothing can be learned from it"
        )
        remedy = (
            "compute a loss from the outputs of the networks of this phase, without"
            " .detach(), .item() or torch.no_grad()"
        )
        raise UserError(what, where=where, remedy=remedy)

    return losses


def _split(output: Tensor | Sequence, counts: list[int]) -> list:
    """Split an output (a tensor, or nested lists of tensors) of all samples into one output for
    each count.
    """
    if isinstance(output, Tensor):
        return list(output.split(counts))
    parts = [_split(item, counts) for item in output]
    return [list(part) for part in zip(*parts, strict=True)]
