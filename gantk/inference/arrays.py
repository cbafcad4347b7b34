"""Translates Python objects (arrays, tensors, images of libraries, paths, lists): each becomes an
`Image` for the model, and its results get the object's type.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from gantk.errors import UserError
from gantk.formats.files import read
from gantk.formats.image import UNUSABLE, Image, usable
from gantk.inference.frame import Frame, TranslateOptions
from gantk.inference.jobs import (
    by_contrast,
    contrasts_to_make,
    expect_sources,
    stack_on_one_grid,
)
from gantk.inference.library_images import Back, from_nibabel
from gantk.inference.notes import Note, check_result, warn
from gantk.inference.pipeline import Pipeline

KINDS = (
    "NumPy arrays, PyTorch tensors, images of nibabel, paths, and lists of these, or dicts of them by"
    " contrast"
)
COMPARED_SIDE = 48  # about how many planes of each axis are compared with their mirror image
MIN_COMPARED_SIDE = 8
# correlation of a volume with its mirror image: 10 heads of 5 sets have 0.82 to 0.99 along the axis
# from left to right, and 0.13 to 0.44 less from inferior to superior
MIN_SYMMETRY = 0.5
SYMMETRY_GAIN = 0.1
HEAD_SHARE = 0.1  # of the way from air to the brightest tissue: what is brighter is the head
# an axial head on its side: its height over its width, and the gain in symmetry from top to bottom. Of
# 37 scans of 5 sets none is taken for one, and 34 are if turned; of 12 stacks of pictures none, and 3
MAX_SIDEWAYS_RATIO = 0.95
SIDEWAYS_GAIN = 0.05


def translate_object(
    model: Any, images: Any, to: str | None, options: TranslateOptions, progress: Any
) -> Any:
    """Translate what `TrainedModel.translate` was given; its docstring says what is allowed and
    returned.
    """
    if isinstance(images, (list, tuple)):
        return [translate_object(model, each, to, options, progress) for each in images]
    if isinstance(images, Mapping):
        return _contrasts(model, images, to, options, progress)
    if hasattr(images, "__array__"):
        return _array(model, images, to, options, progress)

    image, back = _as_image(images)
    made, notes = _image(model, image, to, options, progress)
    said = warn(notes)
    results = [back(replace(each, notes=said)) for each in made]
    return results[0] if len(results) == 1 and options.variants is None else results


def _image(
    model: Any, image: Image, to: str | None, options: TranslateOptions, progress: Any
) -> tuple[list[Image], list[Note]]:
    """The results of an image, and the notes about it and them."""
    letter = model.domain(to)
    frame = model.frames[letter]
    if np.isnan(image.pixels.max()):  # a missing contrast, of which nothing can be said
        image = replace(image, pixels=frame.as_in_training(image.pixels))
        return model(image, to, options, progress), []

    image, notes, *_ = model.check(image, to)
    made = model(image, to, options, progress)
    notes += check_result(image, made[0], model.pipelines[letter], frame)
    return made, [*notes, *model.notes_on_results(image, letter)]


def _as_image(value: Any) -> tuple[Image, Back]:
    """An `Image` from a path or an image of nibabel, and the conversion of results back."""
    if isinstance(value, Image):
        return value, lambda made: made
    if isinstance(value, (str, Path)):
        return read(value), lambda made: made

    if hasattr(value, "dataobj") and hasattr(value, "affine"):
        return from_nibabel(value)
    what = f"an input of type {type_name(value)} cannot be translated"
    raise UserError(what, allowed=KINDS)


def type_name(value: Any) -> str:
    """The type of a value with its module, for messages."""
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


# ---- the contrasts of a patient


def _contrasts(
    model: Any,
    given: Mapping[str, Any],
    to: str | None,
    options: TranslateOptions,
    progress: Any,
) -> Any:
    """Translate the contrasts of one patient; returns one result where `to` names one contrast, else
    a dict of results by contrast.
    """
    letter = model.domain(to)
    frame = model.frames[letter]
    contrasts = frame.sources
    values = by_contrast(given, contrasts, "images")
    targets = frame.targets[frame.part(to)]
    names = targets
    if frame.completes:
        names = contrasts_to_make(targets, values, to, "the input")

    expect_sources([*values], contrasts, targets, frame.missing, "the input")
    if len({hasattr(value, "__array__") for value in values.values()}) > 1:
        what = "some contrasts are arrays, others are images of another type"
        raise UserError(what, allowed="one type for all contrasts of a patient")

    images = {}
    backs = {}
    said: tuple[str, ...] = ()
    for name, value in values.items():
        is_array = hasattr(value, "__array__")
        image, backs[name] = _one_contrast(value, frame) if is_array else _as_image(value)
        images[name], notes, *_ = model.check(image, to, name)
        said += warn(notes)

    image, chosen, _ = stack_on_one_grid(images, contrasts, options.onto)
    results = model(image, to, replace(options, contrasts=tuple(names)), progress)
    made = {}
    for number, name in enumerate(targets):
        own = [replace(each, pixels=each.pixels[[number]], notes=said) for each in results]
        converted = [backs[chosen](each) for each in own]
        single = len(converted) == 1 and options.variants is None
        made[name] = converted[0] if single else converted

    if to is not None and len(targets) == 1:
        return made[targets[0]]
    return {name: made[name] for name in names}


def _one_contrast(value: Any, frame: Frame) -> tuple[Image, Back]:
    """The image of an array (H, W) or (D, H, W) of one contrast, and the conversion back."""
    array = numbers(value)
    if array.ndim not in (frame.dims, 3):
        axes = "(H, W) or (D, H, W)" if frame.dims == 2 else "(D, H, W)"
        what = f"the arrays have the shape {array.shape}"
        raise UserError(what, allowed=f"{axes} for each contrast")

    batch = array[None, None]
    check_values(batch, replace(frame, channels=1))
    image = _scan(batch, batch[0])
    return image, lambda made: _as_given(made.pixels[0], value)


# ---- arrays and tensors


@dataclass(frozen=True)
class Batch:
    """An array as a batch (N, C, *spatial), of which each part is one scan."""

    shape: tuple[int, ...]
    kind: str  # what the array's axes are, see `as_batch`
    scans: list[tuple[slice, Image]]  # places in the batch, and their image
    by_slice: bool  # whether the images of the batch are the slices of one scan

    def axes_of_batch(self, pixels: np.ndarray) -> np.ndarray:
        """The pixels (D, *spatial) of a scan as images of the batch."""
        return pixels.swapaxes(0, 1) if self.by_slice else pixels[None]


def _array(model: Any, given: Any, to: str | None, options: TranslateOptions, progress: Any) -> Any:
    """The results of an array or a tensor; several are stacked on a new first axis."""
    pipeline = model.pipelines[model.domain(to)]
    batch = batch_of(numbers(given), pipeline)
    made = []
    notes = []
    for _, image in batch.scans:
        images, said = _image(model, image, to, options, progress)
        made.append([each.pixels for each in images])
        notes += said

    pixels = image.pixels
    if pipeline.frame.plane == "axial" and pixels.ndim == 4:
        notes += doubts_about_axes(pixels[0])

    warn(dict.fromkeys(notes))
    results = []
    for parts in zip(*made, strict=True):
        whole = np.concatenate([batch.axes_of_batch(pixels) for pixels in parts])
        results.append(remove_batch_axes(whole, batch.kind))

    single = len(results) == 1 and options.variants is None
    return _as_given(results[0] if single else np.stack(results), given)


def batch_of(array: np.ndarray, pipeline: Pipeline) -> Batch:
    """The scans of an array for a model: the slices that a 2-D model gets are those of one scan, with
    one scale, unless each of them is mapped, masked or post-processed on its own.
    """
    frame = pipeline.frame
    shape, kind = as_batch(array.shape, frame)
    batch = array.reshape(shape)
    check_values(batch, frame)
    alone = pipeline.source.per != "set" or frame.masked or pipeline.whole
    if frame.dims == 2 and len(batch) > 1 and not (kind == "batch" and alone):
        one = _scan(batch, batch.swapaxes(0, 1))
        return Batch(shape, kind, [(slice(None), one)], by_slice=True)

    scans = []
    for number, pixels in enumerate(batch):
        scans.append((slice(number, number + 1), _scan(batch, pixels)))
    return Batch(shape, kind, scans, by_slice=False)


def _scan(batch: np.ndarray, pixels: np.ndarray) -> Image:
    """The image of pixels (C, *spatial) of a batch.

    Only arrays of 8 bits, and those normalised to values from -1 to 1, count as pictures: others
    hold the units of scans.
    """
    is_picture = batch.dtype.itemsize == 1 or np.nanmax(np.abs(batch)) <= 1
    return Image(
        pixels.astype(np.float32, copy=False),
        path=Path("/array"),
        dtype=batch.dtype if batch.dtype.kind == "u" else None,
        is_array=True,
        in_units=not is_picture,
    )


def numbers(values: Any) -> np.ndarray:
    """An array, or a tensor of any device, as an array; UserError where it holds no real numbers."""
    if is_tensor(values):
        torch = sys.modules["torch"]
        if values.is_complex() or values.layout != torch.strided:
            raise UserError(
                f"a tensor of {values.dtype}, {values.layout} does not contain intensities",
                allowed="dense tensors of integers or floats",
            )
        host = values.detach().cpu()
        array = (host.float() if host.dtype == torch.bfloat16 else host).numpy()
    else:
        array = np.asarray(values)

    if array.dtype.kind not in "biuf":
        what = f"an array of type {array.dtype} does not contain intensities"
        raise UserError(what, allowed="arrays of integers or floats")
    return array


def is_tensor(value: Any) -> bool:
    """Whether a value is a tensor of torch; torch is not imported for the test."""
    return "torch" in sys.modules and isinstance(value, sys.modules["torch"].Tensor)


def _as_given(made: np.ndarray, given: Any) -> Any:
    """A result as an array or a tensor like the one given: floats keep their type."""
    if is_tensor(given):
        torch = sys.modules["torch"]
        kind = given.dtype if given.is_floating_point() else torch.float32
        return torch.from_numpy(np.ascontiguousarray(made)).to(given.device, kind)

    kind = np.asarray(given).dtype
    return made.astype(kind.newbyteorder("=") if kind.kind == "f" else np.float32, copy=False)


def as_batch(shape: tuple[int, ...], frame: Frame) -> tuple[tuple[int, ...], Any]:
    """The shape (N, C, *spatial) of an array for a model, and its kind: "one" image, "stack",
    "channels" or "batch".

    UserError where the number of axes or of channels does not fit the model, the last axis can be
    channels, or the array is empty.
    """
    dims = frame.dims
    extra = len(shape) - dims
    if 0 in shape:
        _refuse_shape(shape, "is empty", frame)

    if extra not in (0, 1, 2):
        remedy = None
        if (dims, len(shape)) == (2, 5):
            remedy = (
                "translate volume by volume: [model.translate(volume) for volume in array[:, 0]]"
            )
        _refuse_shape(shape, f"does not fit a {dims}-D model", frame, remedy)

    if extra == 0:
        kind = "one"
        batch = (1, 1, *shape)
    elif extra == 2:
        kind = "batch"
        batch = tuple(shape)
    elif frame.channels > 1:
        kind = "channels"
        batch = (1, *shape)
    else:
        kind = "stack"
        batch = (shape[0], 1, *shape[1:])

    if batch[-1] == 1:
        one, several = shape[:-1], _words_of_stack(shape, dims)
        _refuse_shape(
            shape,
            f"can be one image {one} with its channel last, or {several}",
            frame,
            "select the channel of an image: array[..., 0]",
        )

    if batch[1] != frame.channels:
        names = frame.sources
        needs = " and ".join(names) if len(names) == frame.channels else "as in its training"
        plural = "" if batch[1] == 1 else "s"
        remedy = None
        if frame.channels in shape[-1:] and dims == 2:
            remedy = "move the channels in front of rows and columns: np.moveaxis(array, -1, -3)"
        what = f"has {batch[1]} channel{plural}, but this model takes {frame.channels} ({needs})"
        _refuse_shape(shape, what, frame, remedy)

    return batch, kind


def _words_of_stack(shape: tuple[int, ...], dims: int) -> str:
    """An array's shape, whose last axes are an image's, in words: 72 images of 64 x 1."""
    sides = " x ".join(map(str, shape[-dims:]))
    return " x ".join(map(str, shape[:-dims])) + f" images of {sides}"


def _refuse_shape(
    shape: tuple[int, ...], what: str, frame: Frame, remedy: str | None = None
) -> NoReturn:
    """Raise the UserError for an array that the model does not take."""
    axes = "H, W" if frame.dims == 2 else "D, H, W"
    allowed = f"(N, {frame.channels}, {axes})"
    if frame.channels > 1:
        allowed = f"({frame.channels}, {axes}) or {allowed}"
    else:
        several = "D" if frame.dims == 2 else "N"
        allowed = f"({axes}) or ({several}, {axes}) or {allowed}"
    raise UserError(f"an array of shape {tuple(shape)} {what}", allowed=allowed, remedy=remedy)


def remove_batch_axes(images: Any, kind: str) -> Any:
    """Bring (N, D, *spatial) back to the axes of an array of this kind; a target of several channels
    keeps their axis.
    """
    if kind in ("one", "stack") and images.shape[1] == 1:
        images = images[:, 0]
    return images if kind in ("stack", "batch") else images[0]


def check_values(batch: np.ndarray, frame: Frame) -> None:
    """Raise UserError where values are not finite; a contrast that is NaN throughout may mean a
    missing one.
    """
    wrong = ~usable(batch)
    lacking = np.isnan(batch).all(axis=tuple(range(2, batch.ndim)))
    if lacking.any() and frame.channels > 1:
        if frame.missing == "refuse":
            what = (
                "all values of a contrast are NaN, but this model was not trained for missing"
                " contrasts"
            )
            raise UserError(what, remedy='train with data.missing = "mask"')
        wrong[lacking] = False

    count = int(wrong.sum())
    if count:
        what = f"{count} of {wrong.size} values are {UNUSABLE}"
        raise UserError(what, remedy="replace them: np.nan_to_num(array, nan=0)")


def doubts_about_axes(volume: np.ndarray) -> list[Note]:
    """A warning where the axes of a volume seem not to be its planes, rows and columns."""
    if has_slices_last(volume):
        line = (
            "the array looks like (x, y, z), as of get_fdata(), but its axes are taken as slices,"
            " rows and columns: translate the nibabel image itself"
        )
    elif lies_sideways(volume):
        line = (
            "the head in the array seems to lie on its side: turn its slices nose up, as displayed,"
            " by np.rot90(array, axes=(1, 2)), or translate the nibabel image itself"
        )
    else:
        return []
    return [("warning", line)]


def has_slices_last(volume: np.ndarray) -> bool:
    """Whether a volume seems to have the axes (x, y, z), not (planes, rows, columns): its last axis is
    at most half as long as the others, or it is more like its mirror image along the first axis than
    along the last, as a head is from left to right.
    """
    if 2 * volume.shape[2] <= min(volume.shape[:2]):
        return True

    steps = (max(1, side // COMPARED_SIDE) for side in volume.shape)
    some = volume[tuple(slice(None, None, step) for step in steps)].astype(np.float64)
    if min(some.shape) < MIN_COMPARED_SIDE or not np.ptp(some) > 0:
        return False

    return symmetry(some, 0) > max(MIN_SYMMETRY, symmetry(some, 2) + SYMMETRY_GAIN)


def lies_sideways(volume: np.ndarray) -> bool:
    """Whether the head in a volume (planes, rows, columns) seems to be turned by a quarter: it is
    wider than high, and more symmetric from top to bottom than from left to right.
    """
    planes = max(1, len(volume) // COMPARED_SIDE)
    step = max(1, min(volume.shape[1:]) // COMPARED_SIDE)
    some = volume[::planes, ::step, ::step].astype(np.float64)
    air, brightest = np.percentile(some, [5, 99.5])
    bright = some > air + HEAD_SHARE * (brightest - air)
    rows = np.flatnonzero(bright.any((0, 2)))
    columns = np.flatnonzero(bright.any((0, 1)))
    if min(len(some), len(rows), len(columns)) < MIN_COMPARED_SIDE:
        return False

    head = some[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    if head.shape[1] >= MAX_SIDEWAYS_RATIO * head.shape[2]:
        return False
    return symmetry(head, 1) > symmetry(head, 2) + SIDEWAYS_GAIN


def symmetry(volume: np.ndarray, axis: int) -> float:
    """The correlation of a volume with its mirror image along an axis."""
    return float(np.corrcoef(volume.ravel(), np.flip(volume, axis).ravel())[0, 1])
