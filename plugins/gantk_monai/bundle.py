"""A trained model as a MONAI bundle: a folder of weights, configuration and words, there whole or not at all."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gantk.data.dataset import Data
from gantk.errors import GantkError, UserError
from gantk.exports.onnx_model import WHOLE, by_windows, padded
from gantk.exports.parity import Parity, checked
from gantk.files import write_file
from gantk.formats.image import Image
from gantk.inference.pipeline import Pipeline
from gantk.inference.translator import OTHER
from gantk.method import check_networks
from gantk_monai.card import LICENSE, card
from gantk_monai.inference import inference
from gantk_monai.metadata import metadata, shows_pictures, whole
from gantk_monai.torchscript import Fitted, Masked, Plain, Stacked, loaded, saved, scripted, traced

# Per cent of the pixels that have to agree with gantk's own chain: the slopes that carry detail to a larger grid are
# quotients of two rounding errors where an image is all but flat.
MOST = 99.9
Say = Callable[[str], None]


def write_bundle(direction: Any, out: Path, tolerance: float, say: Say) -> Path:
    """The folder of a bundle, once its model.ts answers as PyTorch does, to the network and to native images."""
    translator = direction.translator
    if direction.samples:
        what = f"'{translator.model.method.name}' makes images from noise, and a bundle's pipeline starts from files"
        raise UserError(what, where="--format", remedy="export ONNX, or use `gantk sample`")
    if translator.model.data.neighbours and not whole(direction):
        what = "MONAI cannot cut windows of slices with their neighbours"
        raise UserError(what, where="data.fit", remedy="export ONNX")
    pictures = shows_pictures(_files(direction))
    config = inference(direction, pictures)  # refuses what MONAI has no transform for, before anything is traced
    content, parity, line = _checked_script(direction, tolerance, say)
    about = metadata(direction, pictures, tolerance, parity.state())
    files = {
        "LICENSE": LICENSE.encode(),
        "configs/metadata.json": _json(about),
        "configs/inference.json": _json(config),
        "docs/README.md": card(direction, pictures, line).encode(),
        "models/model.ts": content,
        "models/model.pt": _state_dict(direction),
    }
    _place(files, out)
    size = sum(map(len, files.values()))
    say(f"written  {out} ({len(files)} files, {size / 2**20:.1f} MiB); MONAI itself was not run")
    return out


def _checked_script(direction: Any, tolerance: float, say: Say) -> tuple[bytes, Parity, str]:
    """model.ts, compared as a network on the probes, and as a whole chain on native images of three sizes."""
    size = _network_size(direction)
    plain, parity = _network(direction, size, tolerance)
    say(f"parity   TorchScript against PyTorch: {parity.line()}")
    line, module = parity.line(), plain
    model, frame = direction.translator.model, direction.translator.frame(direction.letter)
    if whole(direction):
        module = Fitted(plain, frame, size, model.translate.overlap)
        module = Stacked(module, frame.neighbours, model.translate.batch) if frame.neighbours else module
        module = Masked(module) if frame.masked else module
    content = saved(scripted(module))
    if whole(direction):
        most, largest, sizes = _native_difference(direction, loaded(content), size)
        shown = " and ".join(" x ".join(map(str, each)) for each in sizes)
        found = f"{MOST:g} % of the pixels differ by at most {most:.1e} of the range, the largest by {largest:.1e}"
        line = f"{line}; and from native images of {shown} to native ones, {found}"
        if not most <= tolerance:
            raise GantkError(f"model.ts of {direction.name} does not bring images to size as gantk does: {line}")
        say(f"parity   model.ts against gantk, native images of {shown}: {found}")
    return content, parity, line


def _network(direction: Any, size: tuple[int, ...], tolerance: float) -> tuple[Plain, Parity]:
    """The network at this size as TorchScript, any number of images at once where that comes out right."""
    probes = replace(direction.probes, inputs=tuple(padded(each, size)[0] for each in direction.probes.inputs))
    example = tuple(torch.from_numpy(each[:2]) for each in probes.inputs)
    failure: GantkError | None = None
    for program in direction.programs(example, None):
        plain = Plain(traced(program, example[0]), program.batch)
        network = loaded(saved(scripted(plain)))

        def answer(images: np.ndarray, network: torch.nn.Module = network) -> np.ndarray:
            with torch.no_grad():
                return network(torch.from_numpy(images)).numpy()

        what = f"the TorchScript of {direction.name}"
        try:
            return plain, checked(answer, direction.expected, probes, direction.target, tolerance=tolerance, what=what)
        except GantkError as error:  # the tracer may have taken the number of images for a part of the network
            failure = error
    raise failure or GantkError(f"{direction.name} could not be traced")


def _network_size(direction: Any) -> tuple[int, ...]:
    """The size at which the network runs in the bundle: that of a whole fitted image where it takes it, as gantk does
    it, else the window that it was trained on."""
    size, window = tuple(direction.translator.model.data.size), tuple(direction.translator.method.geometry.size)
    together = direction.translator.model.translate.statistics == "image"
    if not (whole(direction) and together and np.prod(size) <= WHOLE):
        return window
    try:
        check_networks(direction.network.method, size)
    except UserError:
        return window
    return size


def _native_difference(
    direction: Any, script: torch.nn.Module, window: tuple[int, ...]
) -> tuple[float, float, list[tuple[int, ...]]]:
    """How far both chains differ, as shares of the native range: MOST of the pixels, the largest; the sizes tried."""
    translator, letter, target = direction.translator, direction.letter, direction.target

    def run(images: np.ndarray) -> np.ndarray:
        if images.shape[2:] == window:
            return direction.expected(images)
        return by_windows(images, window, translator.model.translate.overlap, direction.expected)

    # The plane and the spacing are MONAI's affair: what is given here has been turned and resampled.
    frame = replace(translator.frame(letter), plane="axial", spacing=None)
    pipeline = Pipeline(frame, translator.intensity[OTHER[letter]], target, run)
    ones = [np.full((1, translator.method.geometry.channels[letter], *[1] * frame.dims), end) for end in target.range]
    span = float(np.min(np.abs(np.subtract(*[np.asarray(target.inverse(each)) for each in ones]))))
    natives = _natives(direction, pipeline.source)
    apart = []
    for pixels in natives:
        expected = pipeline.images(Image(pixels))[0].pixels
        seen = _each_slice(pipeline.own_scale(pixels).forward, pixels, frame.dims).astype(np.float32)
        with torch.no_grad():
            made = script(torch.from_numpy(seen)[None])[0].numpy()
        apart.append(np.abs(_each_slice(target.inverse, made, frame.dims) - expected) / span)
    most = max(float(np.percentile(each, MOST)) for each in apart)
    return most, max(float(each.max()) for each in apart), [pixels.shape[1:] for pixels in natives]


def _each_slice(function: Callable[[np.ndarray], Any], pixels: np.ndarray, dims: int) -> np.ndarray:
    """An intensity mapping of (C, *spatial) pixels: of volumes slice by slice, where it is made for slices."""
    if pixels.ndim - 1 == dims:
        return np.asarray(function(pixels))
    return np.moveaxis(np.asarray(function(np.moveaxis(pixels, 1, 0))), 0, 1)


def _natives(direction: Any, source: Any) -> list[np.ndarray]:
    """Native images (C, *size) made of the probes at three sizes: the network's, one smaller, one larger.

    A network that sees neighbours gets volumes, of the slices that stand side by side in its input.
    """
    seen = max(direction.probes.inputs[0], key=np.ptp)  # not a blank slice
    stack = np.split(seen, 2 * direction.translator.model.data.neighbours + 1)
    native = np.asarray(source.inverse(stack[0] if len(stack) == 1 else np.stack(stack, axis=1)), dtype=np.float32)
    free = native.ndim - 1 - (len(stack) > 1)  # axes that may be cut
    smaller = native[(..., *[slice(side // 8 * k, None) for k, side in enumerate(native.shape[-free:], 1)])]
    widths = [(0, 0)] * (native.ndim - free) + [(0, 2 * k + 1) for k in range(free)]
    return [native, smaller, np.repeat(np.pad(native, widths, mode="edge"), 2, axis=-1)]


def _files(direction: Any) -> list[Path]:
    """Some of the files that the run was trained on; none where they are computed, or not to be had here."""
    model = direction.translator.model
    try:
        data = Data.load(model.data, type(direction.translator.method))
    except (UserError, OSError):
        return []
    return [path for record in data.training[:8] for path in record.files]


def _state_dict(direction: Any) -> bytes:
    """The exported networks' tensors by name, which torch loads with weights_only=True."""
    buffer = io.BytesIO()
    tensors = {name: tensor.contiguous() for name, tensor in direction.network.method.state_dict().items()}
    torch.save(tensors, buffer)
    return buffer.getvalue()


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=4) + "\n").encode()


def _place(files: dict[str, bytes], out: Path) -> None:
    """Write everything under a temporary name beside `out`, then give it its own."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        for name, content in files.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            write_file(temporary / name, content)
        if out.is_dir():
            out.rmdir()  # it is empty
        os.rename(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
