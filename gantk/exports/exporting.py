"""A trained model as a file for other programs: what is written has answered as PyTorch does, on real images."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gantk import __version__
from gantk.errors import UserError
from gantk.exports.network import Sampling, Translation, plain_copy
from gantk.exports.onnx_model import FORMAT
from gantk.exports.parity import TOLERANCE, Probes, noise, real_images, require_steady
from gantk.inference.pipeline import OTHER
from gantk.inference.translator import Translator
from gantk.plugin.loader import registry
from gantk.runs import checkpoint

Say = Callable[[str], None]


@dataclass
class Direction:
    """One direction of a trained model, or its images from noise, ready to be written down by an exporter."""

    translator: Translator
    letter: str  # of the domain that comes out; "image": from noise

    @property
    def samples(self) -> bool:
        """Whether it makes images from noise."""
        return self.letter == "image"

    @property
    def name(self) -> str:
        """In words, such as "cyclegan, T1 to T2"."""
        model = self.translator.model
        if self.samples:
            return f"{model.method.name}, {model.data.domains[0]} from noise"
        frame = self.translator.frame(self.letter)
        return f"{model.method.name}, {frame.source} to {frame.target}"

    @property
    def target(self) -> Any:
        """The intensity mapping of what comes out."""
        return self.translator.intensity[self.letter]

    @cached_property
    def network(self) -> nn.Module:
        """Inference in float32 on the CPU: averaged weights, evaluation mode, no networks that take no part."""
        method = self.translator.method
        if self.samples:
            return Sampling(plain_copy(method, lambda m: m.sample(2, seed=0)))
        geometry = method.geometry
        example = torch.zeros(2, geometry.channels[OTHER[self.letter]], *geometry.size)
        return Translation(plain_copy(method, lambda m: m.translate(example, self.letter)), self.letter)

    @cached_property
    def probes(self) -> Probes:
        """What it is compared on."""
        method = self.translator.method
        return noise(self.translator, method.latent) if self.samples else real_images(self.translator, self.letter)

    def expected(self, *inputs: np.ndarray) -> np.ndarray:
        """PyTorch's answer."""
        with torch.no_grad():
            return self.network(*map(torch.from_numpy, inputs)).numpy()

    def state(self) -> dict[str, Any]:
        """What a file says beside the network: all that brings native images to it and back, as JSON."""
        translator, letter = self.translator, self.letter
        model, method = translator.model, translator.method
        saved, geometry = checkpoint.load_meta(translator.checkpoint), method.geometry
        common = {
            "format": FORMAT,
            "gantk": __version__,
            "torch": torch.__version__,
            "method": model.method.name,
            "trained": {
                "step": saved["step"], "steps": saved.get("steps"), "sha256": translator.identity()["sha256"],
            },
            "left_out": [part.name for part in model.post],
        }  # fmt: skip
        if self.samples:
            return common | {
                "kind": "samples",
                "intensity": {"image": translator.intensity["image"].state()},
                "latent": method.latent,
                "classes": list(geometry.classes) if method.conditional else [],
                "domain": model.data.domains[0],
                "size": list(geometry.size),
                "dims": model.data.dims,
            }
        other = OTHER[letter]
        ends = {"source": other, "target": letter}
        return common | {
            "kind": "translation",
            "direction": f"{other}_to_{letter}",
            "frame": json.loads(json.dumps(translator.frame(letter).state())),
            "contrasts": {end: translator.contrasts(each) for end, each in ends.items()},
            "intensity": {end: translator.intensity[each].state() for end, each in ends.items()},
            "channels": {"input": geometry.channels[other], "output": geometry.channels[letter]},
            "window": list(geometry.size),
            "overlap": model.translate.overlap,
            "statistics": model.translate.statistics,
        }


def export(
    run: str | Path,
    *,
    format: str = "onnx",
    out: str | Path,
    to: str | None = None,
    tolerance: float | None = None,
    say: Say = print,
) -> Path:
    """Write one direction of a trained model as a file that needs neither gantk nor its recipe.

    Args:
        run: a run folder, or one checkpoint of it.
        format: the name of an exporter: "onnx", one .onnx file; "monai", the folder of a MONAI bundle; a plugin's.
        out: the file or folder; it must not exist yet.
        to: the domain to make, by its name; None: the recipe's second.
        tolerance: the largest difference from PyTorch's answers that is accepted, as a share of the range; None: 0.001.
        say: where lines of text go.

    Both sides of the comparison are float32 on the CPU, on held-out images of the run. GantkError, and no file, where
    they differ by more. UserError where the method cannot be written as a network, or the input is wrong.
    """
    out = Path(out)
    tolerance = TOLERANCE if tolerance is None else tolerance
    formats = registry().names("exporter")
    if format not in formats:
        raise UserError(f"there is no format '{format}'", where="--format", allowed=formats)
    if not tolerance > 0:
        raise UserError(f"{tolerance:g} is no tolerance", where="--tolerance", allowed="above 0, such as 0.001")
    exporter = registry().get("exporter", format).load()()
    exporter.check(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"'{out}' exists already", where="--out", remedy="name another, or remove it first")
    if not out.absolute().parent.is_dir():
        raise UserError(f"there is no folder '{out.parent}'", where="--out", remedy="make it first")
    translator = Translator.load(Path(run), "cpu")
    direction = Direction(translator, _letter(translator, to))
    say(f"export   {direction.name}, step {checkpoint.load_meta(translator.checkpoint)['step']}")
    if direction.probes.why:
        say(f"warning  compared on drawn images: {direction.probes.why}")
    require_steady(direction.expected, direction.probes, direction.target)
    if translator.model.post:
        names = ", ".join(part.name for part in translator.model.post)
        say(f"warning  the recipe's post-steps are no part of the file: {names}")
    return exporter.write(direction, out, tolerance, say)


def _letter(translator: Translator, to: str | None) -> str:
    method = translator.method
    if to is not None or method.directions() or not method.samples:
        return translator.domain(to)
    if not hasattr(method, "sampler"):
        what = f"the method '{translator.model.method.name}' cannot be exported: it does not offer its generator"
        raise UserError(what, remedy="make images with `gantk sample` instead")
    return "image"
