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

from gantk.data.dataset import Data
from gantk.errors import GantkError, UserError
from gantk.exports.exporting import Direction, Parity, Say
from gantk.exports.network import programs
from gantk.inference.pipeline import OTHER
from gantk.inference.windows import padded
from gantk.method import check_networks
from gantk_monai.config import AXCODES, VERSIONS, inference, is_whole, metadata, scores
from gantk_monai.torchscript import Fitted, Stacked, compiled, loaded, traced

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
        """The bundle, once its network answers as PyTorch does."""
        data = direction.translator.model.data
        if direction.samples:
            what = "it makes images from noise, and a bundle's pipeline starts from files"
            raise UserError(what, where="--format", remedy="export ONNX, or use `gantk sample`")
        if data.neighbours and not is_whole(direction):
            what = "MONAI cannot cut windows of slices with their neighbours"
            raise UserError(what, where="data.fit", remedy="export ONNX")
        try:
            trained_on = Data.load(data, type(direction.translator.method)).training[:8]
        except (UserError, OSError):  # the data are not to be had here
            trained_on = []
        files = [path for record in trained_on for path in record.files]
        pictures = bool(files) and all(path.suffix.lower() in PICTURES for path in files)
        config = inference(direction, pictures)  # refuses what MONAI has no transform for, before anything is traced
        content, parity = _network(direction, tolerance)
        say(f"parity   TorchScript against PyTorch: {parity.line()}")
        weights = io.BytesIO()
        tensors = direction.network.method.state_dict().items()
        torch.save({name: tensor.contiguous() for name, tensor in tensors}, weights)
        about = metadata(direction, pictures, {"tolerance": tolerance, "parity": vars(parity)})
        _place({
            "LICENSE": LICENSE.encode(),
            "configs/metadata.json": _json(about),
            "configs/inference.json": _json(config),
            "docs/README.md": card(direction, pictures, about["intended_use"], parity.line()).encode(),
            "models/model.ts": content,
            "models/model.pt": weights.getvalue(),
        }, out)  # fmt: skip
        say(f"written  {out} (6 files); MONAI itself was not run")
        return out


def _network(direction: Direction, tolerance: float) -> tuple[bytes, Parity]:
    """model.ts, and how far the network in it is from PyTorch's."""
    frame, size = direction.translator.frame(direction.letter), _size(direction)
    direction.probes = replace(direction.probes, inputs=(padded(direction.probes.inputs[0], size)[0],))
    example = torch.from_numpy(direction.probes.inputs[0][:2])
    failure: GantkError | None = None
    for program in programs(direction.network, (example,), None):
        plain = traced(program, example)
        try:
            parity = direction.checked(answers(loaded(compiled(plain))), "TorchScript", tolerance)
        except GantkError as error:  # the tracer may have taken the number of images for a part of the network
            failure = error
            continue
        module = Fitted(plain, frame) if is_whole(direction) else plain
        if frame.neighbours:
            module = Stacked(module, frame.neighbours, direction.translator.model.translate.batch)
        return compiled(module), parity
    raise failure


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


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=4) + "\n").encode()


def _place(files: dict[str, bytes], out: Path) -> None:
    """Write everything under a temporary name beside `out`, then give it its own."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        for name, content in files.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).write_bytes(content)
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
    state = direction.state()
    return f"""# {frame.source} to {frame.target}

Method: {translator.model.method.name}, {state["trained"]["step"]} steps; gantk {state["gantk"]}.

{use}

## How to run it

```
python -m monai.bundle run --config_file configs/inference.json --bundle_root . --dataset_dir INPUT
```

INPUT is {given}. The results lie in `output`. `model.ts` {how}.{
        "" if pictures else f" Volumes are turned to {AXCODES[data.plane]}: {data.plane} slices, as in training."
    }

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
