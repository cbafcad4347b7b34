"""Translates Python objects (arrays, tensors, images of libraries, paths, lists); the result has
the input's type.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from gantk.errors import UserError
from gantk.formats.files import read
from gantk.formats.image import Image
from gantk.inference import array_types as objects
from gantk.inference.pipeline import WHOLE, Look, Pipeline, TrainedModel

KINDS = "NumPy arrays, PyTorch tensors, images of nibabel and SimpleITK, paths, and lists of these"


def translated(
    model: TrainedModel, images: Any, to: str | None, look: Look, progress: Any, grad: bool
) -> Any:
    """Translate what `TrainedModel.translate` was given; its docstring says what is allowed and
    returned.
    """
    if isinstance(images, (list, tuple)):
        return [translated(model, each, to, look, progress, grad) for each in images]
    if is_tensor(images):
        return _tensor(model, images, to, look, progress, grad)
    if grad:
        what = f"gradients are of tensors, and this is {_called(images)}"
        raise UserError(what, where="grad", remedy="convert it: torch.as_tensor(array)")
    back = objects.nothing
    if isinstance(images, (str, Path)):
        images = read(images)
    elif not isinstance(images, Image):
        taken = objects.taken(images)
        images, back = taken if taken else (images, None)
    if back is None:
        return _array(model, images, to, look, progress)
    results = [back(image) for image in model.images(images, to, look, progress)]
    return results[0] if len(results) == 1 and look.variants is None else results


def is_tensor(value: Any) -> bool:
    """Whether a value is a tensor of torch; torch is not imported for the test."""
    return "torch" in sys.modules and isinstance(value, sys.modules["torch"].Tensor)


def _called(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def _array(
    model: TrainedModel, array: Any, to: str | None, look: Look, progress: Any
) -> np.ndarray:
    if not hasattr(array, "__array__"):
        raise UserError(
            f"{_called(array)} is no image that can be translated", where="translate", allowed=KINDS
        )
    array = np.asarray(array)
    if array.dtype.kind not in "biuf":
        what = f"an array of type {array.dtype} holds no intensities"
        raise UserError(what, where="translate", allowed="integers and floats")
    pipeline = model.pipeline(letter := model.domain(to), look)
    batch, several = as_batch(array.shape, pipeline.frame)
    with np.errstate(over="ignore", invalid="ignore"):  # check_values reports values beyond float32
        pixels = np.ascontiguousarray(array.reshape(batch), dtype=np.float32)
    check_values(pixels, pipeline.frame)
    # a post-step would treat it as a volume
    alone = several == "batch" and pipeline.frame.batch == WHOLE
    mapping = own_mapping(pipeline, pixels, several)
    if alone:
        each = [pipeline.stack(image, mapping, progress) for image in np.split(pixels, len(pixels))]
        done = [*map(np.concatenate, zip(*each, strict=True))]
    else:
        done = pipeline.stack(pixels, mapping, progress)
    if pipeline.frame.masked:
        if several != "batch":
            scans = [(slice(None),)]
        else:
            scans = [(slice(n, n + 1),) for n in range(len(pixels))]
        for scan in scans:  # masks expect a volume's order, (C, D, H, W)
            views = [each[scan].swapaxes(0, 1) for each in done]
            outside = pipeline.outside(pixels[scan].swapaxes(0, 1))
            pipeline.mask(views, outside, own_mapping(pipeline, pixels, several))
    dtype = array.dtype.newbyteorder("=") if array.dtype.kind == "f" else np.dtype(np.float32)
    results = [
        unbatched(each[:, model.part(letter, to)], several).astype(dtype, copy=False)
        for each in done
    ]
    return results[0] if len(results) == 1 and look.variants is None else np.stack(results)


def _tensor(
    model: TrainedModel, images: Any, to: str | None, look: Look, progress: Any, grad: bool
) -> Any:
    torch = sys.modules["torch"]
    dtype = images.dtype if images.is_floating_point() else torch.float32
    if images.is_complex() or images.layout != torch.strided:
        kind = f"a tensor of {images.dtype}, {images.layout}"
        raise UserError(
            f"{kind} holds no intensities", where="translate", allowed="dense integers and floats"
        )
    if grad:
        from gantk.inference.gradient import differentiable

        return differentiable(model, images, to, look).to(images.device, dtype)
    host = images.detach().cpu()
    host = host.float() if dtype in (torch.bfloat16, torch.float16) else host
    return torch.from_numpy(_array(model, host.numpy(), to, look, progress)).to(
        images.device, dtype
    )


def as_batch(shape: tuple[int, ...], frame: Any) -> tuple[tuple[int, ...], str]:
    """The shape (N, C, *spatial) of an array for a model, and its kind: "one" image, "stack",
    "channels" or "batch".

    UserError where the number of axes or of channels does not fit the model, or the array is empty.
    """
    dims = frame.dims
    channels = frame.channels
    axes = "H, W" if dims == 2 else "D, H, W"
    if channels == 1:
        plain = [f"({axes})", f"({'D' if dims == 2 else 'N'}, {axes})"]
    else:
        plain = [f"({channels}, {axes})"]
    allowed = [*plain, f"(N, {channels}, {axes})"]
    extra = len(shape) - dims
    whole = (1, 1, *shape), (len(shape) and shape[0], 1, *shape[1:]), shape
    if extra not in (0, 1, 2) or 0 in shape:
        what = (
            f"an array of shape {tuple(shape)} is"
            f" {'empty' if 0 in shape else f'nothing to a {dims}-D model'}"
        )
        remedy = None
        if 0 not in shape and (dims, len(shape)) == (2, 5):
            remedy = (
                "translate volume by volume: [model.translate(volume) for volume in array[:, 0]]"
            )
        raise UserError(what, where="translate", allowed=" or ".join(allowed), remedy=remedy)
    several = ("one", "stack", "batch")[extra]
    batch = whole[extra]
    if channels > 1 and extra == 1:
        batch = (1, *shape)
        several = "channels"
    if batch[1] != channels:
        names = frame.source.split("+")
        needs = " and ".join(names) if len(names) == channels else "as it was trained"
        what = f"an array of shape {tuple(shape)} has {batch[1]} channel{'s' * (batch[1] != 1)}"
        what += f", and this model takes {channels} ({needs})"
        remedy = "move the channels in front of rows and columns: np.moveaxis(array, -1, -3)"
        remedy = remedy if channels in shape[-1:] and dims == 2 else None
        raise UserError(what, where="translate", allowed=" or ".join(allowed), remedy=remedy)
    return tuple(batch), several


def unbatched(images: Any, several: str) -> Any:
    """Bring (N, D, *spatial) back to the input's axes; a target of several channels keeps their
    axis.
    """
    if several == "one":
        return images[0, 0] if images.shape[1] == 1 else images[0]
    if several == "stack":
        return images[:, 0] if images.shape[1] == 1 else images
    return images[0] if several == "channels" else images


def check_values(pixels: np.ndarray, frame: Any) -> None:
    """Raise UserError where values are not finite; a contrast that is NaN throughout may mean a
    missing one.
    """
    wrong = ~np.isfinite(pixels)
    lacking = np.isnan(pixels).all(axis=tuple(range(2, pixels.ndim)))
    if lacking.any() and frame.channels > 1:
        if frame.missing == "refuse":
            what = "a contrast is NaN throughout, and this model was not trained to do without"
            raise UserError(what, where="translate", remedy='train with data.missing = "mask"')
        wrong[lacking] = False
    if count := int(wrong.sum()):
        what = f"{count} of {wrong.size} values are not finite, or beyond what float32 holds"
        raise UserError(what, where="translate", remedy="replace them: np.nan_to_num(array, nan=0)")


def own_mapping(pipeline: Pipeline, pixels: np.ndarray, several: str) -> Any:
    """The intensity mapping of (N, C, *spatial), fitted as for one file; unfitted for a batch with
    one per image.
    """
    if several == "batch" and getattr(pipeline.source, "per", "set") != "set":
        return pipeline.source
    return pipeline.own_scale(pixels.swapaxes(0, 1))
