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
from gantk.data.dataset import Data
from gantk.errors import GantkError, UserError
from gantk.exports.network import Sampling, Translation, plain_copy
from gantk.exports.onnx_model import FORMAT
from gantk.inference.pipeline import OTHER
from gantk.inference.translator import Translator
from gantk.plugin.loader import registry
from gantk.runs import checkpoint

IMAGES = {2: 4, 3: 2}  # real images that are compared, by dimensions
SPLITS = {"held-out": "test", "validation": "validation", "training": "train"}  # that they are of: the first with any
TOLERANCE = 1e-3  # of the range; float32 on both sides usually differs by a thousandth of that
Say = Callable[[str], None]
Network = Callable[..., np.ndarray]  # (N, ...) float32 -> (N, D, *size) float32


@dataclass(frozen=True)
class Probes:
    """What a file and PyTorch are compared on."""

    inputs: tuple[np.ndarray, ...]  # N > 1: (N, C, *size) in network intensities; or noise (N, latent), labels (N,)
    what: str  # in words
    why: str = ""  # they are no real images, where they are not; may name files

    def part(self, places: slice, larger: int = 0) -> tuple[np.ndarray, ...]:
        """Some of them, with the borders of images repeated until axis k is (k + 1) times `larger` pixels longer."""
        widths = [(0, 0), (0, 0), *[(0, larger * (k + 1)) for k in range(self.inputs[0].ndim - 2)]]
        return tuple(np.pad(each[places], widths, mode="edge") if larger else each[places] for each in self.inputs)


@dataclass(frozen=True)
class Parity:
    """The largest and the mean absolute difference, as shares of the range, and what they were measured on."""

    largest: float
    mean: float
    native_largest: float  # after the way back to native intensities, as a share of their range there
    native_mean: float
    on: str
    batches: list[int]
    sizes: list[list[int]]  # sides of the images, of all that were tried

    def line(self) -> str:
        """What was found, for a person."""
        sizes = " and ".join(" x ".join(map(str, size)) for size in self.sizes)
        return (
            f"largest difference {self.largest:.1e} of the range, mean {self.mean:.1e}; in native intensities "
            f"{self.native_largest:.1e} and {self.native_mean:.1e}, on {self.on}, batches of "
            f"{', '.join(map(str, self.batches))}" + (f", {sizes}" if sizes else "")
        )


@dataclass
class Direction:
    """One direction of a trained model, or its images from noise, with all that an exporter asks of it."""

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
        return _noise(method) if self.samples else real_images(self.translator, self.letter)

    def expected(self, *inputs: np.ndarray) -> np.ndarray:
        """PyTorch's answer."""
        with torch.no_grad():
            return self.network(*map(torch.from_numpy, inputs)).numpy()

    def checked(self, found: Network, what: str, tolerance: float, *, batches: bool = True, larger: int = 0) -> Parity:
        """The difference of a file's network from PyTorch's; GantkError where it is above the tolerance."""
        parity = compare(found, self.expected, self.probes, self.target, batches=batches, larger=larger)
        native = 0.0 if np.isnan(parity.native_largest) else parity.native_largest
        if parity.largest <= tolerance and native <= tolerance:
            return parity
        raise GantkError(
            f"the {what} of {self.name} does not answer as PyTorch does: {parity.line()}. The tolerance is "
            f"{tolerance:g} of the range. No file was written."
        )

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


def compare(
    found: Network, expected: Network, probes: Probes, target: Any, *, batches: bool = True, larger: int = 0
) -> Parity:
    """Both networks on every probe, one by one, in batches and on larger images.

    `target` is the intensity mapping of what comes out; `batches` says whether `found` takes more than one image at a
    time, `larger` by how many pixels sides may grow (0: they may not).
    """
    count = len(probes.inputs[0])
    numbers = sorted({1, min(3, count), count} if batches else {1})
    calls = [probes.part(slice(first, first + n)) for n in numbers for first in range(0, count - n + 1, n)]
    calls += [probes.part(slice(0, 1), larger)] if larger else []
    rows = np.array([_differences(found(*call), expected(*call), target) for call in calls])
    largest, mean = rows.max(axis=0), rows.mean(axis=0)
    sizes = sorted({call[0].shape[2:] for call in calls} - {()})
    shares = (float(largest[0]), float(mean[1]), float(largest[2]), float(mean[3]))
    return Parity(*shares, probes.what, numbers, [list(size) for size in sizes])


def _differences(found: np.ndarray, expected: np.ndarray, target: Any) -> tuple[float, float, float, float]:
    """Largest and mean absolute difference as shares of the range: in network and in native intensities."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return (np.inf,) * 4
    low, high = target.range
    flat = np.ones((1, found.shape[1], *[1] * (found.ndim - 2)))
    span = np.abs(np.asarray(target.inverse(flat * high)) - target.inverse(flat * low))
    native = (np.asarray(target.inverse(each.astype(np.float64))) for each in (found, expected))
    apart = [np.abs(found.astype(np.float64) - expected) / (high - low), np.abs(np.subtract(*native)) / span]
    return tuple(float(share) for each in apart for share in (each.max(), each.mean()))


def require_steady(network: Network, probes: Probes, target: Any) -> None:
    """UserError where a network draws random numbers in use, or mixes the images of a batch: no file can do that."""
    first, again = network(*probes.inputs), network(*probes.inputs)
    if not np.isfinite(first).all():
        raise UserError("the network answers with values that are not finite: its training has diverged")
    if not np.array_equal(first, again):
        share = _differences(first, again, target)[0]
        what = f"two translations of one image differ by up to {share:.1e} of the range"
        raise UserError(
            f"{what}: the method draws random numbers",
            remedy="export a run that does not (pix2pix: method.test_dropout = false)",
        )
    singles = np.concatenate([network(*probes.part(slice(n, n + 1))) for n in range(len(first))])
    share = _differences(first, singles, target)[0]
    if not share <= TOLERANCE:
        what = f"an image alone and in a batch gives answers that differ by {share:.1e} of the range"
        raise UserError(what, remedy="a layer stays in training mode in use: mend the method's eval()")


def real_images(translator: Translator, letter: str) -> Probes:
    """Images of the domain that is translated to `letter`, as the network sees them: held-out ones where there are any.

    Training images where nothing is held out, and noise where the run's data are not to be had here: the words say
    which.
    """
    other, model, method = OTHER[letter], translator.model, translator.method
    window, count = tuple(method.geometry.size), IMAGES[model.data.dims]
    shape = (method.geometry.channels[other], *window)
    try:
        data = Data.load(model.data, type(method))
        data.intensity.update(translator.intensity)
        shown = {kind: [r for r in data.splits[split] if r.domain == other] for kind, split in SPLITS.items()}
        kind, records = next((each for each in shown.items() if each[1]), ("", []))
        chosen = records[:: max(1, len(records) // count)][:count]
        images = [_middle(data.image(record).numpy(), window) for record in chosen]
        if images and all(image.shape == shape for image in images):
            what = f"{len(images)} {kind} image{'s' * (len(images) > 1)} of {translator.frame(letter).source}"
            if len(images) == 1:  # batches have to be tried too
                images, what = [*images, np.flip(images[0], -1)], f"{what} and its mirror image"
            return Probes((np.stack(images),), what)
        why = "the run's data have changed"
    except (UserError, OSError) as error:
        why = str(error)
    drawn = np.random.default_rng(0).uniform(*method.geometry.range, (count, *shape)).astype(np.float32)
    return Probes((drawn,), f"{count} drawn images, not real ones", why)


def _middle(image: np.ndarray, window: tuple[int, ...]) -> np.ndarray:
    """(C, *window): the middle of an image, where windows are smaller."""
    starts = [(side - part) // 2 for side, part in zip(image.shape[1:], window, strict=True)]
    return image[(slice(None), *(slice(at, at + part) for at, part in zip(starts, window, strict=True)))]


def _noise(method: Any) -> Probes:
    """Normal noise, and classes in turn where the method knows any."""
    drawn = np.random.default_rng(0).standard_normal((4, method.latent)).astype(np.float32)
    classes = len(method.geometry.classes) if method.conditional else 0
    labels = (np.arange(4, dtype=np.int64) % classes,) if classes else ()
    return Probes((drawn, *labels), "4 vectors of normal noise")
