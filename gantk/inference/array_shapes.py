"""Shapes and values of arrays that are translated: what a model takes, and how results are returned."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from gantk.errors import UserError
from gantk.formats.image import UNUSABLE, usable
from gantk.inference.frame import Frame
from gantk.inference.pipeline import Pipeline

COMPARED_SIDE = 48  # about how many planes of each axis are compared with their mirror image
MIN_COMPARED_SIDE = 8
# correlation of a volume with its mirror image: 10 heads of 5 sets have 0.82 to 0.99 along the axis
# from left to right, and 0.13 to 0.44 less from inferior to superior
MIN_SYMMETRY = 0.5
SYMMETRY_GAIN = 0.1


def as_batch(shape: tuple[int, ...], frame: Frame) -> tuple[tuple[int, ...], str]:
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
        names = frame.source.split("+")
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

    first, last = (np.corrcoef(some.ravel(), np.flip(some, axis).ravel())[0, 1] for axis in (0, 2))
    return bool(first > max(MIN_SYMMETRY, last + SYMMETRY_GAIN))


def _refuse_shape(
    shape: tuple[int, ...], what: str, frame: Frame, remedy: str | None = None
) -> NoReturn:
    """Raise the UserError for an array that the model does not take."""
    what = f"an array of shape {tuple(shape)} {what}"
    raise UserError(what, allowed=_allowed_shapes(frame), remedy=remedy)


def _allowed_shapes(frame: Frame) -> str:
    """The shapes that a model takes, in words."""
    axes = "H, W" if frame.dims == 2 else "D, H, W"
    batch = f"(N, {frame.channels}, {axes})"
    if frame.channels > 1:
        return f"({frame.channels}, {axes}) or {batch}"
    several = "D" if frame.dims == 2 else "N"
    return f"({axes}) or ({several}, {axes}) or {batch}"


def remove_batch_axes(images: Any, several: str) -> Any:
    """Bring (N, D, *spatial) back to the input's axes; a target of several channels keeps their
    axis.
    """
    if several == "one":
        return images[0, 0] if images.shape[1] == 1 else images[0]
    if several == "stack":
        return images[:, 0] if images.shape[1] == 1 else images
    return images[0] if several == "channels" else images


def check_values(pixels: np.ndarray, frame: Frame) -> None:
    """Raise UserError where values are not finite; a contrast that is NaN throughout may mean a
    missing one.
    """
    wrong = ~usable(pixels)
    lacking = np.isnan(pixels).all(axis=tuple(range(2, pixels.ndim)))
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


def own_mapping(pipeline: Pipeline, pixels: np.ndarray, several: str) -> Any:
    """The intensity mapping of (N, C, *spatial), fitted as for one file; unfitted for a batch with
    one per image.
    """
    if several == "batch" and getattr(pipeline.source, "per", "set") != "set":
        return pipeline.source
    return pipeline.own_scale(pixels.swapaxes(0, 1))


def own_result_scale(pipeline: Pipeline, pixels: np.ndarray, mapping: Any, dtype: np.dtype) -> Any:
    """The mapping of results for (N, C, *spatial) of an array of this type, as
    `Pipeline.result_scale` returns it.

    Only arrays of 8 bits, and those normalised to values from -1 to 1, count as pictures: others
    hold the units of scans.
    """
    normalised = bool(np.nanmax(np.abs(pixels)) <= 1)
    unitless = dtype.itemsize == 1 or normalised
    limits = dtype if dtype.kind == "u" else None
    return pipeline.result_scale(pixels.swapaxes(0, 1), mapping, limits, unitless=unitless)


def as_in_training(pixels: np.ndarray, frame: Frame) -> np.ndarray:
    """An array (N, C, *spatial) of which `Frame.as_in_training` has seen each scan: its slices as
    one volume, or each of its volumes; the same array where nothing is changed.
    """
    if frame.dims == 3:
        volumes = list(pixels)
        done = [frame.as_in_training(volume) for volume in volumes]
        is_same = all(one is other for one, other in zip(volumes, done, strict=True))
        return pixels if is_same else np.stack(done)

    volume = pixels.swapaxes(0, 1)
    dark = frame.as_in_training(volume)
    return pixels if dark is volume else np.ascontiguousarray(dark.swapaxes(0, 1))
