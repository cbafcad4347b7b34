"""`Method`, the base class of trainable models, with its batches, phases and stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from gantk.errors import UserError

OTHER = {"a": "b", "b": "a"}  # the letters of two domains
Losses = dict[str, Tensor]  # by name


def direction_to(letter: str) -> str:
    """The direction `a_to_b` whose target is the domain `b`."""
    return f"{OTHER[letter]}_to_{letter}"


class Batch(dict[str, Tensor]):
    """The images of one training step, by name: `a` and `b`, or `image`; each is (N, C, *size).

    Further entries:

    * `label` with data.labels: (N,) int64, indices into `Geometry.classes`.
    * `mask_a`, `mask_b` or `mask_image` with data.mask: (N, 1, *size) from 0 to 1, 1 inside a
      lesion.
    * `near_a` and `near_b`: companions of the images, if `Method.companions` returns them.
    * Detached fakes that an earlier phase of the step has added.
    """


@dataclass(frozen=True)
class Geometry:
    """The properties of the data that a method needs to build its networks.

    Attributes:
        dims: 2 or 3.
        size: the size of the images that the networks see.
        channels: number of channels by domain: {"a": 1, "b": 1} or {"image": 1}.
        classes: names of the labels in a batch; () without labels.
        range: network intensities of black and white.
        contrasts: names of the contrasts by domain: {"a": ("T1", "FLAIR"), ...}.
    """

    dims: int  # 2 or 3
    size: tuple[int, ...]  # of the images the networks see
    channels: dict[str, int]  # per domain: {"a": 1, "b": 1} or {"image": 1}
    classes: tuple[str, ...] = ()  # names of the labels that a batch carries; () without labels
    range: tuple[float, float] = (-1.0, 1.0)  # network intensities of black and white
    # names per domain: {"a": ("T1", "FLAIR"), ...}
    contrasts: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def known_classes(self, conditional: bool) -> int:
        """The number of classes that the networks get as input: 0 unless `conditional`.

        Raises:
            UserError: `conditional` is set, but the data have fewer than two classes.
        """
        if conditional and len(self.classes) < 2:
            found = ", ".join(self.classes) or "no labels"
            raise UserError(
                f"a conditional method needs two classes or more, but the data have {found}",
                where="method.conditional",
                remedy="set data.labels = true and use data with two classes or more, or set"
                " method.conditional = false",
            )

        return len(self.classes) if conditional else 0


@dataclass(frozen=True)
class Phase:
    """One optimizer: the modules that it updates and the losses that it minimises.

    Args:
        name: the name of the phase in logs.
        updates: the modules to update. Only these get gradients while the phase runs.
        loss: a function from a batch to {name: scalar}. The engine minimises the sum and logs each
            loss by its name.
        every: run the phase in every n-th step.
        ema: whether to keep a moving average of `updates` for inference.
        optimizer: a function from parameters to an optimizer, if the recipe's optimizer does not
            fit. None: the recipe's.
    """

    name: str
    updates: tuple[nn.Module, ...]
    loss: Callable[[Batch], Losses]
    every: int = 1
    ema: bool = False
    optimizer: Callable | None = None


@dataclass(frozen=True)
class Stage:
    """A part of the training at one image size.

    Attributes:
        name: the name of the stage in logs.
        steps: number of steps.
        size: the size of the images.
    """

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
    """Base of every method. The keyword-only parameters of `__init__` are the keys of a recipe's
    `[method]` table.

    Example:

        class MyGAN(gantk.Method):
            def __init__(self, geometry: gantk.Geometry, *, generator: gantk.Generator = "unet"):
                super().__init__(geometry)
                self.g = generator(geometry.channels["a"], geometry.channels["b"], geometry.dims)

    Attributes:
        reads: the images that a step needs: ("a", "b") or ("image",).
        paired: whether a[i] and b[i] must show the same anatomy.
        hides: whether the method masks contrasts itself, so that targets may be missing.
        conditional: whether images are made of given classes: `sample` takes labels, and
            `translate` needs a view of the method by `of_class`.
        asked_class: the class that `translate` makes, as an index into `Geometry.classes`; None if
            this is no view by `of_class`.
        asked_contrasts: the names of the contrasts that `translate` makes; None if this is no view
            by `of_contrasts`.
        weighs_lesions: whether a loss needs the lesion masks of data.mask = true.
        progress: a scalar tensor that the engine sets, 0 at the first step and 1 at the last.
        batched: whether `batched_forward` may join its inputs.
        companions_note: what its companions are, in one sentence that gantk prints before it looks
            for them; "": it has none.

    All state that outlives a step must be in `state_dict`.
    """

    reads: ClassVar[tuple[str, ...]] = ("a", "b")  # the images a step needs
    paired: ClassVar[bool] = False  # whether a[i] and b[i] must show the same anatomy
    # whether it masks contrasts itself, and can train where targets are missing
    hides: ClassVar[bool] = False
    conditional: bool = False  # whether images are made of given classes
    asked_class: int | None = None  # of a view by `of_class`
    asked_contrasts: tuple[str, ...] | None = None  # of a view by `of_contrasts`
    weighs_lesions: bool = False  # whether a loss needs the lesion masks of data.mask = true
    companions_note: str = ""  # what its companions are, for the user
    progress: Tensor

    def __init__(self, geometry: Geometry):
        super().__init__()
        self.geometry = geometry
        self.batched = True
        self.register_buffer("progress", torch.zeros(()), persistent=False)

    def companions(self, sets: Mapping[str, Images]) -> Mapping[str, Companions]:
        """Find a companion image for each training image.

        gantk calls this before a training, on the first rank, and sends the result to the other
        ranks. A batch then contains the companions of `a` as `near_a`; augmentation moves both in
        the same way.

        Args:
            sets: the training images (C, *size) by domain.

        Returns:
            For each domain a function of (index, sets) that returns the companion of that image,
            (channels, *size) on its grid. Where it has the attributes `other`, a domain, and
            `like`, a tensor (images, matches) of indices into that domain, gantk counts the images
            that are matched with their own patient; where it is `alone`, each image has one match.
        """
        return {}

    def phases(self) -> list[Phase]:
        """The phases, in the order in which a step runs them."""
        raise TypeError(f"{type(self).__name__} must define phases()")

    def stages(self, steps: int) -> list[Stage]:
        """The stages of a training of `steps` steps. Default: one stage at the recipe's size."""
        return [Stage("main", steps, self.geometry.size)]

    def begin(self, stage: Stage, batch: Batch) -> None:
        """Prepare a stage. gantk calls this before its first step, and after a resume inside it."""

    def translate(self, image: Tensor, to: str) -> Tensor:
        """Translate images, by default with the network `g_ab` to `b` and `g_ba` to `a`.

        Args:
            image: (N, C, *size) of the other domain, in network intensities.
            to: the target domain, "a" or "b".
        """
        network = self._generator_to(to)
        if network is None:
            raise self._unable("translate", "an image-to-image method, such as cyclegan or dualgan")
        return network(image)

    def of_class(self, label: int) -> Self:
        """A view of this method, with the same weights, that translates images as those of one
        class.

        Args:
            label: an index into `Geometry.classes`.
        """
        view = copy(self)
        view.asked_class = label
        return view

    def of_contrasts(self, names: Sequence[str]) -> Self:
        """A view of this method, with the same weights, of which only these contrasts of the target
        domain are used. A method that makes them one by one can leave the others black.
        """
        view = copy(self)
        view.asked_contrasts = tuple(names)
        return view

    def variants(self, image: Tensor, to: str, n: int, seed: int) -> Tensor:
        """Generate `n` different translations of each image; returns (n, N, C, *size).

        The same seed gives the same translations.
        """
        raise self._unable(
            "generate several translations of one image", "a multimodal method, such as munit"
        )

    def translate_like(self, image: Tensor, to: str, example: Tensor) -> Tensor:
        """Translate images to domain `to`, each in the style of its example (N, C, *size) of that
        domain.
        """
        raise self._unable("use the style of an example", "a multimodal method, such as munit")

    def check_example(self, image: Tensor, example: Tensor, to: str, fault: str) -> None:
        """Check that the examples fit the images.

        Raises:
            UserError: the examples do not have the channels of domain `to`, or their number is
                neither one nor that of the images. The message has `fault` between the two shapes.
        """
        channels = self.geometry.channels[to]
        count = len(image)
        fits = example.ndim == image.ndim and example.shape[1] == channels
        if not fits or len(example) not in (1, count):
            raise UserError(
                f"an example of shape {tuple(example.shape)} {fault} {tuple(image.shape)}",
                where="example",
                allowed=f"1 or {count} images of {channels} channels",
            )

    def sample(self, n: int, seed: int, labels: Tensor | None = None) -> Tensor:
        """Generate `n` images from noise, (n, C, *size). The same seed gives the same images.

        Args:
            n: number of images.
            seed: seed of the noise.
            labels: the classes of the images, (n,) int64, for methods that were trained on labels.
                None: the classes in turn.
        """
        raise self._unable("sample", "a noise-to-image method, such as dcgan")

    def labels_of(self, n: int, labels: Tensor | None) -> Tensor:
        """The labels (n,) of `n` samples: `labels`, or the classes in turn.

        Raises:
            UserError: a label is not a class, or the method was not trained on labels.
        """
        classes = len(self.geometry.classes) if self.conditional else 0
        if labels is None:
            labels = torch.arange(n) % max(1, classes)
        elif not classes:
            raise UserError(
                "this method was not trained on labels",
                where="labels",
                remedy="train with method.conditional = true",
            )
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
        """The domains that `translate` can generate."""
        is_own = type(self).translate is not Method.translate
        return [to for to in ("b", "a") if to in self.reads and (is_own or self._generator_to(to))]

    def _generator_to(self, to: str) -> nn.Module | None:
        return getattr(self, f"g_{OTHER.get(to)}{to}", None)

    def batched_forward(
        self, network: nn.Module, *inputs: Tensor | tuple[Tensor, ...], call: Callable | None = None
    ) -> list:
        """Apply a network to several inputs, in one pass if possible.

        Args:
            network: the network. If its samples do not influence each other, its attribute
                `batch_independent` is true (see the function of that name in `gantk.nets.blocks`),
                and inputs of the same shape are joined. Otherwise each input has its own pass.
            inputs: tensors (N, ...), or tuples of tensors as several arguments.
            call: called in place of the network, such as one of its methods, or an augmentation
                followed by the network. It returns a tensor (N, ...) or a list of them.

        Returns:
            The outputs, one for each input.
        """
        call = network if call is None else call
        # the arguments of each call
        passes = [entry if isinstance(entry, tuple) else (entry,) for entry in inputs]
        joins = self.batched and len(passes) > 1 and getattr(network, "batch_independent", False)
        shapes = [[tensor.shape[1:] for tensor in arguments] for arguments in passes]
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
    ) -> Losses:
        """Compute the losses of a discriminator.

        Args:
            name: the name of the discriminator in logs.
            network: the discriminator.
            adversarial: a built adversarial loss.
            real: real images.
            fake: detached fakes.
            augment: a DiscriminatorAugment. It changes both before the network and observes the
                logits of the real images.

        Returns:
            {"d_NAME": loss}, with "penalty_NAME" if the adversarial loss has a gradient penalty.
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
    """Join two functions, such as an augmentation and a discriminator, to a `call` for
    `Method.batched_forward`.
    """
    return lambda image: then(first(image))


def check_networks(
    method: Method, size: tuple[int, ...] | None = None, key: str = "data.size"
) -> None:
    """Check before a training that every network can process images of `size`.

    Args:
        method: the method whose networks are checked.
        size: the size to check. None: the recipe's.
        key: the key of the recipe that sets the size, for the message.

    Raises:
        UserError: the `check_size` of a network refuses the size.
    """
    whole = method.geometry.size
    size = size or whole
    for name, network in method.named_children():
        check = getattr(network, "check_size", None)
        if check is not None:
            try:
                check(size)
            except UserError as error:
                error.where = f"{key} = {list(size)}, for {name}"
                error.remedy = (error.remedy or "").replace("data.size", key)
                if key == "data.size" and size != whole:
                    _describe_stage(error, size, whole)
                    error.where = f"{key} = {list(whole)}, for {name}"
                raise


def _describe_stage(error: UserError, size: tuple[int, ...], whole: tuple[int, ...]) -> None:
    """Say of a network that cannot process images of the `size` of a stage that `whole` ones do not
    fit.
    """
    given, scaled = (" x ".join(map(str, sides)) for sides in (whole, size))
    error.what = (
        f"images of {given} do not fit, as a stage trains on them at {scaled}: {error.what}"
    )
    error.allowed = f"in this stage {error.allowed}"
    error.remedy = "set another data.size (or data.patch, if set), or train without this stage"


def check_output_range(method: Method) -> None:
    """Check before a training that last activations reach black and white.

    Raises:
        UserError: a network ends in an activation (an `output_range`, as `output_activation` sets
            it) that cannot produce the range of `data.intensity`.
    """
    black, white = method.geometry.range
    for name, network in method.named_children():
        for layer in network.modules():
            low, high = getattr(layer, "output_range", (black, white))
            if low > black or high < white:
                raise UserError(
                    f"the last activation of {name} gives {low:g} to {high:g}, but images have"
                    f" intensities from {black:g} to {white:g}",
                    where="data.intensity.range",
                    allowed=f"a range within [{low:g}, {high:g}]",
                    remedy=(
                        f"set data.intensity.range = [{low}, {high}], or another activation_out of"
                        " the generator: tanh for [-1, 1], sigmoid for [0, 1]"
                    ),
                )


def check_losses(method: Method, phase: Phase, losses: Losses) -> Losses:
    """The losses that a phase returned.

    Raises:
        UserError: one is no scalar tensor: of a plain number nothing would be learned.
    """
    for name, loss in losses.items():
        if not isinstance(loss, Tensor) or loss.ndim:
            raise UserError(
                f"the loss '{name}' is no tensor with one number",
                where=f"the phase '{phase.name}' of the method {type(method).__name__}",
                remedy="return its .mean() or .sum(), without .item() or float()",
            )

    return losses


def _split(output: Tensor | Sequence, counts: list[int]) -> list:
    """Split an output (a tensor, or nested lists of tensors) of all samples into one output for
    each count.
    """
    if isinstance(output, Tensor):
        return list(output.split(counts))
    parts = [_split(item, counts) for item in output]
    return [list(part) for part in zip(*parts, strict=True)]


def domain_letters(domains: tuple[str, ...]) -> tuple[str, ...]:
    """`("a", "b")` for two domains, `("image",)` for one."""
    return ("image",) if len(domains) == 1 else ("a", "b")
