"""A trained model as a file for other programs: what is written has answered as PyTorch does, on real images."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gantk import __version__
from gantk.errors import GantkError, UserError
from gantk.exports.network import Program, Sampling, Sizes, Translation, exact_norms, plain_copy, programs, sizes_of
from gantk.exports.onnx_file import OPSET, require_onnx, to_onnx, with_metadata
from gantk.exports.onnx_model import FORMAT, INPUT, call, open_session
from gantk.exports.parity import TOLERANCE, OnlyAlone, Probes, checked, noise, real_images, require_steady
from gantk.files import write_file
from gantk.inference.translator import OTHER, Translator
from gantk.runs import checkpoint

FORMATS = ("onnx", "monai")
LARGE = 2**14  # positions of a map
Say = Callable[[str], None]


@dataclass
class Direction:
    """One direction of a trained model, or its images from noise, ready to be written down."""

    translator: Translator
    letter: str  # of the domain that comes out

    @property
    def samples(self) -> bool:
        """Whether it makes images from noise."""
        return self.letter == "image"

    @property
    def name(self) -> str:
        """In words, such as "cyclegan, T1 to T2"."""
        method, domains = self.translator.model.method.name, self.translator.model.data.domains
        if self.samples:
            return f"{method}, {domains[0]} from noise"
        frame = self.translator.frame(self.letter)
        return f"{method}, {frame.source} to {frame.target}"

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

    @cached_property
    def sizes(self) -> Sizes | None:
        """Which other sizes it takes."""
        return None if self.samples else sizes_of(self.network.method, self.translator.method.geometry.size)

    def programs(
        self, example: tuple[Tensor, ...], sizes: Sizes | None, network: nn.Module | None = None
    ) -> Iterator[Program]:
        """It, or what stands in for its network, as torch.export sees it: the most general form first."""
        try:
            yield from programs(network or self.network, example, sizes)
        except UserError as error:
            raise error.at(f"{self.name}, from {self.translator.checkpoint.parent.parent}") from None

    def expected(self, *inputs: np.ndarray) -> np.ndarray:
        """PyTorch's answer."""
        with torch.no_grad():
            return self.network(*map(torch.from_numpy, inputs)).numpy()

    def state(self) -> dict[str, Any]:
        """What a file says beside the network: all that brings native images to it and back, as JSON."""
        translator, letter = self.translator, self.letter
        model, method = translator.model, translator.method
        saved = checkpoint.load_meta(translator.checkpoint)
        common = {
            "format": FORMAT,
            "gantk": __version__,
            "torch": torch.__version__,
            "method": model.method.name,
            "trained": {"step": saved["step"], "steps": saved.get("steps"), **_without_name(translator.identity())},
            "left_out": [part.name for part in model.post],
        }
        if self.samples:
            image = {"image": translator.intensity["image"].state()}
            inputs = {"latent": method.latent, "classes": list(method.geometry.classes) if method.conditional else []}
            made = {"domain": model.data.domains[0], "size": list(method.geometry.size), "dims": model.data.dims}
            return common | {"kind": "samples", "intensity": image} | inputs | made
        other = OTHER[letter]
        return common | {
            "kind": "translation",
            "direction": f"{other}_to_{letter}",
            "frame": json.loads(json.dumps(translator.frame(letter).state())),
            "contrasts": {"source": translator.contrasts(other), "target": translator.contrasts(letter)},
            "intensity": {
                "source": translator.intensity[other].state(),
                "target": translator.intensity[letter].state(),
            },
            "channels": {"input": method.geometry.channels[other], "output": method.geometry.channels[letter]},
            "window": list(method.geometry.size),
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
        format: "onnx", one .onnx file; or "monai", the folder of a MONAI bundle.
        out: the file or folder; it must not exist yet.
        to: the domain to make, by its name; None: the recipe's second.
        tolerance: the largest difference from PyTorch's answers that is accepted, as a share of the range; None: 0.001.
        say: where lines of text go.

    Both sides of the comparison are float32 on the CPU, on held-out images of the run. GantkError, and no file, where
    they differ by more. UserError where the method cannot be written as a network, or the input is wrong.
    """
    out = Path(out)
    tolerance = TOLERANCE if tolerance is None else tolerance
    _check(format, out, tolerance)
    translator = Translator.load(Path(run), "cpu")
    direction = Direction(translator, _letter(translator, to))
    say(f"export   {direction.name}, step {checkpoint.load_meta(translator.checkpoint)['step']}")
    if direction.probes.why:
        say(f"warning  compared on drawn images: {direction.probes.why}")
    require_steady(direction.expected, direction.probes, direction.target)
    if translator.model.post:
        names = ", ".join(part.name for part in translator.model.post)
        say(f"warning  the recipe's post-steps are no part of the file: {names}")
    if format == "monai":
        from gantk_monai.bundle import write_bundle

        return write_bundle(direction, out, tolerance, say)
    return write_onnx(direction, out, tolerance, say)


def write_onnx(direction: Direction, out: Path, tolerance: float, say: Say) -> Path:
    """One .onnx file in the most general form that exports and answers as PyTorch does."""
    names = (INPUT,) if not direction.samples else ("noise", "label")[: len(direction.probes.inputs)]
    example = tuple(torch.from_numpy(each[:2]) for each in direction.probes.inputs)
    failure: GantkError | None = None
    network = exact_norms(direction.network) if _large(direction) else direction.network
    for program in direction.programs(example, direction.sizes, network):
        try:
            model = to_onnx(program, names, direction.translator.model.data.dims)
            session = open_session(model.SerializeToString())
            parity = checked(
                lambda *x, s=session, p=program: call(s, *x, one_by_one=not p.batch),
                direction.expected,
                direction.probes,
                direction.target,
                batches=program.batch,
                larger=program.sizes.multiple if program.sizes else 0,
                tolerance=tolerance,
                what=f"the ONNX file of {direction.name}",
            )
        except (OnlyAlone, UserError) as error:  # a form with less freedom may still be right, or have operators
            failure = error
            continue
        say(f"parity   ONNX against PyTorch: {parity.line()}")
        say(f"accepts  {accepted(program)}")
        about = {"opset": OPSET, "tolerance": tolerance, "parity": parity.state(), "free": _free(program)}
        content = with_metadata(model, direction.state() | about, f"gantk: {direction.name}")
        write_file(out, content)
        say(f"written  {out} ({len(content) / 2**20:.1f} MiB)")
        return out
    raise failure or GantkError(f"{direction.name} could not be exported")


def accepted(program: Program) -> str:
    """What may be given to an exported network, in words."""
    batch = "any number of images" if program.batch else "one image at a time"
    sizes = program.sizes
    if sizes is None:
        return f"{batch}, at the size it was trained at"
    rule = f"a multiple of {sizes.multiple}" if sizes.multiple > 1 else "of any length"
    return f"{batch}, every side {rule}, at least {sizes.smallest}"


def _large(direction: Direction) -> bool:
    """Whether maps have so many positions that onnxruntime's own norms would not add them up well enough."""
    data, window = direction.translator.model.data, tuple(direction.translator.method.geometry.size)
    return np.prod(window) > LARGE or data.fit == "crop" or window != tuple(data.size)


def _free(program: Program) -> dict[str, Any]:
    sizes = program.sizes and {"multiple": program.sizes.multiple, "smallest": program.sizes.smallest}
    return {"batch": program.batch, "sizes": sizes, "limits": list(program.limits)}


def _letter(translator: Translator, to: str | None) -> str:
    method = translator.method
    if to is None and not method.directions() and method.samples:
        if not hasattr(method, "sampler"):
            what = f"the method '{translator.model.method.name}' cannot be exported: it does not offer its generator"
            raise UserError(what, remedy="make images with `gantk sample` instead")
        return "image"
    return translator.domain(to)


def _check(format: str, out: Path, tolerance: float) -> None:
    """Every mistake that can be seen before anything is loaded."""
    if format not in FORMATS:
        raise UserError(f"there is no format '{format}'", where="--format", allowed=FORMATS)
    if not tolerance > 0:
        raise UserError(f"{tolerance:g} is no tolerance", where="--tolerance", allowed="above 0, such as 0.001")
    if format == "onnx":
        require_onnx()
        if out.suffix.lower() != ".onnx":
            raise UserError(f"'{out.name}' does not end in .onnx", where="--out", remedy="name a file such as t2.onnx")
    if out.exists() and not (format == "monai" and out.is_dir() and not any(out.iterdir())):
        raise UserError(f"'{out}' exists already", where="--out", remedy="name another, or remove it first")
    if not out.absolute().parent.is_dir():
        raise UserError(f"there is no folder '{out.parent}'", where="--out", remedy="make it first")


def _without_name(identity: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in identity.items() if key != "name"}
