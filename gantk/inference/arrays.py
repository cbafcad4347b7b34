"""Translates Python objects (arrays, tensors, images of libraries, paths, lists); the result has
the input's type.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gantk.data.intensity import IntensityMapping
from gantk.errors import UserError
from gantk.formats.files import read
from gantk.formats.image import Image
from gantk.inference import array_types as objects
from gantk.inference.array_shapes import (
    as_batch,
    check_values,
    own_mapping,
    own_result_scale,
    remove_batch_axes,
)
from gantk.inference.frame import DEFAULT_OPTIONS, TranslateOptions
from gantk.inference.masks import outside_of
from gantk.inference.pipeline import SLICES_PER_POST_BATCH, Pipeline, Progress

KINDS = "NumPy arrays, PyTorch tensors, images of nibabel and SimpleITK, paths, and lists of these"


class ArrayModel(Protocol):
    """What the translation of arrays needs of a TrainedModel."""

    def domain(self, name: str | None, /) -> str: ...

    def part(self, letter: str, to: str | None) -> slice: ...

    def pipeline(self, letter: str, options: TranslateOptions) -> Pipeline: ...

    def images(
        self,
        image: Image,
        to: str | None = None,
        options: TranslateOptions = DEFAULT_OPTIONS,
        progress: Progress | None = None,
    ) -> list[Image]: ...


def translate_arrays(
    model: ArrayModel,
    images: Any,
    to: str | None,
    options: TranslateOptions,
    progress: Any,
    grad: bool,
) -> Any:
    """Translate what `TrainedModel.translate` was given; its docstring says what is allowed and
    returned.
    """
    if isinstance(images, (list, tuple)):
        return [translate_arrays(model, each, to, options, progress, grad) for each in images]
    if is_tensor(images):
        return _tensor(model, images, to, options, progress, grad)
    if grad:
        what = f"gradients need a tensor, but the input is a {_type_name(images)}"
        raise UserError(what, where="grad", remedy="convert it: torch.as_tensor(array)")

    back: objects.Back = objects.nothing
    if isinstance(images, Image):
        image = images
    elif isinstance(images, (str, Path)):
        image = read(images)
    else:
        taken = objects.from_library_image(images)
        if taken is None:
            return _array(model, images, to, options, progress)
        image, back = taken

    results = [back(made) for made in model.images(image, to, options, progress)]
    return results[0] if len(results) == 1 and options.variants is None else results


def is_tensor(value: Any) -> bool:
    """Whether a value is a tensor of torch; torch is not imported for the test."""
    return "torch" in sys.modules and isinstance(value, sys.modules["torch"].Tensor)


def _type_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def _array(
    model: ArrayModel, array: Any, to: str | None, options: TranslateOptions, progress: Any
) -> np.ndarray:
    if not hasattr(array, "__array__"):
        what = f"an input of type {_type_name(array)} cannot be translated"
        raise UserError(what, where="translate", allowed=KINDS)

    array = np.asarray(array)
    if array.dtype.kind not in "biuf":
        what = f"an array of type {array.dtype} does not contain intensities"
        raise UserError(what, where="translate", allowed="arrays of integers or floats")

    letter = model.domain(to)
    pipeline = model.pipeline(letter, options)
    shape, kind = as_batch(array.shape, pipeline.frame)
    with np.errstate(over="ignore", invalid="ignore"):  # check_values reports values beyond float32
        pixels = np.ascontiguousarray(array.reshape(shape), dtype=np.float32)

    check_values(pixels, pipeline.frame)

    mapping = own_mapping(pipeline, pixels, kind)
    result_scale = own_result_scale(pipeline, pixels, mapping, array.dtype)
    translate = partial(
        pipeline.stack, mapping=mapping, progress=progress, result_scale=result_scale
    )
    if kind == "batch" and pipeline.frame.batch == SLICES_PER_POST_BATCH:
        # alone: a post-step would treat them as a volume
        singles = [translate(one) for one in np.split(pixels, len(pixels))]
        maps = [np.concatenate(parts) for parts in zip(*singles, strict=True)]
    else:
        maps = translate(pixels)

    if pipeline.frame.masked:
        _mask(pipeline, pixels, maps, mapping, result_scale, kind)

    dtype = array.dtype.newbyteorder("=") if array.dtype.kind == "f" else np.dtype(np.float32)
    results = []
    for made in maps:
        part = made[:, model.part(letter, to)]
        results.append(remove_batch_axes(part, kind).astype(dtype, copy=False))

    return results[0] if len(results) == 1 and options.variants is None else np.stack(results)


def _mask(
    pipeline: Pipeline,
    pixels: np.ndarray,
    maps: list[np.ndarray],
    mapping: IntensityMapping,
    result_scale: IntensityMapping,
    kind: str,
) -> None:
    """Fill, in place, what is masked out of each scan: of a batch, each image."""
    scans = [slice(None)]
    if kind == "batch":
        scans = [slice(number, number + 1) for number in range(len(pixels))]

    for scan in scans:  # masks expect a volume's order, (C, D, H, W)
        outside = outside_of(pixels[scan].swapaxes(0, 1))
        if outside:
            views = [made[scan].swapaxes(0, 1) for made in maps]
            pipeline.mask(views, outside, mapping, result_scale)


def _tensor(
    model: ArrayModel,
    images: Any,
    to: str | None,
    options: TranslateOptions,
    progress: Any,
    grad: bool,
) -> Any:
    torch = sys.modules["torch"]
    dtype = images.dtype if images.is_floating_point() else torch.float32
    if images.is_complex() or images.layout != torch.strided:
        kind = f"a tensor of {images.dtype}, {images.layout}"
        raise UserError(
            f"{kind} does not contain intensities",
            where="translate",
            allowed="dense tensors of integers or floats",
        )

    if grad:
        from gantk.inference.gradient import differentiable

        return differentiable(model, images, to, options).to(images.device, dtype)

    host = images.detach().cpu()
    host = host.float() if dtype in (torch.bfloat16, torch.float16) else host
    return torch.from_numpy(_array(model, host.numpy(), to, options, progress)).to(
        images.device, dtype
    )
