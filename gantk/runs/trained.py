"""Builds the method of a run, loads its current or averaged weights, and applies the recipe's
post-steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gantk.catalog.contrasts import contrast_names
from gantk.errors import UserError
from gantk.machine.memory import UPPER_BOUND_BYTES_PER_VOXEL, Memory, probe_size
from gantk.machine.runtime import Runtime
from gantk.machine.usage import GIB, free_memory
from gantk.method import Geometry, Method, check_networks
from gantk.nets.products import use_products
from gantk.prepare.module import middle_slice
from gantk.recipe.tables import CheckedRecipe
from gantk.runs import checkpoint
from gantk.runs.results import PostLosses
from gantk.runs.schemas import Meta

if TYPE_CHECKING:
    from gantk.runs.checkpoint import Weights


def build_method(
    model: CheckedRecipe,
    channels: dict[str, int],
    classes: tuple[str, ...],
    range: tuple[float, float],
    runtime: Runtime,
) -> Method:
    """Build the recipe's method on the device, initialised with train.seed; UserError where the
    size does not fit.
    """
    torch.manual_seed(model.train.seed)
    method = model.method(_geometry(model, channels, classes, range))
    check_networks(method, key="data.patch" if model.data.patch else "data.size")
    method.batched = model.train.fast.batched_forward
    use_products(method, model.train.fast.kernels)
    runtime.place(method, model.data.dims)
    return method


def _geometry(
    model: CheckedRecipe,
    channels: dict[str, int],
    classes: tuple[str, ...],
    range: tuple[float, float],
    size: tuple[int, ...] | None = None,
) -> Geometry:
    """What the recipe's method is built for; None: images of the recipe's size."""
    size = size or model.data.patch or model.data.size
    names = map(contrast_names, model.data.domains)
    contrasts = dict(zip(model.method.target.reads, names, strict=False))
    return Geometry(model.data.dims, size, channels, classes, range, contrasts)


def load_method(
    model: CheckedRecipe, saved: Path, range: tuple[float, float], runtime: Runtime
) -> Method:
    """Load a checkpoint's method for inference: averaged weights if any, evaluation mode, no
    gradients.

    `range`: the network intensities of black and white. UserError where the weights are damaged,
    or those of another network or method.
    """
    meta = checkpoint.load_meta_of(model.method.name, saved)
    expect_every_domain(meta, model.method.target.reads, saved)
    weights = inference_state(saved)
    built_for = meta.channels, tuple(meta.classes), range
    require_same_networks(model, meta, weights, saved, _geometry(model, *built_for))
    small = probe_size(model.data.patch or model.data.size)
    require_memory(model, runtime, _geometry(model, *built_for, small))
    method = build_method(model, *built_for, runtime)
    checkpoint.load_into(method, add_left_out_networks(weights, method, meta), str(saved))
    return method.eval().requires_grad_(False)


def require_same_networks(
    model: CheckedRecipe, meta: Meta, weights: Weights, saved: Path, geometry: Geometry
) -> None:
    """UserError where the recipe's networks are not those of the weights; large ones are compared
    before they take memory.
    """
    method = None
    # building it for use reports the error
    with suppress(Exception), torch.device("meta"):
        method = model.method(geometry)

    if method is not None:
        expected = method.state_dict()
        checkpoint.check_same(expected, add_left_out_networks(weights, method, meta), str(saved))


def require_memory(model: CheckedRecipe, runtime: Runtime, probe: Geometry) -> None:
    """UserError, with figures, where one image of the recipe's size does not fit into the memory of
    the device, in proportion to the smaller images of `probe`.
    """
    size = model.data.patch or model.data.size
    room = free_memory(runtime.device)
    if room is None or prod(size) * UPPER_BOUND_BYTES_PER_VOXEL < room * GIB:
        return

    memory = Memory()
    # the translation itself reports the error
    with suppress(Exception), torch.no_grad():
        method = model.method(probe).eval()
        image = torch.zeros(1, probe.channels["a"], *probe.size)
        with memory:
            method.translate(image, "b")

    share_of_fp32 = 1.0 if model.train.precision == "fp32" else 0.5
    need = share_of_fp32 * memory.peak * prod(size) / prod(probe.size) / GIB
    if need > room:
        sides = " x ".join(map(str, size))
        raise UserError(
            f"this model translates images of {sides}, for which it needs at least {need:,.1f} GiB,"
            f" but only {room:.1f} GiB are available",
            where="data.size of the model's recipe",
            remedy="use a machine with more memory, or a model of smaller images",
        )


def expect_every_domain(meta: Meta, domains: Iterable[str], saved: Path) -> None:
    """UserError where a checkpoint's meta.json lacks one of the `domains`, or has others."""
    domains = set(domains)
    for key in ("channels", "intensity", "values"):
        found = getattr(meta, key)
        if set(found) != domains and (found or key != "values"):
            raise UserError(
                f"the checkpoint is damaged: '{key}' of its meta.json is not about all domains",
                where=str(saved),
                allowed=sorted(domains),
                remedy="restore it from a copy, or train again",
            )


def split_weights(weights: Weights) -> tuple[Weights, Weights]:
    """Split a checkpoint's weights into (live, averaged), each with the method's own parameter
    names.
    """
    live = {name[6:]: tensor for name, tensor in weights.items() if name.startswith("model.")}
    return live, {name[4:]: tensor for name, tensor in weights.items() if name.startswith("ema.")}


def inference_state(saved: Path) -> Weights:
    """The weights for inference: averaged where a tensor has an average, live otherwise.

    Weights stored as float16 become float32.
    """
    live, average = split_weights(checkpoint.load_weights(saved))
    weights = live | average
    return {
        name: tensor.float() if tensor.dtype == torch.float16 else tensor
        for name, tensor in weights.items()
    }


def add_left_out_networks(weights: Weights, method: Method, meta: Meta) -> Weights:
    """Add the method's own tensors for the networks that a packed checkpoint leaves out, such as
    discriminators.
    """
    left_out = tuple(meta.packed.left_out) if meta.packed else ()
    return {
        name: own for name, own in method.state_dict().items() if name.startswith(left_out)
    } | weights


class Posts:
    """Runs a recipe's post-steps, built once with (dims, range): each maps images (N, C, *size) to
    the same shape.

    A step may have a text `note`, which a training prints, and a function `record()`. It returns
    what the step measured in its last call, or None: a dictionary with the step's `name`, the number
    of `images`, and `curves`, name -> value for step 0, 1, ...
    """

    def __init__(self, model: CheckedRecipe, range: tuple[float, float]):
        self.steps = [part(model.data.dims, range) for part in model.post]
        # a step needs all slices of a volume
        self.whole = any(getattr(step, "whole", False) for step in self.steps)

    def __call__(self, images: Tensor, examples: Callable[[int], Tensor]) -> Tensor:
        for step in self.steps:
            # a step may use gradients
            with torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
                images = step(images.detach().float(), examples).detach()
        return images

    def notes(self) -> list[str]:
        """The notes of the steps that have one."""
        return [step.note for step in self.steps if getattr(step, "note", "")]

    def records(self) -> list[PostLosses]:
        """What the steps measured in their last call."""
        found = [step.record() for step in self.steps if callable(getattr(step, "record", None))]
        return [PostLosses.model_validate(record) for record in found if record]


class Examples:
    """Real images for a post-step: `examples(n)` are n evenly spread training images of the target
    domain `letter`.

    `examples.real(n)` has one image for each of the n outputs: its input or, for images from noise,
    a training image of its class. `made_from` holds those inputs or classes, of one volume its
    slices in order; `data()` returns the run's Data. Of images with neighbouring slices, a post-step
    gets the middle one (see `middle_slice`).
    """

    def __init__(
        self,
        data: Callable[[], Any],
        letter: str,
        device: Any,
        made_from: Tensor | list[str],
        neighbours: int = 0,
    ):
        """`neighbours`: slices on each side that the images of `data`, and `made_from`, have as
        channels.
        """
        self.data = data
        self.letter = letter
        self.device = device
        self.neighbours = neighbours
        self.made_from = made_from
        if isinstance(made_from, Tensor):
            self.made_from = middle_slice(made_from, neighbours)

    def __call__(self, n: int, label: str | None = None) -> Tensor:
        data = self.data()
        candidates = [
            r for r in data.training if r.domain == self.letter and label in (None, r.label)
        ]
        step = max(1, len(candidates) // n)
        images = torch.stack([data.image(candidates[i * step % len(candidates)]) for i in range(n)])
        return middle_slice(images, self.neighbours).to(self.device)

    def real(self, n: int) -> Tensor:
        if isinstance(self.made_from, Tensor):
            return self.made_from.to(self.device)
        images_of = {
            label: iter(self(self.made_from.count(label), label)) for label in set(self.made_from)
        }
        if images_of:
            return torch.stack([next(images_of[label]) for label in self.made_from])
        return self(n)
