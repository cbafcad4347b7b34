"""Translates Python objects (arrays, tensors, images of libraries, paths, lists): each becomes an
`Image` for the model, and its results get the object's type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gantk.errors import UserError, one_line
from gantk.formats.files import read
from gantk.formats.image import (
    UPRIGHT,
    Image,
    in_file_order,
    to_upright,
    unusable_words,
    upright_sides,
)
from gantk.formats.nifti import description_of
from gantk.inference.case import Case, by_contrast, contrasts_to_make
from gantk.inference.frame import Frame, TranslateOptions
from gantk.inference.notes import Note, warn

# converts a result to the type of the object that was given, on its grid
Back = Callable[[Image], Any]
KINDS = (
    "NumPy arrays, PyTorch tensors, images of nibabel or torchio, paths, and lists of these, or dicts"
    " of them by contrast"
)


def translate_object(model: Any, given: Any, to: str | None, options: TranslateOptions) -> Any:
    """Translate what `Model.translate` was given; its docstring says what is allowed and returned."""
    if isinstance(given, (list, tuple)):
        return [translate_object(model, each, to, options) for each in given]

    case, targets, back, notes = _as_case(model, given, to)
    made = case.translate(targets, options, _with_gradients(given, case.image))
    notes += [note for check in case.checks.values() for note in check.notes]
    said = warn(notes + case.notes)
    made = [replace(each, notes=said) for each in made]

    def as_given(results: list[Image]) -> Any:
        done = [back(each) for each in results]
        return done[0] if len(done) == 1 and options.variants is None else done

    if not isinstance(given, Mapping):
        return as_given(made)
    results = {name: as_given([case.part(each, name) for each in made]) for name in targets}
    return results[targets[0]] if to is not None and len(case.frame.targets) == 1 else results


def _as_case(model: Any, given: Any, to: str | None) -> tuple[Case, list[str], Back, list[Note]]:
    """What was given as a case, the contrasts to make of it, the conversion of results back, and what
    is said of the direction.
    """
    frame = model.frame(to)
    if isinstance(given, Mapping):
        adapted = _contrasts_as_images(given, frame)
        targets = frame.targets
        if frame.completes:
            targets = contrasts_to_make(targets, adapted, to, "the input")
        images = {name: image for name, (image, _) in adapted.items()}
        back = next(iter(adapted.values()))[1]
        return Case(model, images, to, "the input"), targets, back, []

    image, back = _as_image(given, frame)
    notes = []
    if to is None:
        name = "the array" if image.is_array else f"'{image.path}'"
        to, notes = model.domain_stated([image], name)
    frame = model.frame(to)
    return Case(model, {frame.source: image}, to, "the input"), frame.targets, back, notes


def _contrasts_as_images(given: Mapping[str, Any], frame: Frame) -> dict[str, tuple[Image, Back]]:
    """Each contrast of a patient as an image, by its name; UserError where their types differ."""
    contrasts = by_contrast(given, frame.sources, "images")
    if len({hasattr(value, "__array__") for value in contrasts.values()}) > 1:
        raise UserError(
            "some contrasts are arrays, others are images of another type",
            allowed="one type for all contrasts of a patient",
        )
    of_one = replace(frame, channels=1)
    return {name: _as_image(value, of_one) for name, value in contrasts.items()}


def _as_image(value: Any, frame: Frame) -> tuple[Image, Back]:
    """An `Image` of what was given, and the conversion of results back."""
    if isinstance(value, (str, Path)):
        value = read(value)
    if isinstance(value, Image):
        return value, lambda made: made
    if hasattr(value, "dataobj"):
        name = value.get_filename() or "the nibabel image"
        voxels = np.asanyarray(value.dataobj)
        return _from_voxels(voxels, value.affine, name, value.header, partial(_as_nibabel, value))
    if hasattr(value, "affine") and isinstance(getattr(value, "data", None), Tensor):
        voxels = value.data.movedim(0, -1).numpy()
        return _from_voxels(
            voxels,
            value.affine,
            "the torchio image",
            None,
            lambda made: type(value)(
                tensor=torch.from_numpy(made).movedim(-1, 0), affine=value.affine
            ),
        )
    if hasattr(value, "__array__"):
        return _from_array(value, frame)
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    raise UserError(f"an input of type {kind} cannot be translated", allowed=KINDS)


# ---- arrays and tensors


def _from_array(value: Any, frame: Frame) -> tuple[Image, Back]:
    """An array or tensor, (C, *spatial) or without its only channel, as an `Image`.

    Only arrays of 8 bits, and those normalised to values from -1 to 1, count as pictures: others
    hold the units of scans.
    """
    array = _numbers(value, "an array")
    pixels = array if frame.channels > 1 else array[None]
    _expect_shape(pixels, array.shape, frame)
    missing = np.isnan(pixels).all(axis=tuple(range(1, pixels.ndim)))
    if frame.channels == 1 or frame.missing == "refuse":
        missing[:] = False
    _expect_usable(pixels[~missing], "the array")
    is_picture = array.dtype.itemsize == 1 or np.nanmax(np.abs(array)) <= 1
    image = Image(
        pixels.astype(np.float32, copy=False),
        path=Path("/array"),
        dtype=array.dtype if array.dtype.kind == "u" else None,
        is_array=True,
        in_units=not is_picture,
    )

    def back(made: Image) -> Any:
        done = made.pixels[0] if len(made.pixels) == 1 and frame.channels == 1 else made.pixels
        if isinstance(value, Tensor):
            made_as = value.dtype if value.is_floating_point() else torch.float32
            return torch.as_tensor(done).to(value.device, made_as)
        kind = array.dtype.newbyteorder("=") if array.dtype.kind == "f" else np.float32
        return done.astype(kind, copy=False)

    return image, back


def _expect_shape(pixels: np.ndarray, given: tuple[int, ...], frame: Frame) -> None:
    """UserError where pixels (C, *spatial), of an array of the shape `given`, are no image of a
    direction.
    """
    axes = "H, W" if frame.dims == 2 else "D, H, W"
    shapes = {frame.dims: f"({axes})", 3: "(D, H, W)"}  # by the number of spatial axes
    if frame.channels > 1:
        of = ", ".join(frame.sources)
        shapes = {frame.dims: f"({frame.channels}, {axes}), a channel for each of {of}"}
    fits = pixels.ndim - 1 in shapes and len(pixels) == frame.channels
    if not fits or 0 in given or given[-1] == 1:
        raise UserError(
            f"an array of shape {given} is no image of this model",
            allowed=" or ".join(dict.fromkeys(shapes.values())),
            remedy="translate images one by one, [model.translate(each) for each in array], with"
            " channels, if any, on the first axis",
        )


def _with_gradients(value: Any, image: Image) -> Tensor | None:
    """The pixels of an image as a tensor that gradients reach, where it was made of a tensor that
    requires them; None of others.
    """
    if not (isinstance(value, Tensor) and value.requires_grad and torch.is_grad_enabled()):
        return None
    native = value.cpu().float().reshape(image.pixels.shape)
    fixed = torch.from_numpy(image.pixels)  # its background may be set to another value
    return torch.where(native.detach() == fixed, native, fixed)


def _numbers(value: Any, name: str) -> np.ndarray:
    """An array, or a tensor of any device, as an array; UserError where it holds no real numbers."""
    try:
        if isinstance(value, Tensor):
            value = value.detach().cpu().to_dense()
            value = value.float() if value.dtype == torch.bfloat16 else value
        array = np.asarray(value)
    except (RuntimeError, TypeError) as error:
        raise UserError(
            f"{name} has no values that can be read: {one_line(error)}",
            allowed="a dense tensor, outside of torch.func",
        ) from error
    if array.dtype.kind not in "biuf":
        raise UserError(
            f"{name} of type {array.dtype} does not contain intensities",
            allowed="integers or floats",
        )
    return array


def _expect_usable(pixels: np.ndarray, name: str) -> None:
    """UserError where values are not finite, or too large."""
    if wrong := unusable_words(pixels):
        raise UserError(
            f"{name} contains {wrong}",
            remedy="replace them: np.nan_to_num(array, nan=0). A missing contrast may be NaN where the"
            ' model was trained with data.missing = "mask"',
        )


# ---- images of libraries


def _as_nibabel(given: Any, voxels: np.ndarray) -> Any:
    """Voxels as an image of nibabel like this one, float32."""
    import nibabel as nib

    kind = type(given) if getattr(type(given), "makeable", False) else nib.Nifti1Image
    header = given.header.copy() if kind is type(given) else None
    if header is not None:
        header.set_data_dtype(np.float32)

    done = kind(voxels, given.affine, header)
    if isinstance(done.header, nib.Nifti1Header):  # these fields described the input's values
        done.header["cal_min"] = done.header["cal_max"] = 0
        done.header.set_intent("none")
    return done


def _from_voxels(
    voxels: np.ndarray, affine: Any, name: str, header: Any, of_library: Callable[[np.ndarray], Any]
) -> tuple[Image, Back]:
    """An `Image` from voxels (i, j, k), turned upright, and the conversion of results to voxels of
    this shape, float32, and to an image `of_library`. Axes of one voxel are dropped, as when a file
    is read.
    """
    shape = (*voxels.shape, 1, 1)[:3]
    place = UPRIGHT if affine is None else np.asarray(affine, dtype=np.float64)
    is_placed = np.isfinite(place).all() and np.linalg.matrix_rank(place[:3, :3]) == 3
    if np.prod(voxels.shape[3:]) != 1 or sum(side > 1 for side in shape) < 2 or not is_placed:
        raise UserError(
            f"{name} is no volume: its shape is {voxels.shape}, its affine {place.tolist()}",
            allowed="one volume, of which two sides are longer than 1, and an affine with an inverse",
            remedy="select one of several volumes: image.slicer[..., 0]",
        )

    with np.errstate(over="ignore"):
        turned = to_upright(_numbers(voxels, name).reshape(shape), place)
        upright = np.ascontiguousarray(turned, dtype=np.float32)
    pixels = upright.reshape(1, *(side for side in upright.shape if side > 1))
    _expect_usable(pixels, name)

    def back(made: Image) -> Any:
        if made.channels != 1:
            raise UserError(
                f"a translation with {made.channels} channels does not fit into {name}",
                remedy="translate an array instead",
            )
        order = in_file_order(made.pixels[0].reshape(upright_sides(shape, place)), shape, place)
        return of_library(np.ascontiguousarray(order, dtype=np.float32).reshape(voxels.shape))

    said = description_of(header)
    return Image(pixels, place, Path(name), voxels.dtype, header, description=said), back
