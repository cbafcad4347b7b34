"""A differentiable translation: the network between the two halves of `gantk.prepare`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gantk.errors import UserError
from gantk.inference.arrays import batch_of, numbers, remove_batch_axes
from gantk.inference.frame import TranslateOptions
from gantk.prepare.module import Prepared, neighbour_places


def differentiable(model: Any, images: Tensor, to: str | None, options: TranslateOptions) -> Tensor:
    """Translate a tensor as `translate` does; returns float32 on the model's device, with its
    autograd graph.

    The choice of intensity mapping, the test for flat regions and the value of black are constants
    of the graph. Images are processed whole or in windows, as the recipe says, never in tiles,
    which takes the memory of a training step.
    """
    letter = model.domain(to)
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
    frame = pipeline.frame
    batch = batch_of(numbers(images), pipeline)
    native = images.reshape(batch.shape).to(model.runtime.device, torch.float32)
    network = model.network_on_images(letter, options, graph=True)
    outputs = []
    for places, image in batch.scans:
        part = native[places]
        pixels = frame.as_in_training(image.pixels)
        if pixels is not image.pixels:
            dark = torch.from_numpy(batch.axes_of_batch(pixels).copy()).to(part.device)
            part = torch.where(dark != part.detach(), dark, part)
        mapping, scale = pipeline.scales(replace(image, pixels=pixels))
        prepared = Prepared(pipeline.preparation(mapping, scale), network).to(part.device)
        for middles in torch.arange(len(part)).split(frame.batch):
            rows = neighbour_places(middles, frame.neighbours, len(part))
            outputs.append(prepared(part[rows].flatten(1, 2)))

    return remove_batch_axes(torch.cat(outputs)[:, model.frames[letter].part(to)], batch.kind)
