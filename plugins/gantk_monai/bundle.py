"""The exporter "monai": a folder of weights, configuration and words that MONAI runs, there whole or not at all."""

from __future__ import annotations

import io
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gantk import __version__
from gantk.data.dataset import Data
from gantk.errors import GantkError, UserError
from gantk.exports.exporting import Direction, Say
from gantk.exports.network import programs
from gantk.exports.parity import Parity, checked
from gantk.files import write_file
from gantk.formats.image import Image
from gantk.inference.pipeline import OTHER, Pipeline
from gantk.inference.windows import padded
from gantk.method import check_networks
from gantk_monai.config import AXCODES, VERSIONS, inference, is_whole, metadata, scores
from gantk_monai.torchscript import Fitted, Stacked, compiled, loaded, traced

# Per cent of the pixels that have to agree with gantk's own chain: the slopes that carry detail to a larger grid are
# quotients of two rounding errors where an image is all but flat.
MOST = 99.9
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
LICENSE = """\
No licence has been chosen for the weights in this bundle (models/model.ts, models/model.pt).
Whoever trained them decides, within the terms of the data they were trained on: replace this file with that licence.

The configuration files and the model card were written by gantk and may be used under the Apache License, version 2.0:
http://www.apache.org/licenses/LICENSE-2.0
"""


class Monai:
    """The folder of a MONAI bundle: `python -m monai.bundle run` translates with it, without gantk."""

    def check(self, out: Path) -> None:
        """Any folder will do."""

    def write(self, direction: Direction, out: Path, tolerance: float, say: Say) -> Path:
        """The bundle, once its model.ts answers as PyTorch does, to the network and to native images."""
        translator = direction.translator
        if direction.samples:
            name = translator.model.method.name
            what = f"'{name}' makes images from noise, and a bundle's pipeline starts from files"
            raise UserError(what, where="--format", remedy="export ONNX, or use `gantk sample`")
        if translator.model.data.neighbours and not is_whole(direction):
            what = "MONAI cannot cut windows of slices with their neighbours"
            raise UserError(what, where="data.fit", remedy="export ONNX")
        files = _files(direction)
        pictures = bool(files) and all(path.suffix.lower() in PICTURES for path in files)
        config = inference(direction, pictures)  # refuses what MONAI has no transform for, before anything is traced
        content, parity, line = _network(direction, tolerance, say)
        weights = io.BytesIO()
        tensors = direction.network.method.state_dict().items()
        torch.save({name: tensor.contiguous() for name, tensor in tensors}, weights)
        about = metadata(direction, pictures, {"tolerance": tolerance, "parity": parity.state()})
        _place({
            "LICENSE": LICENSE.encode(),
            "configs/metadata.json": _json(about),
            "configs/inference.json": _json(config),
            "docs/README.md": card(direction, pictures, about["intended_use"], line).encode(),
            "models/model.ts": content,
            "models/model.pt": weights.getvalue(),
        }, out)  # fmt: skip
        say(f"written  {out} (6 files); MONAI itself was not run")
        return out


def _network(direction: Direction, tolerance: float, say: Say) -> tuple[bytes, Parity, str]:
    """model.ts, compared as a network on the probes, and as a whole chain on native images of three sizes."""
    frame, model = direction.translator.frame(direction.letter), direction.translator.model
    size = _size(direction)
    probes = replace(direction.probes, inputs=tuple(padded(each, size)[0] for each in direction.probes.inputs))
    example, failure, parity = tuple(torch.from_numpy(each[:2]) for each in probes.inputs), None, None
    for program in programs(direction.network, example, None):
        plain = traced(program, example[0])
        options = {"tolerance": tolerance, "what": f"the TorchScript of {direction.name}"}
        try:
            parity = checked(answers(loaded(compiled(plain))), direction.expected, probes, direction.target, **options)
            break
        except GantkError as error:  # the tracer may have taken the number of images for a part of the network
            failure = error
    if parity is None:
        raise failure
    say(f"parity   TorchScript against PyTorch: {parity.line()}")
    if not is_whole(direction):
        return compiled(plain), parity, parity.line()
    module = Fitted(plain, frame)
    content = compiled(Stacked(module, frame.neighbours, model.translate.batch) if frame.neighbours else module)
    most, largest, sizes = _native_difference(direction, loaded(content))
    shown = " and ".join(" x ".join(map(str, each)) for each in sizes)
    found = f"{MOST:g} % of the pixels differ by at most {most:.1e} of the range, the largest by {largest:.1e}"
    line = f"{parity.line()}; and from native images of {shown} to native ones, {found}"
    if not most <= tolerance:
        raise GantkError(f"model.ts of {direction.name} does not bring images to size as gantk does: {line}")
    say(f"parity   model.ts against gantk, native images of {shown}: {found}")
    return content, parity, line


def _size(direction: Direction) -> tuple[int, ...]:
    """The size at which the network runs in the bundle: that of a whole fitted image, or of the windows MONAI cuts."""
    data, window = direction.translator.model.data, tuple(direction.translator.method.geometry.size)
    if not is_whole(direction) or window == tuple(data.size):
        return window
    if direction.translator.model.translate.statistics == "window":
        what = "MONAI cannot cut windows of images that are brought to size first"
        raise UserError(what, where="translate.statistics", remedy="export ONNX")
    check_networks(direction.network.method, tuple(data.size))
    return tuple(data.size)


def answers(network: nn.Module) -> Any:
    """The network as a function of arrays."""

    def answer(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network(torch.from_numpy(images)).numpy()

    return answer


def _native_difference(direction: Direction, script: nn.Module) -> tuple[float, float, list[tuple[int, ...]]]:
    """How far both chains differ, as shares of the native range: MOST of the pixels, the largest; the sizes tried.

    Native images are made of one probe: of its size, smaller and larger; volumes where the network sees neighbours.
    """
    translator, letter, target = direction.translator, direction.letter, direction.target
    source = translator.intensity[OTHER[letter]]
    # The plane, the spacing and masks are MONAI's affair: what is given here has been turned and resampled.
    frame = replace(translator.frame(letter), plane="axial", spacing=None, masked=False)
    pipeline = Pipeline(frame, source, target, direction.expected)
    flat = np.ones((1, translator.method.geometry.channels[letter], *[1] * frame.dims))
    low, high = (np.asarray(target.inverse(flat * end)) for end in target.range)
    seen = max(direction.probes.inputs[0], key=np.ptp)  # not a blank slice
    stack = np.split(seen, 2 * frame.neighbours + 1)
    native = np.asarray(source.inverse(stack[0] if len(stack) == 1 else np.stack(stack, axis=1)), dtype=np.float32)
    free = native.ndim - 1 - (len(stack) > 1)  # axes that may be cut
    smaller = native[(..., *[slice(side // 8 * k, None) for k, side in enumerate(native.shape[-free:], 1)])]
    widths = [(0, 0)] * (native.ndim - free) + [(0, 2 * k + 1) for k in range(free)]
    natives = [native, smaller, np.repeat(np.pad(native, widths, mode="edge"), 2, axis=-1)]
    apart = []
    for pixels in natives:
        expected = pipeline.images(Image(pixels))[0].pixels
        given = _each_slice(pipeline.own_scale(pixels).forward, pixels, frame.dims).astype(np.float32)
        made = answers(script)(given[None])[0]
        apart.append(np.abs(_each_slice(target.inverse, made, frame.dims) - expected) / np.abs(high - low).min())
    most = max(float(np.percentile(each, MOST)) for each in apart)
    return most, max(float(each.max()) for each in apart), [pixels.shape[1:] for pixels in natives]


def _each_slice(function: Any, pixels: np.ndarray, dims: int) -> np.ndarray:
    """An intensity mapping of (C, *spatial) pixels: of volumes slice by slice, where it is made for slices."""
    if pixels.ndim - 1 == dims:
        return np.asarray(function(pixels))
    return np.moveaxis(np.asarray(function(np.moveaxis(pixels, 1, 0))), 0, 1)


def _files(direction: Direction) -> list[Path]:
    """Some of the files that the run was trained on; none where they are computed, or not to be had here."""
    try:
        data = Data.load(direction.translator.model.data, type(direction.translator.method))
    except (UserError, OSError):
        return []
    return [path for record in data.training[:8] for path in record.files]


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


def card(direction: Direction, pictures: bool, use: str, parity_line: str) -> str:
    """docs/README.md: what the model is for, how to run it, how good it is, what was checked and what is left out."""
    translator, frame = direction.translator, direction.translator.frame(direction.letter)
    data, names = translator.model.data, translator.contrasts(OTHER[direction.letter])
    kind, ending = ("PNG pictures", ".png") if pictures else ("NIfTI volumes", ".nii.gz")
    given = f"a folder of {kind}, {names[0]} each"
    if len(names) > 1:
        given = f"a folder with one for each patient, which holds {', '.join(f'`*{n}{ending}`' for n in names)}"
    rows, *others = scores(direction).items() or [("metrics", {})]
    heads = [name for name, row in others if row]
    table = [f"| metric | model | 95 % interval | n | {' | '.join(heads)} |", "|---" * (4 + len(heads)) + "|"]
    for name, row in rows[1].items():
        interval = " to ".join(f"{end:.4g}" for end in row.get("ci95") or [])
        beside = [f"{dict(others)[head][name]['value']:.4g}" if name in dict(others)[head] else "" for head in heads]
        cells = [name, f"{row['value']:.4g}", interval, str(row.get("n", "")), *beside]
        table.append(f"| {' | '.join(cells)} |")
    size = " x ".join(map(str, data.size if is_whole(direction) else translator.method.geometry.size))
    how = f"brings images of any size to {size} itself" if is_whole(direction) else f"sees windows of {size}"
    left_out = ["Files on another intensity scale than the training images': gantk fits its mapping anew."]
    left_out += [] if is_whole(direction) else ["Norms' statistics of the whole image: each window has its own."]
    left_out += ["gantk's own resampling: MONAI's differs by interpolation."] if data.spacing else []
    left_out += ["Keeping what is masked out of an image masked out."] if frame.masked else []
    left_out += ["Patients who lack a contrast."] if data.missing == "mask" else []
    left_out += [f"The recipe's post-step `{step.name}`." for step in translator.model.post]
    return f"""# {frame.source} to {frame.target}

Method: {translator.model.method.name}, {direction.state()["trained"]["step"]} steps; gantk {__version__}.

{use}

## How to run it

```
python -m monai.bundle run --config_file configs/inference.json --bundle_root . --dataset_dir INPUT
```

INPUT is {given}. The results lie in `output`. `model.ts` {how}.{
        "" if pictures else f" Volumes are turned to {AXCODES[data.plane]}: {data.plane} slices, as in training."}

## Scores

{chr(10).join(table) if rows[1] else "The run holds no scores of this direction."}

On the run's own test split, which its training has not seen. A model that does not beat the baselines, which change
intensities alone or nothing at all, has learnt nothing of use.

## What was checked

`models/model.ts` was compared with the trained PyTorch network: {parity_line}.
The exporter does not run MONAI: `configs/inference.json` was written for MONAI {VERSIONS["monai"]}. Look at a first
result before you use many.

## What is left out

{chr(10).join(f"* {row}" for row in left_out)}
"""
