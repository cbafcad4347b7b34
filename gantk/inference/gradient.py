"""A differentiable translation: the network with its windows in torch, between the two halves of
`gantk.prepare`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gantk.errors import UserError
from gantk.inference.array_shapes import (
    as_batch,
    as_in_training,
    check_values,
    own_mapping,
    own_result_scale,
    remove_batch_axes,
)
from gantk.inference.frame import TranslateOptions
from gantk.inference.tiles import TiledNetwork
from gantk.inference.windows import at, pad_to_size, tiles
from gantk.prepare.module import Prepared, neighbour_places


def differentiable(model: Any, images: Tensor, to: str | None, options: TranslateOptions) -> Tensor:
    """Translate a tensor as `translate` does; returns float32 on the model's device, with its
    autograd graph.

    The choice of intensity mapping, the test for flat regions and the value of black are constants
    of the graph. Images are processed whole or in windows, as the recipe says, never in tiles,
    which takes the memory of a training step.
    """
    letter = model.domain(to)
    if not hasattr(model, "method"):
        raise UserError(
            "an exported model has no gradients", where="grad", remedy="load the run folder"
        )

    if (
        options.variants is not None
        or options.uncertainty
        or options.example is not None
        or model.model.post
    ):
        raise UserError(
            "gradients are not available with variants, style, uncertainty or post-steps",
            where="grad",
            remedy="train without post-steps (post = [])" if model.model.post else None,
        )

    if not images.is_floating_point():
        raise UserError(
            f"a tensor of {images.dtype} has no gradients",
            where="grad",
            remedy="call .float() on it",
        )

    pipeline = model.pipeline(letter, options)
    shape, several = as_batch(tuple(images.shape), pipeline.frame)
    native = images.reshape(shape).to(model.runtime.device, torch.float32)
    host = native.detach().cpu().numpy()
    check_values(host, pipeline.frame)
    dark = as_in_training(host, pipeline.frame)
    if dark is not host:
        filled = torch.from_numpy(dark).to(native.device)
        native = torch.where(filled != native.detach(), filled, native)
        host = dark
    mapping = own_mapping(pipeline, host, several)
    scale = own_result_scale(pipeline, host, mapping, host.dtype)
    frame = pipeline.frame
    run = _network(model, letter, options.label)
    prepared = Prepared(pipeline.preparation(mapping, scale), run).to(native.device)
    outputs = []
    for part in torch.arange(len(native)).split(frame.batch):
        places = neighbour_places(part, frame.neighbours, len(native))
        outputs.append(prepared(native[places].flatten(1, 2)))

    return remove_batch_axes(torch.cat(outputs)[:, model.part(letter, to)], several)


def _network(model: Any, letter: str, label: str | None) -> Callable[[Tensor], Tensor]:
    """Return a function (N, C, *size) -> (N, D, *size), float32 with graph, of whole images or of
    blended windows.
    """
    method = model.method_of_class(label)
    runtime = model.runtime
    table = model.model.translate
    trained = tuple(method.geometry.size)
    dims = model.model.data.dims

    def straight(images: Tensor) -> Tensor:
        with runtime.autocast():
            return method.translate(runtime.place(images, dims), letter).float()

    window = trained if table.statistics == "window" else None
    tiling = TiledNetwork(
        straight, method, window=window, place=lambda x: runtime.place(x, dims), memory=2**62
    )

    def run(images: Tensor) -> Tensor:
        if tuple(images.shape[2:]) == trained:
            return straight(images)

        plan = tiling.plan(tuple(images.shape[1:]))
        framed, inside = pad_to_size(images, plan.size)
        if plan.window == plan.size:
            return straight(framed)[at(inside)]

        shared = [part - max(1, int(part * (1 - table.overlap))) for part in plan.window]
        total: Any = 0
        for tile in tiles(plan.size, plan.window, shared, (1,) * dims):
            made = straight(framed[at(tile.box)])
            for axis, weights in enumerate(tile.weights, 1):
                along = torch.from_numpy(weights).to(made.device)
                made = made * along.reshape(-1, *[1] * (dims - axis))
            around: list[int] = []  # the last axis first, as torch pads
            for place, side in zip(reversed(tile.box), reversed(plan.size), strict=True):
                around += [place.start, side - place.stop]
            total = total + F.pad(made, around)

        return total[at(inside)]

    return run
