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

from gantk.errors import UserError
from gantk.formats.files import read
from gantk.formats.image import (
    UNUSABLE,
    UPRIGHT,
    Image,
    in_file_order,
    to_upright,
    upright_sides,
    usable,
)
from gantk.inference.axes import doubts_about_axes
from gantk.inference.frame import Frame, TranslateOptions
from gantk.inference.jobs import by_contrast, contrasts_to_make, expect_sources, stack_on_one_grid
from gantk.inference.notes import Note, check_result, warn

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

    letter = model.domain(to)
    frame = model.frames[letter]
    targets = frame.targets[frame.part(to)]
    names = targets  # of the contrasts that are made
    of_patient = isinstance(given, Mapping)
    if of_patient:
        given = by_contrast(given, frame.sources, "images")
        if frame.completes:
            names = contrasts_to_make(targets, given, to, "the input")
        expect_sources([*given], frame.sources, targets, frame.missing, "the input")
        if len({hasattr(value, "__array__") for value in given.values()}) > 1:
            what = "some contrasts are arrays, others are images of another type"
            raise UserError(what, allowed="one type for all contrasts of a patient")
        options = replace(options, contrasts=tuple(names))
        adapted = {
            name: _as_image(each, replace(frame, channels=1)) for name, each in given.items()
        }
    else:
        adapted = {"": _as_image(given, frame)}

    notes: list[Note] = []
    images = {}
    for name, (image, _) in adapted.items():
        if np.isnan(image.pixels.max()):  # nothing is said of a contrast that is missing
            images[name] = replace(image, pixels=frame.as_in_training(image.pixels))
        else:
            images[name], check = model.check(image, to, name)
            notes += check.notes
    back = next(iter(adapted.values()))[1]
    image = stack_on_one_grid(images, frame.sources)[0] if of_patient else images[""]
    made = model(image, to, options, None if of_patient else _with_gradients(given, image))
    if not of_patient and not np.isnan(image.pixels.max()):
        notes += check_result(image, _without_graph(made[0]), model.pipelines[letter], frame)
    notes += model.notes_on_results(image, letter, options)
    if image.is_array and image.dims == 3 and frame.plane == "axial":
        notes += doubts_about_axes(image.pixels[0])
    said = warn(notes)

    results = {}
    for name in names:
        parts = []
        for each in made:
            pixels = each.pixels[[targets.index(name)]] if of_patient else each.pixels
            parts.append(back(replace(each, pixels=pixels, notes=said)))
        results[name] = parts if options.variants is not None or len(parts) > 1 else parts[0]
    is_one = not of_patient or (to is not None and len(targets) == 1)
    return results[names[0]] if is_one else results


def _as_image(value: Any, frame: Frame) -> tuple[Image, Back]:
    """An `Image` of what was given, and the conversion of results back."""
    if isinstance(value, Image):
        return value, lambda made: made
    if isinstance(value, (str, Path)):
        return read(value), lambda made: made
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
    array = _numbers(value)
    pixels = array if frame.channels > 1 else array[None]
    _expect_shape(array.shape, pixels, frame)
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


def _with_gradients(value: Any, image: Image) -> Tensor | None:
    """The pixels of an image as a tensor that gradients reach, where it was made of a tensor that
    requires them; None of others.
    """
    if not (isinstance(value, Tensor) and value.requires_grad and torch.is_grad_enabled()):
        return None
    native = value.cpu().float().reshape(image.pixels.shape)
    fixed = torch.from_numpy(image.pixels)  # its background may be set to another value
    return torch.where(native.detach() == fixed, native, fixed)


def _without_graph(image: Image) -> Image:
    """A result as the image of an array, whatever its graph."""
    if isinstance(image.pixels, Tensor):
        return replace(image, pixels=image.pixels.detach().numpy())
    return image


def _numbers(value: Any) -> np.ndarray:
    """An array, or a tensor of any device, as an array; UserError where it holds no real numbers."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().to_dense()
        value = value.float() if value.dtype == torch.bfloat16 else value
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        what = f"an array of type {array.dtype} does not contain intensities"
        raise UserError(what, allowed="arrays of integers or floats")
    return array


def _expect_shape(shape: tuple[int, ...], pixels: np.ndarray, frame: Frame) -> None:
    """UserError where an array has not the axes of an image, or the channels of the model."""
    axes = {2: "H, W", 3: "D, H, W"}[frame.dims]
    dims = {frame.dims, 3}
    allowed = f"({axes})" if frame.dims == 3 else f"({axes}), or (D, {axes}) for a volume"
    if frame.channels > 1:
        dims = {frame.dims}
        allowed = f"({frame.channels}, {axes}), a channel for each of {', '.join(frame.sources)}"
    fits = pixels.ndim - 1 in dims and len(pixels) == frame.channels
    if not fits or 0 in shape or shape[-1] == 1:
        raise UserError(
            f"an array of shape {tuple(shape)} is no image of this model",
            allowed=allowed,
            remedy="translate images one by one, [model.translate(each) for each in array], with"
            " channels, if any, on the first axis",
        )


def _expect_usable(pixels: np.ndarray, name: str) -> None:
    """UserError where values are not finite, or too large."""
    count = pixels.size - np.count_nonzero(usable(pixels))
    if count:
        raise UserError(
            f"{count} of {pixels.size} values of {name} are {UNUSABLE}",
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
        turned = to_upright(_numbers(voxels).reshape(shape), place)
        upright = np.ascontiguousarray(turned, dtype=np.float32)
    pixels = upright.reshape(1, *(side for side in upright.shape if side > 1))
    _expect_usable(pixels, name)

    def back(made: Image) -> Any:
        if made.channels != 1:
            what = f"a translation with {made.channels} channels does not fit into {name}"
            raise UserError(what, remedy="translate an array instead")
        order = in_file_order(made.pixels[0].reshape(upright_sides(shape, place)), shape, place)
        return of_library(np.ascontiguousarray(order, dtype=np.float32).reshape(voxels.shape))

    return Image(pixels, place, Path(name), voxels.dtype, header), back
