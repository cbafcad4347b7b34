"""A differentiable translation: intensity mapping, resampling, windows, network and detail, all
written in torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gantk.data.intensity import IntensityMapping
from gantk.data.preparation import middle_slice
from gantk.data.resample import Resize, resize
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
from gantk.inference.pipeline import Pipeline
from gantk.inference.processing import MIN_VARIANCE_SHARE, WINDOW_SIDE
from gantk.inference.tiles import TiledNetwork
from gantk.inference.windows import Box, at, pad_to_size, tiles


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
    # a masked NaN would still make the gradient NaN
    missing = native.isnan()
    native = native.nan_to_num()
    outputs = [
        _batch(pipeline, mapping, scale, native, missing, part, run)
        for part in torch.arange(len(native)).split(frame.batch)
    ]
    return remove_batch_axes(torch.cat(outputs)[:, model.part(letter, to)], several)


def _batch(
    pipeline: Pipeline,
    mapping: IntensityMapping,
    result_scale: IntensityMapping,
    images: Tensor,
    missing: Tensor,
    part: Tensor,
    run: Callable,
) -> Tensor:
    """Do what `Pipeline.stack` does for the images with indices `part`; missing contrasts are
    black.
    """
    frame = pipeline.frame
    native = tuple(images.shape[2:])
    cropped = frame.fit == "crop"
    reach = frame.neighbours
    grid = Resize(native, native if cropped else frame.size, "pad" if cropped else frame.fit)
    places = [(part + k).clamp(0, len(images) - 1) for k in range(-reach, reach + 1)]
    stacked = torch.cat([images[place] for place in places], dim=1)
    seen = _apply_mapping(mapping, _forward(stacked, grid))
    lacking = torch.cat([missing[place].flatten(2).all(2) for place in places], dim=1)
    lacking = lacking.view(*seen.shape[:2], *[1] * frame.dims)
    seen = torch.where(lacking, frame.range[0], seen)
    output = middle_slice(run(seen), reach)
    own = images[part]
    if grid.content == grid.native or frame.detail != "guided":
        made = _inverse(output, grid)
    else:
        high = torch.where(missing[part], frame.range[0], _apply_mapping(mapping, own))
        made = _with_detail(output, middle_slice(seen, reach), high, grid)

    made = result_scale.inverse(made)
    blank = torch.tensor([_is_blank(*one) for one in zip(own, missing[part], strict=True)])
    if blank.any():  # constant images skip the network: their translation is the mapping alone
        if made.shape[1] == own.shape[1]:
            level = _apply_mapping(mapping, own)
        else:
            level = torch.full_like(made, frame.range[0])
        blank = blank.to(made.device).view(-1, *[1] * frame.dims, 1)
        made = torch.where(blank, result_scale.inverse(level), made)

    return made


def _is_blank(image: Tensor, missing: Tensor) -> bool:
    """Whether all values of an image that are not missing are equal."""
    there = image[~missing]
    return not bool(there.max() > there.min())


def _apply_mapping(mapping: IntensityMapping, images: Tensor) -> Tensor:
    """Map images to network intensities; one by one where each image has its own mapping."""
    if getattr(mapping, "per", "set") == "set":
        return mapping.forward(images)
    return torch.stack([mapping.forward(image) for image in images])


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


def _resize(images: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resize (N, C, *spatial) as `gantk.data.resample.resize` does, by one matrix for each axis."""
    for axis, to in enumerate(size, start=2):
        side = images.shape[axis]
        if side != to:
            identity = np.eye(side, dtype=np.float32)[:, None]
            matrix = torch.from_numpy(resize(identity, (1, to))[:, 0]).to(images.device)
            images = (images.movedim(axis, -1) @ matrix).movedim(-1, axis)

    return images


def _place_in_canvas(part: Tensor, window: Box, size: tuple[int, ...], images: Tensor) -> Tensor:
    if tuple(part.shape[2:]) == tuple(size):
        return part
    least = images.amin(dim=tuple(range(2, images.ndim)), keepdim=True)
    canvas = least.expand(*part.shape[:2], *size).clone()
    canvas[at(window)] = part
    return canvas


def _forward(images: Tensor, grid: Resize) -> Tensor:
    return _place_in_canvas(
        _resize(images[at(grid.shown)], grid.content), grid.window, grid.size, images
    )


def _inverse(images: Tensor, grid: Resize) -> Tensor:
    sides = tuple(place.stop - place.start for place in grid.shown)
    return _place_in_canvas(
        _resize(images[at(grid.window)], sides), grid.shown, grid.native, images
    )


def _with_detail(output: Tensor, seen: Tensor, native: Tensor, grid: Resize) -> Tensor:
    """`gantk.inference.pipeline.with_detail` for tensors (N, D, *size)."""
    if seen.shape[1] != output.shape[1]:
        seen, native = (
            each.mean(1, keepdim=True).expand(-1, output.shape[1], *each.shape[2:])
            for each in (seen, native)
        )

    x = seen.double()
    y = output.double()
    dims = output.ndim - 2
    pool = F.avg_pool2d if dims == 2 else F.avg_pool3d

    def mean(values: Tensor) -> Tensor:
        padded = F.pad(values, [WINDOW_SIDE // 2] * (2 * dims), mode="replicate")
        return pool(padded, WINDOW_SIDE, stride=1)

    mean_x = mean(x)
    variance = mean(mean(x * x) - mean_x * mean_x)
    covariance = mean(mean(x * y) - mean_x * mean(y))
    spatial = tuple(range(1, x.ndim))
    fixed = x.detach()
    value_range = fixed.amax(spatial, keepdim=True) - fixed.amin(spatial, keepdim=True)
    textured = variance > MIN_VARIANCE_SHARE * value_range**2
    slope = torch.where(textured, covariance / torch.where(textured, variance, 1.0), 0.0)
    return _inverse((y - slope * x).float(), grid) + _inverse(slope.float(), grid) * native
