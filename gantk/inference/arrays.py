"""Translates Python objects (arrays, tensors, images of libraries, paths, lists); the result has
the input's type.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gantk.data.intensity import IntensityMapping
from gantk.data.masks import outside_of
from gantk.errors import UserError
from gantk.formats.files import read
from gantk.formats.image import Image, unusable_values
from gantk.inference import array_types as objects
from gantk.inference.array_shapes import (
    as_batch,
    as_in_training,
    check_values,
    has_slices_last,
    own_mapping,
    own_result_scale,
    remove_batch_axes,
)
from gantk.inference.frame import DEFAULT_OPTIONS, OTHER, Frame, TranslateOptions
from gantk.inference.notes import Note, ResultCheck, about_scale, check_input, warn
from gantk.inference.patients import (
    by_contrast,
    contrasts_to_make,
    expect_sources,
    on_one_grid,
    stack_contrasts,
)
from gantk.inference.pipeline import SLICES_PER_POST_BATCH, Pipeline, Progress

KINDS = (
    "NumPy arrays, PyTorch tensors, images of nibabel and SimpleITK, paths, and lists of these, or"
    " dicts of them by contrast"
)


class ArrayModel(Protocol):
    """What the translation of arrays needs of a TrainedModel."""

    def domain(self, name: str | None, /) -> str: ...

    def frame(self, letter: str, /) -> Frame: ...

    def contrasts(self, letter: str, /) -> list[str]: ...

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
    if isinstance(images, Mapping):
        if grad:
            what = "gradients need one tensor, but the input is a dict of contrasts"
            raise UserError(what, where="grad", allowed="a tensor with a channel for each contrast")
        return _contrasts(model, images, to, options, progress)
    if is_tensor(images):
        return _tensor(model, images, to, options, progress, grad)
    if grad:
        what = f"gradients need a tensor, but the input is a {_type_name(images)}"
        raise UserError(what, where="grad", remedy="convert it: torch.as_tensor(array)")

    if hasattr(images, "__array__"):
        return _array(model, images, to, options, progress)

    image, back = _as_image(images)
    letter = model.domain(to)
    frame = model.frame(letter)
    image, notes = check_input(image, frame)
    pipeline = model.pipeline(letter, options)
    notes += about_scale(image, pipeline)
    check = ResultCheck(pipeline, image)
    made = model.images(image, to, options, progress)
    said = warn([*notes, *check.notes(made[0].pixels, frame)])
    results = [back(replace(each, notes=said)) for each in made]
    return results[0] if len(results) == 1 and options.variants is None else results


def is_tensor(value: Any) -> bool:
    """Whether a value is a tensor of torch; torch is not imported for the test."""
    return "torch" in sys.modules and isinstance(value, sys.modules["torch"].Tensor)


def _type_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def _array(
    model: ArrayModel, array: Any, to: str | None, options: TranslateOptions, progress: Any
) -> np.ndarray:
    array = _numbers(array)
    pipeline = model.pipeline(model.domain(to), options)
    shape, kind = as_batch(array.shape, pipeline.frame)
    warn(_about_values(array.reshape(shape), pipeline))
    return _translate_batch(model, array.reshape(shape), kind, to, options, progress)


def _about_values(batch: np.ndarray, pipeline: Pipeline) -> list[Note]:
    """The notes about an array (N, C, *spatial): those that need neither header nor name."""
    frame = pipeline.frame
    scan = _as_scan(batch, frame.dims) if len(batch) == 1 or frame.dims == 2 else batch[0]
    if unusable_values(scan):
        return []  # refused, or a missing contrast

    if frame.dims == 2 and len(batch) == 1:
        scan = batch[0]
    scan = scan.astype(np.float32)
    image = Image(scan, path=Path("/array"))
    _, notes = check_input(image, frame)
    notes += about_scale(image, pipeline)
    if frame.plane == "axial" and scan.ndim == 4 and has_slices_last(scan[0]):
        line = (
            "the array looks like (x, y, z), as of get_fdata(), but its axes are taken as slices,"
            " rows and columns: translate the nibabel image itself"
        )
        notes.append(("warning", line))
    return notes


def _translate_batch(
    model: ArrayModel,
    batch: np.ndarray,
    kind: str,
    to: str | None,
    options: TranslateOptions,
    progress: Any,
) -> np.ndarray:
    """Translate an array (N, C, *spatial) of a kind that `as_batch` names; returns the results with
    the axes of that kind.
    """
    letter = model.domain(to)
    pipeline = model.pipeline(letter, options)
    with np.errstate(over="ignore", invalid="ignore"):  # check_values reports values beyond float32
        pixels = np.ascontiguousarray(batch, dtype=np.float32)

    check_values(pixels, pipeline.frame)
    pixels = as_in_training(pixels, pipeline.frame)
    mapping = own_mapping(pipeline, pixels, kind)
    result_scale = own_result_scale(pipeline, pixels, mapping, batch.dtype)
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

    dtype = batch.dtype.newbyteorder("=") if batch.dtype.kind == "f" else np.dtype(np.float32)
    results = []
    for made in maps:
        part = made[:, model.part(letter, to)]
        results.append(remove_batch_axes(part, kind).astype(dtype, copy=False))

    return results[0] if len(results) == 1 and options.variants is None else np.stack(results)


def _contrasts(
    model: ArrayModel,
    given: Mapping[str, Any],
    to: str | None,
    options: TranslateOptions,
    progress: Any,
) -> Any:
    """Translate the contrasts of one patient; returns one result where `to` names one contrast, else
    a dict of results by contrast.
    """
    letter = model.domain(to)
    frame = model.frame(letter)
    contrasts = model.contrasts(OTHER[letter])
    images = by_contrast(given, contrasts, "images")
    targets = model.contrasts(letter)[model.part(letter, to)]
    names = targets
    if frame.completes:
        names = contrasts_to_make(targets, images, to, "the input")

    expect_sources([*images], contrasts, targets, frame.missing, "the input")
    options = replace(options, contrasts=tuple(names))
    arrays = {name: image for name, image in images.items() if hasattr(image, "__array__")}
    if len(arrays) == len(images):
        parts = _contrasts_of_arrays(model, arrays, to, options, progress)
    elif arrays:
        what = "some contrasts are arrays, others are images of another type"
        raise UserError(what, allowed="one type for all contrasts of a patient")
    else:
        parts = _contrasts_of_images(model, images, to, options, progress)

    made = dict(zip(targets, parts, strict=True))
    if to is not None and len(targets) == 1:
        return made[targets[0]]
    return {name: made[name] for name in names}


def _contrasts_of_arrays(
    model: ArrayModel,
    images: Mapping[str, Any],
    to: str | None,
    options: TranslateOptions,
    progress: Any,
) -> list[Any]:
    """The results of each target contrast for arrays or tensors of one shape: an image, or a stack
    of slices.
    """
    letter = model.domain(to)
    frame = model.frame(letter)
    arrays = {name: _numbers(image) for name, image in images.items()}
    shape = _one_shape(arrays)
    is_stack = len(shape) == frame.dims + 1
    if len(shape) != frame.dims and not is_stack:
        axes = "(H, W) or (D, H, W)" if frame.dims == 2 else "(D, H, W)"
        what = f"the arrays have the shape {shape}"
        raise UserError(what, allowed=f"{axes} for each contrast")

    missing = np.full(shape, np.nan, dtype=np.float32)
    channels = [arrays.get(name, missing) for name in model.contrasts(OTHER[letter])]
    if is_stack:
        batch = np.stack(channels, axis=1)
        made = _translate_batch(model, batch, "stack", to, options, progress)
    else:
        batch = np.stack(channels)[None]
        made = _translate_batch(model, batch, "one", to, options, progress)

    dtype = np.result_type(*arrays.values())
    made = made.astype(dtype if dtype.kind == "f" else np.float32, copy=False)
    targets = model.contrasts(letter)[model.part(letter, to)]
    parts = [made]
    if len(targets) > 1:
        parts = list(np.moveaxis(made, -1 - frame.dims, 0))
    return _as_given(parts, next(iter(images.values())))


def _numbers(values: Any) -> np.ndarray:
    """An array, or a tensor of any device, as an array; UserError where it holds no real numbers."""
    array = values.detach().cpu().numpy() if is_tensor(values) else np.asarray(values)
    if array.dtype.kind not in "biuf":
        what = f"an array of type {array.dtype} does not contain intensities"
        raise UserError(what, allowed="arrays of integers or floats")
    return array


def _one_shape(arrays: Mapping[str, np.ndarray]) -> tuple[int, ...]:
    """The shape of the arrays of one patient; UserError where they differ."""
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) > 1:
        shown = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        what = f"the arrays of one patient have different shapes: {shown}"
        remedy = "give images of nibabel, which are resampled onto one grid, or resample the arrays"
        raise UserError(what, allowed="one shape", remedy=remedy)
    return shapes.pop()


def _as_given(parts: list[np.ndarray], first: Any) -> list[Any]:
    """Arrays as they are, or as tensors on the device of `first`, where that is a tensor."""
    if not is_tensor(first):
        return parts

    torch = sys.modules["torch"]
    return [torch.from_numpy(np.ascontiguousarray(part)).to(first.device) for part in parts]


def _contrasts_of_images(
    model: ArrayModel,
    given: Mapping[str, Any],
    to: str | None,
    options: TranslateOptions,
    progress: Any,
) -> list[Any]:
    """The results of each target contrast for images with a grid, on the grid that `options.onto`
    names.
    """
    letter = model.domain(to)
    images = {}
    backs = {}
    said: tuple[str, ...] = ()
    for name, value in given.items():
        image, backs[name] = _as_image(value)
        images[name], notes = check_input(image, model.frame(letter), name)
        said += warn(notes)

    images, chosen, _ = on_one_grid(images, options.onto)
    image = stack_contrasts(images, model.contrasts(OTHER[letter]), chosen)
    results = model.images(image, to, options, progress)
    parts = []
    for number in range(results[0].channels):
        own = [replace(made, pixels=made.pixels[[number]], notes=said) for made in results]
        converted = [backs[chosen](made) for made in own]
        single = len(converted) == 1 and options.variants is None
        parts.append(converted[0] if single else converted)

    return parts


def _as_image(value: Any) -> tuple[Image, objects.Back]:
    """An `Image` from a path or an image of a library, and the conversion of results back."""
    if isinstance(value, Image):
        return value, objects.nothing
    if isinstance(value, (str, Path)):
        return read(value), objects.nothing

    taken = objects.from_library_image(value)
    if taken is None:
        what = f"an input of type {_type_name(value)} cannot be translated"
        raise UserError(what, allowed=KINDS)
    return taken


def _mask(
    pipeline: Pipeline,
    pixels: np.ndarray,
    maps: list[np.ndarray],
    mapping: IntensityMapping,
    result_scale: IntensityMapping,
    kind: str,
) -> None:
    """Fill, in place, what is masked out of each scan: of a batch, each image."""
    together = [slice(None)]  # a stack of slices is one volume
    if kind == "batch" or pipeline.frame.dims == 3:
        together = [slice(number, number + 1) for number in range(len(pixels))]

    for scan in together:
        # a volume is (C, D, H, W)
        outside = outside_of(_as_scan(pixels[scan], pipeline.frame.dims))
        if outside:
            views = [_as_scan(made[scan], pipeline.frame.dims) for made in maps]
            pipeline.mask(views, outside, mapping, result_scale)


def _as_scan(images: np.ndarray, dims: int) -> np.ndarray:
    """A view of slices (N, C, H, W) as a volume (C, N, H, W), or of one volume (1, C, D, H, W)."""
    return images[0] if dims == 3 else images.swapaxes(0, 1)


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
